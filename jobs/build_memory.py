"""Build the neighbor memory of a preset: the training points with their features, unless it is there already.

python jobs/build_memory.py mnist
"""

from otad_ray.jobs.build_memory import run_memory_build
from otad_ray.jobs.cli import main
from otad_ray.options import JobConfig

if __name__ == "__main__":
    main(JobConfig, run_memory_build, description=__doc__ or "")
