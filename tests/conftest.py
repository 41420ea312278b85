"""Every test runs on one thread, away from the user's storage, data and tracking server."""

import pytest
import torch

torch.set_num_threads(1)


@pytest.fixture(autouse=True)
def _isolated(monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory) -> None:
    for name in ("OTAD_DATA", "MLFLOW_TRACKING_URI", "RAY_ADDRESS"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("OTAD_STORAGE", str(tmp_path_factory.mktemp("storage")))
    monkeypatch.setenv("MLFLOW_DISABLE_TELEMETRY", "true")
