"""The code of a logged defense: MLflow runs this file where the model is loaded, and imports it nowhere else."""

from typing import Any

import numpy as np
import torch
from mlflow.models import set_model
from mlflow.pyfunc.model import PythonModel

from otad_ray.defenses import load_defense


class LoggedDefense(PythonModel):
    """Inputs (B, *shape), in the data set's bounds, to logits (B, C)."""

    def load_context(self, context: Any) -> None:
        self._defense = load_defense(context.artifacts["defense"])

    def predict(self, context: Any, model_input: np.ndarray, params: dict[str, Any] | None = None) -> np.ndarray:
        """Logits of float32 inputs."""
        with torch.no_grad():
            # Copied: what a server decodes may be read-only.
            return self._defense(torch.tensor(model_input, dtype=torch.float32)).numpy()


set_model(LoggedDefense())
