"""The real thing on MNIST, minutes long: OTAD_DATA=<folder with mnist/> pytest -m slow tests/test_mnist.py"""

import os
from pathlib import Path

import pytest

pytestmark = [pytest.mark.slow, pytest.mark.timeout(3600)]
DATA = os.environ.get("OTAD_DATA")


@pytest.mark.skipif(DATA is None or not Path(DATA, "mnist").is_dir(), reason="needs MNIST below OTAD_DATA")
def test_accuracy_and_labels(tmp_path: Path) -> None:
    from helpers.digits_jobs import read_labels, run_job

    storage = {"OTAD_DATA": str(DATA), "OTAD_STORAGE": str(tmp_path)}
    found = run_job("evaluate.py", "mnist", timeout=1800, **storage)
    assert found["rows"] == 10000
    assert found["accuracy_net"] >= 0.98
    assert found["accuracy_otad_theory"] >= 0.955
    assert found["accuracy_otad_released"] >= 0.955
    assert found["share_unsolved"] == 0

    labeled = run_job("label_qcp.py", "mnist", timeout=1800, **storage)
    labels = read_labels(labeled["labels"])
    assert sorted(labels["id"].to_pylist()) == list(range(60000))
    assert set(labeled["statuses"]) == {"solved", "relaxed"}
    assert labels["residual"].to_numpy().max() < 1e-12
