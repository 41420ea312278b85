"""The machine that results are computed on."""

from otad_ray.machine import describe_machine


def test_the_machine_is_named() -> None:
    described = describe_machine()
    assert set(described) == {"processor", "cores", "memory", "commit"}
    assert int(described["cores"]) >= 1
    assert all(described.values())
