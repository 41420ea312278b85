"""Build the neighbor memory of a preset: the training points with their features, unless it is there already.

python jobs/build_memory.py mnist
"""

from typing import Any

from otad_ray.options import JobConfig
from otad_ray.recipes.memory import ensure_memory
from otad_ray.recipes.workspace import Workspace


def run_memory_build(config: JobConfig) -> dict[str, Any]:
    """Build a preset's memory, and return the job's summary."""
    memory = ensure_memory(Workspace(config))
    return {"memory": str(memory.directory), "rows": len(memory), "dimension": memory.features.shape[1]}
