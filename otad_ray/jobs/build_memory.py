"""Build the neighbor memory of a preset: the training points with their features, unless it is there already.

python jobs/build_memory.py mnist
"""

from otad_ray.options import JobConfig
from otad_ray.recipes.memory import run_memory_build

__all__ = ["JobConfig", "run_memory_build"]
