"""What the chaos suite prints when it ends: a line for every fault and job."""

from collections.abc import Sequence
from dataclasses import asdict, astuple, dataclass
from typing import Any, Self

PROPERTY = "chaos"
_HEAD = ("fault", "job", "times", "rows", "lost", "doubled", "wrong", "temporaries", "orphans", "seconds")


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """What is left after a fault, `times` of it, and a rerun.

    rows: how many there should be. lost, doubled, wrong: of them; wrong ones differ from an undisturbed run's.
    temporaries: files of unfinished writes. orphans: processes that outlived the job. seconds: of everything.
    """

    fault: str
    job: str
    times: int
    rows: int
    lost: int
    doubled: int
    wrong: int
    temporaries: int
    orphans: int
    seconds: float

    def as_property(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def of_reports(cls, reports: Sequence[Any]) -> list[Self]:
        """Those that tests recorded, through whatever process they came."""
        properties = (item for report in reports for item in getattr(report, "user_properties", ()))
        return [cls(**value) for name, value in properties if name == PROPERTY]


def table(outcomes: Sequence[Outcome]) -> list[str]:
    """Lines of the table, its head first: one for each fault and job, however many tests it took."""
    groups: dict[tuple[str, str], list[Outcome]] = {}
    for outcome in outcomes:
        groups.setdefault((outcome.fault, outcome.job), []).append(outcome)
    cells = [_HEAD, *((*names, *_sums(group)) for names, group in groups.items())]
    widths = [max(len(row[place]) for row in cells) for place in range(len(_HEAD))]
    return ["  ".join(_aligned(row, widths)) for row in cells]


def _sums(group: Sequence[Outcome]) -> list[str]:
    *numbers, seconds = (sum(values) for values in zip(*(astuple(outcome)[2:] for outcome in group), strict=True))
    return [*map(str, numbers), f"{seconds:.1f}"]


def _aligned(row: Sequence[str], widths: Sequence[int]) -> list[str]:
    """Words to the left, numbers to the right."""
    return [
        text.ljust(width) if place < 2 else text.rjust(width)
        for place, (text, width) in enumerate(zip(row, widths, strict=True))
    ]
