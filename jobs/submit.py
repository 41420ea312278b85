"""Submit any of the jobs beside this file to a Ray cluster, follow it, and end with its driver's exit code.

python jobs/submit.py label_qcp mnist --num-actors 16
python jobs/submit.py --no-wait nightly_sweep
"""

from pathlib import Path

from otad_ray.cluster.job_client import main

if __name__ == "__main__":
    raise SystemExit(main(repository=Path(__file__).resolve().parents[1], description=__doc__ or ""))
