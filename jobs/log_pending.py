"""Log the results that no tracking server took at the time, as often as you like; ends with 2 where some still wait.

python jobs/log_pending.py
python jobs/log_pending.py --storage DIR --tracking-uri http://127.0.0.1:5000
"""

from otad_ray.jobs.cli import check_main
from otad_ray.jobs.log_pending import LogPendingConfig, run_log_pending

if __name__ == "__main__":
    check_main(
        LogPendingConfig, run_log_pending, description=__doc__ or "", failed=lambda result: result["pending"] > 0
    )
