"""Describe a data set: splits, columns read and left out, memory, and rows that repeat. Nothing is computed.

python jobs/describe.py --data-set ~/images
"""

from otad_ray.jobs.cli import options_main
from otad_ray.jobs.describe import DescribeConfig, run_describe

if __name__ == "__main__":
    options_main(DescribeConfig, run_describe, description=__doc__ or "")
