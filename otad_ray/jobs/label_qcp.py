"""Label every training row with the solution of its convex integration problem, for CIP-net.

python jobs/label_qcp.py                      # digits
python jobs/label_qcp.py mnist --neighbors 5
ray job submit --working-dir . -- python jobs/label_qcp.py mnist
"""

from otad_ray.recipes.labels import LabelJobConfig, run_label_job

__all__ = ["LabelJobConfig", "run_label_job"]
