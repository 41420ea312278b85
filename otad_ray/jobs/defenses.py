"""List the defenses: where each was published, where its settings are from, and what was changed.

otad defenses
otad defenses pgd_at
"""

import sys
import textwrap
from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from otad_ray.recipes.baselines.entry import BaselineEntry

_WIDTH = 110
_INDENT = 18


def main(arguments: Sequence[str], *, prog: str) -> int:
    """Print the defenses, or those named on the command line; return the exit code.

    Args:
        arguments: names of defenses; none for all.
        prog: how messages call the program.
    """
    from otad_ray.recipes.baselines.catalog import BASELINES
    from otad_ray.recipes.defenses import NAMES

    if any(item in ("-h", "--help") for item in arguments):
        print(f"usage: {prog} [DEFENSE ...]\n\n{__doc__}")
        return 0
    unknown = [name for name in arguments if name not in NAMES]
    if unknown:
        print(f"error: unknown defense {unknown[0]!r}; known: {', '.join(NAMES)}", file=sys.stderr)
        return 2
    print("\n\n".join(_describe(name, BASELINES.get(name)) for name in arguments or NAMES))
    return 0


def describe_own(name: str) -> str:
    """Return in a sentence or two what a defense of the preset's own parts is."""
    from otad_ray.defenses import DEFENSES

    base = name.removeprefix("plain_").removesuffix("_released")
    text = (DEFENSES[base].__doc__ or "").partition("\n")[0]
    if name.endswith("_released"):
        text += " With the cross term of the authors' code."
    if name.startswith("plain_"):
        text += " Of a net without residual connections."
    return text


def _describe(name: str, entry: "BaselineEntry | None") -> str:
    """Return what is known of a defense, a line for each fact."""
    if entry is None:
        return f"{name}\n{textwrap.indent(textwrap.fill(describe_own(name), _WIDTH - 2), '  ')}"
    facts = {"paper": entry.paper, "settings from": entry.source, "changed": entry.changes}
    if entry.training is not None:
        facts["trained by"] = f"otad train-defense {name} PRESET"
    if entry.max_samples is not None:
        facts["attacked on"] = f"at most {entry.max_samples} samples of a sweep, because it is slow"
    lines = [
        textwrap.fill(text, _WIDTH, initial_indent=f"  {what:<{_INDENT - 2}}", subsequent_indent=" " * _INDENT)
        for what, text in facts.items()
    ]
    return "\n".join([name, *lines])
