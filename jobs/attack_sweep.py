"""Robust accuracy as a bracket, certified <= truth <= worst attack: many attacks and budgets on defenses, or your own.

python jobs/attack_sweep.py                                # digits
python jobs/attack_sweep.py mnist --samples 1000
python jobs/attack_sweep.py mnist --defense otad path/to/file.py:build --attacks pgd square_500 --eps 1 2
"""

from otad_ray.jobs.attack_sweep import run_attack_sweep
from otad_ray.jobs.cli import main
from otad_ray.sweep.config import SweepConfig

if __name__ == "__main__":
    main(SweepConfig, run_attack_sweep, description=__doc__ or "")
