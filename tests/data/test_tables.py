"""Wine: the two fixed splits, the scaling, and files that cannot be trusted."""

import hashlib
from functools import partial
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet as pq
import pytest
import torch

from otad_ray.data import SPLITS, data_set, load_all, open_split
from otad_ray.data.splits import grouped_split, random_split
from otad_ray.data.tables import WINE_FEATURES, fetch_wine, standardize
from otad_ray.errors import InputError


def digest(*ids: np.ndarray) -> str:
    return hashlib.sha256(b"".join(np.asarray(part, dtype=np.int64).tobytes() for part in ids)).hexdigest()[:16]


def wine(count: int = 1599, num_repeats: int = 240) -> pa.Table:
    """As many rows as the published file; the last `num_repeats` have features of earlier ones."""
    generator = np.random.default_rng(0)
    x = generator.lognormal(size=(count, len(WINE_FEATURES)))
    if num_repeats:
        x[-num_repeats:] = x[:num_repeats]
    columns = dict(zip(WINE_FEATURES, x.T, strict=True))
    return pa.table({**columns, "quality": generator.integers(3, 9, count)})


@pytest.fixture
def wine_data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("OTAD_DATA", str(tmp_path))
    folder = tmp_path / "wine_quality_red"
    folder.mkdir()
    pq.write_table(wine(), folder / "winequality-red.parquet")
    return folder


def test_the_plain_split_is_fixed_for_good() -> None:
    train, test = random_split(np.zeros((1599, 11)), np.zeros(1599), num_test=320)
    assert (len(train), len(test)) == (1279, 320)
    assert sorted([*train, *test]) == list(range(1599))
    assert digest(train, test) == "90ba7a68502c9c1a"


def test_the_grouped_split_is_fixed_for_good() -> None:
    x = np.random.default_rng(1).integers(0, 1300, (1599, 1)).astype(float)
    train, test = grouped_split(x, np.zeros(1599), num_test=320)
    assert digest(train, test) == "2fb9b116bf2c22c1"


@pytest.mark.parametrize("name", ["wine_quality_red", "wine_quality_red_grouped"])
def test_both_splits_of_wine(wine_data: Path, name: str) -> None:
    rows = {split: load_all(open_split(data_set(name), split)) for split in SPLITS}
    assert [len(rows[split].ids) for split in SPLITS] == [1279, 1152, 127, 320]
    table = pq.read_table(wine_data / "winequality-red.parquet")
    x = np.stack([table[column].to_numpy() for column in WINE_FEATURES], axis=1)
    train = rows["train"].ids.numpy()
    for batch in rows.values():
        assert batch.x.shape == (len(batch.ids), 11)
        assert batch.y.dtype == torch.float32
        np.testing.assert_array_equal(batch.y, table["quality"].to_numpy()[batch.ids])
        expected = (x[batch.ids] - x[train].mean(0)) / x[train].std(0)
        np.testing.assert_allclose(batch.x, expected, rtol=1e-5, atol=1e-6)
    assert sorted([*rows["fit"].ids.tolist(), *rows["validation"].ids.tolist()]) == sorted(train.tolist())


def test_grouped_parts_share_no_features(wine_data: Path) -> None:
    def shared(name: str, first: str, second: str) -> int:
        parts = [load_all(open_split(data_set(name), split)).x.numpy() for split in (first, second)]
        return len({row.tobytes() for row in parts[0]} & {row.tobytes() for row in parts[1]})

    for first, second in (("train", "test"), ("fit", "validation")):
        assert shared("wine_quality_red", first, second) > 0
        assert shared("wine_quality_red_grouped", first, second) == 0


def test_grouped_sizes_are_as_near_as_the_groups_allow() -> None:
    x = np.repeat(np.arange(20.0), 3)[:, None]
    train, test = grouped_split(x, np.zeros(60), num_test=10)
    assert len(test) == 9
    assert not set(x[train, 0]) & set(x[test, 0])


def test_standardized_training_rows_have_mean_0_and_deviation_1() -> None:
    x = np.random.default_rng(0).lognormal(size=(50, 3))
    train = np.arange(40)
    scaled = standardize(x, train)[train]
    np.testing.assert_allclose(scaled.mean(0), 0, atol=1e-6)
    np.testing.assert_allclose(scaled.std(0), 1, atol=1e-6)


def test_damaged_files_are_refused(wine_data: Path) -> None:
    path = wine_data / "winequality-red.parquet"
    wine_set = data_set("wine_quality_red")
    pq.write_table(wine().drop_columns(["pH"]), path)
    with pytest.raises(InputError, match="lacks column 'pH'; it has fixed acidity"):
        open_split(wine_set, "train")
    values = wine()["alcohol"].to_pylist()
    values[7] = None
    pq.write_table(wine().set_column(10, "alcohol", pa.array(values)), path)
    with pytest.raises(InputError, match="row 7 holds missing"):
        open_split(wine_set, "train")
    pq.write_table(wine(300, 0), path)
    with pytest.raises(InputError, match="300 rows, need more than 320"):
        open_split(wine_set, "train")


def test_the_published_file_becomes_the_same_table(publisher, tmp_path: Path) -> None:
    stream = pa.BufferOutputStream()
    table = wine(40, 4)
    pa.csv.write_csv(table, stream, pa.csv.WriteOptions(delimiter=";"))
    fetch = partial(fetch_wine, file=publisher.publish("winequality-red.csv", stream.getvalue().to_pybytes()))
    fetch(tmp_path)
    (path,) = tmp_path.iterdir()
    assert pq.read_table(path).equals(table)
