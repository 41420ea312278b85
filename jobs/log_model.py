"""Log a defense of a preset, with its backbone and memory, as an MLflow model that loads without pickle.

python jobs/log_model.py                      # OTAD on digits
python jobs/log_model.py mnist --defense knn --register mnist-knn
"""

from otad_ray.jobs.cli import main
from otad_ray.jobs.log_model import LogModelConfig, run_log_model

if __name__ == "__main__":
    main(LogModelConfig, run_log_model, description=__doc__ or "")
