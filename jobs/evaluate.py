"""Standard accuracy (or MSE) of net, KNN and OTAD (both cross terms), relative error RE, and transport diagnostics.

python jobs/evaluate.py                       # digits
python jobs/evaluate.py mnist --regularity.smoothness 3
python jobs/evaluate.py digits_vit --otad-nn  # OTAD-T, and OTAD-T-NN beside it
"""

from otad_ray.jobs.cli import main
from otad_ray.jobs.evaluate import EvaluateConfig, run_evaluation

if __name__ == "__main__":
    main(EvaluateConfig, run_evaluation, description=__doc__ or "")
