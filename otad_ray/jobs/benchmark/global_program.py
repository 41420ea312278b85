"""The benchmark's part on the potential over all training points: its program, and its compressed form."""

from collections.abc import Iterator
from dataclasses import replace

import numpy as np
import torch

from otad_ray.benchmarks import (
    Measurement,
    measure_compression,
    measure_global_clarabel,
    measure_global_pot,
    threads,
)
from otad_ray.cip import Pieces
from otad_ray.defenses import OTADGlobal
from otad_ray.machine import num_cores
from otad_ray.memory.potential import lift_points
from otad_ray.options import ActorJobConfig
from otad_ray.recipes.defenses import find_defenses
from otad_ray.recipes.memory import ensure_memory
from otad_ray.recipes.workspace import Workspace

_SAMPLES = 1024
# All pieces of Clarabel's and of POT's program, and of the compressed form.
_CLARABEL_PIECES, _POT_PIECES, _COMPRESSED_PIECES = 500, 20, 3000
# Of small memories the compressed form has a quarter.
_COMPRESSED_SHARE = 4
# As ratios of which more is better.
_GOAL = 100.0


def measure_global_program(config: ActorJobConfig, workspace: Workspace) -> Iterator[Measurement]:
    """Measure the program over the same few pieces by Clarabel, POT and cutting planes; then the compressed form."""
    memory, smoothness = ensure_memory(workspace), config.preset.potential.smoothness
    count = min(_COMPRESSED_PIECES, len(memory) // _COMPRESSED_SHARE)
    whole, compressed = (_compress(workspace, number) for number in (None, count))
    small, large = (find_defenses(item, ("otad_global",))["otad_global"].open() for item in (compressed, whole))
    assert isinstance(large, OTADGlobal)
    pieces, rows = large.pieces, workspace.rows("test")
    inputs = rows.take(np.arange(min(_SAMPLES, len(rows)))).x
    with torch.no_grad():
        queries = large.find_points(inputs)
    with threads(1):
        chosen = _choose_rows(len(pieces), _CLARABEL_PIECES)
        yield measure_global_clarabel(queries, _take(pieces, chosen), smoothness, goal=_GOAL)
        chosen = _choose_rows(len(pieces), _POT_PIECES)
        points = lift_points(memory, memory.points[chosen])
        yield from measure_global_pot(queries, points, _take(pieces, chosen), smoothness, goal=_GOAL)
    note = f"{count} pieces against {len(pieces)}"
    for num_threads in sorted({1, num_cores()}):
        yield measure_compression(small, large, inputs, num_threads=num_threads, note=note)


def _compress(workspace: Workspace, pieces: int | None) -> Workspace:
    """Return the workspace of the preset with so many pieces, whose offsets are those of the least squares."""
    preset = workspace.preset
    potential = replace(preset.potential, pieces=pieces)
    return workspace.vary(replace(preset, potential=potential, offset_training=replace(preset.offset_training, rows=0)))


def _choose_rows(count: int, wanted: int) -> torch.Tensor:
    """Return positions (wanted,) of as many rows, spread over all."""
    return torch.linspace(0, count - 1, min(wanted, count)).long()


def _take(pieces: Pieces, chosen: torch.Tensor) -> Pieces:
    return Pieces(pieces.features[chosen], pieces.offsets[chosen])
