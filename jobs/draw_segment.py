"""Run the job of `otad_ray.jobs.draw_segment` on the command line; --help lists its options."""

from otad_ray.jobs.cli import run_job

if __name__ == "__main__":
    run_job("draw_segment")
