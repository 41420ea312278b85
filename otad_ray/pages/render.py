"""Pages as HTML: one file that needs no other and asks for nothing."""

from collections.abc import Mapping
from functools import cache
from importlib.util import find_spec
from itertools import count
from pathlib import Path
from types import MappingProxyType

from jinja2 import Environment, PackageLoader, StrictUndefined

from otad_ray.artifacts import atomic_file, replace_non_finite, to_jsonable
from otad_ray.pages.layout import Page
from otad_ray.pages.pictures import embed_pictures

# The name of every page that a job ends with.
REPORT = "report.html"
_MAX_LENGTH = 5_900_000


def has_plotly() -> bool:
    """Return whether interactive figures can be drawn; they need the extra `otad_ray[report]`."""
    return find_spec("plotly") is not None


def write_page(path: Path, page: Page) -> None:
    """Write a page as one HTML file of less than 6 MB, whole or not at all.

    Args:
        path: the file. Pictures of the page lie in its folder.
        page: what the file shows.
    """
    pictures = [picture for section in page.sections for picture in section.pictures]
    room = _MAX_LENGTH - len(render_page(page).encode())
    text = render_page(page, embed_pictures(pictures, path.parent, room))
    with atomic_file(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def render_page(page: Page, addresses: Mapping[str, str] = MappingProxyType({})) -> str:
    """Return a page as HTML. Every text in it is escaped; plotly is inlined once if there is a figure for it.

    Args:
        page: what is shown.
        addresses: the pictures that are shown, by file. The page names the files of the others.
    """
    plots = [plot for section in page.sections for plot in section.plots]
    return (
        _environment()
        .get_template("page.html")
        .render(
            page=page,
            addresses=addresses,
            numbers=replace_non_finite(to_jsonable(page.numbers)),
            plots=[{"traces": plot.traces, "layout": plot.layout} for plot in plots],
            plotly=_read_plotly() if plots else None,
            numbering=count(),
        )
    )


@cache
def _environment() -> Environment:
    made = Environment(
        loader=PackageLoader("otad_ray.pages"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    made.globals["next"] = next
    return made


def _read_plotly() -> str:
    """Return plotly's program; nothing in it may end the tag that it is written into."""
    from plotly.offline import get_plotlyjs

    return get_plotlyjs().replace("</script", "<\\/script")
