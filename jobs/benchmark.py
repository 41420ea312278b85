"""How fast: convex integration, search, the label job and its memory, as ratios measured within one run.

python jobs/benchmark.py                      # mnist
python jobs/benchmark.py digits --parts search labels
python jobs/benchmark.py cifar10_vit --parts transformer
"""

from otad_ray.jobs.benchmark import BenchmarkConfig, run_benchmark
from otad_ray.jobs.cli import main

if __name__ == "__main__":
    main(BenchmarkConfig, run_benchmark, description=__doc__ or "", default_preset="mnist")
