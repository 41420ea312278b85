"""Draw how fast a defense's feature moves between two test samples: jumps of otad, and none of otad_global.

python jobs/draw_segment.py mnist
python jobs/draw_segment.py digits --defense otad otad_global knn --from-row 3 --to-row 8
"""

import logging
from dataclasses import dataclass
from typing import Any

import numpy as np

from otad_ray.artifacts import atomic_file, write_json
from otad_ray.defenses import OTADGlobal, load_defense
from otad_ray.errors import InputError
from otad_ray.evaluation.diagnostics.segment import measure_speeds, speed_figure
from otad_ray.options import JobConfig
from otad_ray.recipes.defenses import check_names, find_defenses
from otad_ray.recipes.workspace import Workspace

logger = logging.getLogger(__name__)

_KIND = "segments"


@dataclass(frozen=True, kw_only=True)
class SegmentConfig(JobConfig):
    """Options of the figure.

    Attributes:
        defense: those that are drawn, in this order.
        from_row: position of the first sample in the test part.
        to_row: position of the last sample.
        steps: steps from the one to the other.
    """

    defense: tuple[str, ...] = ("otad", "otad_global")
    from_row: int = 0
    to_row: int = 1
    steps: int = 2000

    def __post_init__(self) -> None:
        check_names(self.defense)
        if self.steps < 1:
            raise InputError(f"need steps >= 1, got {self.steps}")


def run_segment(config: SegmentConfig) -> dict[str, Any]:
    """Draw the figure, and return the job's summary: the largest and the mean speed of each defense."""
    workspace = Workspace(config)
    rows = workspace.rows("test")
    for name in ("from_row", "to_row"):
        if not 0 <= getattr(config, name) < len(rows):
            raise InputError(f"{name} must be 0 to {len(rows) - 1}, a test row, got {getattr(config, name)}")
    start, end = (rows.take(np.array([row])).x[0] for row in (config.from_row, config.to_row))
    sources = find_defenses(workspace, config.defense)
    defenses = {name: load_defense(source.location, search=source.search) for name, source in sources.items()}
    speeds = {name: measure_speeds(defense, start, end, config.steps) for name, defense in defenses.items()}
    smoothness = next((item.smoothness for item in defenses.values() if isinstance(item, OTADGlobal)), None)
    identity = {
        "defenses": {name: source.fingerprint for name, source in sources.items()},
        "rows": [config.from_row, config.to_row],
        "steps": config.steps,
    }
    directory = workspace.directory(_KIND, identity)
    directory.mkdir(parents=True, exist_ok=True)
    title = f"{workspace.preset.name}: from test row {config.from_row} to {config.to_row} in {config.steps} steps"
    figure = speed_figure(speeds, smoothness=smoothness, title=title)
    with atomic_file(directory / "speeds.png") as temporary:
        figure.savefig(temporary, dpi=150, format="png")
    summary = {
        "figure": str(directory / "speeds.png"),
        "largest_speed": {name: float(values.max()) for name, values in speeds.items()},
        "mean_speed": {name: float(values.mean()) for name, values in speeds.items()},
    }
    write_json(directory / "speeds.json", {**identity, **summary})
    logger.info("figure: %s", directory / "speeds.png")
    return summary
