"""The command that describes a data set."""

import json
import subprocess
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from helpers.digits_jobs import job_command
from otad_ray.errors import InputError
from otad_ray.jobs.describe import DescribeConfig, run_describe


def test_a_folder_is_described(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    table = pa.table({"a": np.arange(20.0) // 2, "word": ["w"] * 20, "kind": np.arange(20) % 2})
    pq.write_table(table, tmp_path / "a.parquet")
    result = json.loads(json.dumps(run_describe(DescribeConfig(data_set=str(tmp_path), label_column="kind"))))
    assert result["rows"] == {"train": 16, "validation": 1, "test": 4}
    assert result["left_out"] == ["word (string)"]
    assert result["repeated_rows"] == 10
    said = capsys.readouterr()
    assert "WARNING   10 rows repeat the sample of an earlier row" in said.err
    assert said.out == ""


def test_a_broken_folder_ends_with_the_reason(tmp_path: Path) -> None:
    (tmp_path / "a.parquet").write_bytes(b"PAR1")
    with pytest.raises(InputError, match=r"a\.parquet is no readable Parquet file"):
        run_describe(DescribeConfig(data_set=str(tmp_path)))


def test_the_script_prints_its_summary_last(tmp_path: Path) -> None:
    done = subprocess.run(
        job_command("describe.py", "--data-set", "digits"), capture_output=True, text=True, timeout=120, check=True
    )
    assert json.loads(done.stdout)["rows"]["test"] == 360
    assert "data set digits at scikit-learn" in done.stderr
