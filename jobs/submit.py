"""Run the command of `otad_ray.jobs.submit`: submit a job of this folder to a Ray cluster."""

import sys
from pathlib import Path

from otad_ray.jobs.submit import main

if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:], prog=sys.argv[0], repository=Path(__file__).resolve().parents[1]))
