"""Run the job of `otad_ray.jobs.report` on the command line; --help lists its options."""

from otad_ray.jobs.cli import run_job

if __name__ == "__main__":
    run_job("report")
