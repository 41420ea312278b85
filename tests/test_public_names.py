"""Public names: what a package says that it exports is there."""

import importlib
import pkgutil

import pytest

import otad_ray

# Modules that are programs: the first runs when it is imported, the second is code that MLflow runs.
_PROGRAMS = ("__main__", "model_code")


def list_modules() -> list[str]:
    found = pkgutil.walk_packages(otad_ray.__path__, "otad_ray.")
    return ["otad_ray", *(module.name for module in found if module.name.rpartition(".")[2] not in _PROGRAMS)]


@pytest.mark.parametrize("name", list_modules())
def test_exported_names_resolve(name: str) -> None:
    module = importlib.import_module(name)
    missing = [item for item in getattr(module, "__all__", []) if not hasattr(module, item)]
    assert missing == []


def test_evaluation_can_be_imported_whole() -> None:
    names: dict[str, object] = {}
    exec("from otad_ray.evaluation import *", names)
    assert "evaluate_robustness" in names
