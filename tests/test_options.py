"""Options that jobs share: what they ask a pool for, and what does not go together."""

from pathlib import Path

import pytest

from helpers.digits_jobs import label_config, quick_preset
from otad_ray.errors import InputError
from otad_ray.jobs.nightly_sweep import NightlyConfig
from otad_ray.options import TrainJobConfig, resolve_capacity_wait


def test_capacity_wait_comes_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    assert resolve_capacity_wait(None) == 0
    monkeypatch.setenv("OTAD_CAPACITY_WAIT", "90")
    assert resolve_capacity_wait(None) == label_config(Path("x")).pool.wait == 90
    assert resolve_capacity_wait(5) == 5
    for value in ("soon", "-1", "nan", "inf"):
        monkeypatch.setenv("OTAD_CAPACITY_WAIT", value)
        with pytest.raises(InputError, match=r"OTAD_CAPACITY_WAIT must be|need capacity_wait >= 0"):
            TrainJobConfig(preset=quick_preset())


@pytest.mark.parametrize(
    ("option", "value", "named"),
    [
        ("address", "127.0.0.1:6379", "--address 127.0.0.1:6379"),
        ("num_actors", 2, "--num-actors 2"),
        ("capacity_wait", 5.0, "--capacity-wait 5.0"),
        ("mosek_tokens", 1, "--mosek-tokens 1"),
    ],
)
def test_local_refuses_options_of_a_cluster(option: str, value: object, named: str) -> None:
    with pytest.raises(InputError, match=f"--local computes in this process, where {named} means nothing"):
        label_config(Path("x"), **{option: value})


def test_local_training_refuses_several_workers() -> None:
    with pytest.raises(InputError, match="where --num-workers 2 means nothing; leave out --local, or these options"):
        TrainJobConfig(preset=quick_preset(), local=True, num_workers=2)
    assert TrainJobConfig(preset=quick_preset(), local=True).workers.local


def test_local_night_refuses_a_cluster() -> None:
    with pytest.raises(InputError, match=r"where --address 127\.0\.0\.1:6379 means nothing"):
        NightlyConfig(local=True, address="127.0.0.1:6379")
