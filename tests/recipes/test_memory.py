"""Memories: built a batch at a time."""

import shutil
import weakref
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from helpers.digits_jobs import ROWS
from helpers.transformer_jobs import preset
from otad_ray.models import MetricNetConfig
from otad_ray.options import JobConfig
from otad_ray.recipes import memory as memory_recipe
from otad_ray.recipes.memory import ensure_memory
from otad_ray.recipes.workspace import Workspace


@pytest.mark.parametrize("metric", [MetricNetConfig(), None], ids=["points", "keys"])
def test_a_memory_is_built_a_batch_at_a_time(
    evaluated: dict[str, Any], storage: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, metric: Any
) -> None:
    """Whether it has keys of its own or not."""
    asked = preset() if metric is None else preset(metric=metric)
    for kind in ("backbone", "metric"):
        shutil.copytree(storage / "digits_vit" / kind, tmp_path / "digits_vit" / kind)
    embedded, alive, most = memory_recipe._embed_rows, weakref.WeakSet(), []

    def watched(*arguments: Any) -> Iterator[Any]:
        for batch in embedded(*arguments):
            alive.add(batch.features)
            most.append(len(alive))
            yield batch

    monkeypatch.setattr(memory_recipe, "_BATCH_ROWS", 50)
    monkeypatch.setattr(memory_recipe, "_embed_rows", watched)
    ensure_memory(Workspace(JobConfig(preset=asked, storage=str(tmp_path))))
    assert len(most) == -(-ROWS // 50)
    assert max(most) <= 3
