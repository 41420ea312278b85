"""Presets trained, attacked and certified afresh, and held against the last good night; exits with 2 on a regression.

python jobs/nightly_sweep.py
python jobs/nightly_sweep.py --presets digits --samples 100
"""

from otad_ray.jobs.cli import check_main
from otad_ray.jobs.nightly_sweep import NightlyConfig, run_nightly

if __name__ == "__main__":
    check_main(NightlyConfig, run_nightly, description=__doc__ or "", failed=lambda result: bool(result["regressions"]))
