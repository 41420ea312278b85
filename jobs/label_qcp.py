"""Label every training row with the solution of its convex integration problem, for CIP-net.

python jobs/label_qcp.py                      # digits
python jobs/label_qcp.py mnist --neighbors 5
ray job submit --working-dir . -- python jobs/label_qcp.py mnist
"""

from otad_ray.jobs.cli import main
from otad_ray.jobs.label_qcp import LabelJobConfig, run_label_job

if __name__ == "__main__":
    main(LabelJobConfig, run_label_job, description=__doc__ or "")
