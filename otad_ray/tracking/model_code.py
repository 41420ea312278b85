"""The code of a logged defense: MLflow runs this file where the model is loaded, and imports it nowhere else."""

from typing import Any

import torch
from mlflow.models import set_model
from mlflow.pyfunc.model import PythonModel

from otad_ray.defenses import load_defense


class LoggedDefense(PythonModel):
    """Inputs (B, *shape), in the data set's bounds, to logits (B, C)."""

    def load_context(self, context: Any) -> None:
        self._defense = load_defense(context.artifacts["defense"])

    # Without type hints, which MLflow would take for the signature.
    def predict(self, context, model_input, params=None):
        """Logits of inputs of any floating type."""
        with torch.no_grad():
            # Copied: what a server decodes may be read-only.
            return self._defense(torch.tensor(model_input, dtype=torch.float32)).numpy()


set_model(LoggedDefense())
