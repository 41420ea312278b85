"""Every test runs on one thread, away from the user's storage, data and tracking server."""

import os

import pytest
import torch

torch.set_num_threads(1)
# Ray's workers are nice by default, and starve beside the tests that run at the same time.
os.environ.setdefault("RAY_worker_niceness", "0")


@pytest.fixture(autouse=True)
def _isolated(monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory) -> None:
    for name in ("OTAD_DATA", "MLFLOW_TRACKING_URI", "RAY_ADDRESS"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("OTAD_STORAGE", str(tmp_path_factory.mktemp("storage")))
    monkeypatch.setenv("MLFLOW_DISABLE_TELEMETRY", "true")
