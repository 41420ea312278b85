"""The published data themselves: OTAD_DATA=<folder of the data sets> pytest -m slow tests/data/test_real_data.py"""

import hashlib
import os
from pathlib import Path

import numpy as np
import pytest

from otad_ray.data import SPLITS, data_set, load_all, open_split

pytestmark = pytest.mark.slow
DATA = os.environ.get("OTAD_DATA")

# Rows of train, fit, validation and test, and a digest of their ids.
EXPECTED = {
    "fashion_mnist": ((60000, 54000, 6000, 10000), "b2fba9af585a7efc"),
    "cifar10": ((50000, 45000, 5000, 10000), "cf6932e78a97b7df"),
    "tiny_imagenet_20": ((10000, 9000, 1000, 1000), "282e35110c8d910f"),
    "wine_quality_red": ((1279, 1152, 127, 320), "d9677b2f8d763922"),
    "wine_quality_red_grouped": ((1279, 1152, 127, 320), "b20c3f973b2922d2"),
    "citeseq_cbmc": ((6271, 5644, 627, 1568), "5cf4f6704a9cc751"),
}


@pytest.fixture
def real_data(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OTAD_DATA", str(DATA))


@pytest.mark.parametrize("name", EXPECTED)
def test_rows_and_splits(name: str, real_data: None) -> None:
    definition = data_set(name)
    folder = name.removesuffix("_grouped")
    if DATA is None or not Path(DATA, folder).is_dir():
        pytest.skip(f"needs {folder} below OTAD_DATA")
    digest = hashlib.sha256()
    sizes = []
    for split in SPLITS:
        rows = open_split(definition, split)
        rows.check()
        batch = load_all(rows)
        digest.update(batch.ids.numpy().tobytes())
        sizes.append(len(rows))
        assert batch.x.shape == (len(rows), *definition.shape)
        if definition.task == "classification":
            assert len(np.unique(batch.y)) == definition.num_outputs
    assert (tuple(sizes), digest.hexdigest()[:16]) == EXPECTED[name]
