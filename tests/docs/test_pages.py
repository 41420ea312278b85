"""README.md and docs/: links lead somewhere, and the jobs and options that commands name exist."""

import re
import runpy
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).parents[2]
PAGES = (REPOSITORY / "README.md", *sorted((REPOSITORY / "docs").glob("*.md")))
_JOB = re.compile(r"\bjobs/(\w+)\.py")
# A command ends with its line, its code span, a comment or another command; \ goes on. What is submitted is a command
# of its own, after the submission's options.
_COMMAND = re.compile(
    r"python jobs/(?:submit\.py\s+(?:--[\w-]+\s+)*?(?=[a-z]))?(?P<job>\w+)(?:\.py)?(?P<rest>(?:\\\n|[^\n`#&;|])*)"
)
_OPTION = re.compile(r"(?<!\S)--[a-z][\w.-]*")


def prose(page: Path) -> str:
    """Without code, in which brackets mean something else."""
    return re.sub(r"`[^`\n]*`", "", re.sub(r"^```.*?^```$", "", page.read_text(), flags=re.MULTILINE | re.DOTALL))


def anchors(page: Path) -> set[str]:
    """What `#...` may name, as GitHub makes it from headings."""
    text = re.sub(r"^```.*?^```$", "", page.read_text(), flags=re.MULTILINE | re.DOTALL)
    headings = re.findall(r"^#+ (.+)$", text, re.MULTILINE)
    # A bold word at the start of a paragraph is no target: only headings are.
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_and_images_are_there(page: Path) -> None:
    broken = []
    for link in re.findall(r"\]\(([^)\s]+)\)", prose(page)):
        if "://" in link:
            continue
        path, _, anchor = link.partition("#")
        target = page.parent / path if path else page
        if not target.exists() or (anchor and anchor not in anchors(target)):
            broken.append(link)
    assert broken == []


def test_jobs_that_pages_name_exist() -> None:
    named = {(page.name, job) for page in PAGES for job in _JOB.findall(page.read_text())}
    assert len(named) > 10
    assert [item for item in named if item[1] != "NAME" and not (REPOSITORY / "jobs" / f"{item[1]}.py").exists()] == []


def test_options_of_commands_exist(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    asked: dict[str, set[tuple[str, str]]] = {}
    for page in PAGES:
        for command in _COMMAND.finditer(page.read_text()):
            asked.setdefault(command["job"], set()).update(
                (page.name, name) for name in _OPTION.findall(command["rest"])
            )
    asked.pop("NAME")
    assert sum(map(len, asked.values())) > 20
    # Names are not to be wrapped.
    monkeypatch.setenv("COLUMNS", "200")
    unknown = []
    for job, options in asked.items():
        path = str(REPOSITORY / "jobs" / f"{job}.py")
        monkeypatch.setattr("sys.argv", [path, "--help"])
        with pytest.raises(SystemExit) as end:
            runpy.run_path(path, run_name="__main__")
        assert end.value.code == 0
        known = set(_OPTION.findall(capsys.readouterr().out.replace(",", " ").replace("|", " ")))
        unknown += [(page, job, option) for page, option in sorted(options) if option not in known]
    assert unknown == []
