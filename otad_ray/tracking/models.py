"""A whole defense as an MLflow model, without pickle: its files, and the code that reads them."""

import json
import os
import shutil
import tempfile
import warnings
from dataclasses import dataclass
from functools import partial
from importlib.metadata import version
from pathlib import Path

import numpy as np

import otad_ray
from otad_ray.artifacts import is_temporary, write_json
from otad_ray.defenses.base import DESCRIPTION, NETWORK_FOLDERS
from otad_ray.tracking.pending import PendingRun
from otad_ray.tracking.records import RunRecord
from otad_ray.tracking.runs import RESULT, log_run
from otad_ray.tracking.store import Store, client_environment, open_store

_CODE = Path(__file__).with_name("model_code.py")
# What `load_defense` imports of this package, and of others.
_LAYERS = (
    *("__init__.py", "artifacts.py", "cip", "defenses", "errors.py", "locations.py", "locks.py", "machine.py"),
    *("memory", "models", "permissions.py", "process_state.py", "stages.py", "user_imports.py", "user_module.py"),
)
_REQUIREMENTS = ("mlflow", "numpy", "pyarrow", "safetensors", "torch")
_DEFENSE, _MEMORY = "defense", "memory"
_MODEL = "otad.model"
_UPLOAD_REQUEST_SECONDS = 120


@dataclass(frozen=True)
class LoggedModel:
    """A defense in MLflow. uri: what `mlflow.pyfunc.load_model` takes. version: in the registry, if it is there."""

    uri: str
    run_id: str
    version: int | None


def log_defense(
    directory: Path,
    example: np.ndarray,
    record: RunRecord,
    *,
    num_outputs: int,
    tracking_uri: str,
    root: Path,
    registered_name: str | None = None,
) -> LoggedModel:
    """Log the saved defense in `directory` as a model of a run of its own, unless it is there already.

    example (B, *shape), float32, B >= 2: inputs that the model shows, and whose shape it takes. num_outputs: C, of its
    logits (B, C). The files are linked below `root`, and copied once, into MLflow. Raises StoreError where the store
    does not take it.
    """
    pending = PendingRun.of(record, root)
    with tempfile.TemporaryDirectory(dir=root, prefix=".model-") as scratch:
        path = _write_model(directory, example, num_outputs, Path(scratch))
        with open_store(tracking_uri, request_seconds=_UPLOAD_REQUEST_SECONDS) as store:
            run_id = log_run(store, pending, partial(_attach, store, pending, path)).run_id
            uri = store.ask(store.client.get_run, run_id).data.tags[_MODEL]
            number = None if registered_name is None else _register(store, registered_name, uri, run_id)
    return LoggedModel(uri, run_id, number)


def _attach(store: Store, pending: PendingRun, path: Path, experiment: str, run_id: str) -> dict[str, str]:
    from mlflow.entities import LoggedModelOutput
    from mlflow.models import Model

    ask, client, record = store.ask, store.client, pending.record
    condition = f"tags.`{RESULT}` = '{pending.result_id}'"
    for undone in ask(client.search_logged_models, [experiment], filter_string=condition):
        ask(client.delete_logged_model, undone.model_id)
    model = ask(
        client.create_logged_model,
        experiment,
        name=record.params[_DEFENSE],
        source_run_id=run_id,
        tags={RESULT: pending.result_id, **record.tags},
        params=dict(record.params),
        model_type=_DEFENSE,
    )
    size = sum(file.stat().st_size for file in path.rglob("*") if file.is_file())
    description = Model.load(str(path))
    description.run_id, description.artifact_path = run_id, model.artifact_location
    description.model_id = description.model_uuid = model.model_id
    description.model_size_bytes = size
    description.save(str(path / "MLmodel"))
    ask(client.log_outputs, run_id, [LoggedModelOutput(model.model_id, step=0)])
    ask(client.log_model_artifacts, model.model_id, str(path), size=size)
    ask(client.finalize_logged_model, model.model_id, "READY")
    return {_MODEL: f"models:/{model.model_id}"}


def _write_model(directory: Path, example: np.ndarray, num_outputs: int, scratch: Path) -> Path:
    """The model as MLflow lays it out, in `scratch`; the memory's files are links."""
    description = json.loads((directory / DESCRIPTION).read_text())
    defense, code, path = (scratch / name for name in (_DEFENSE, otad_ray.__name__, "model"))
    for folder in (*NETWORK_FOLDERS, *description.get("networks", ())):
        if folder in description:
            _link_files(directory / description[folder], defense / description[folder])
    memory = (directory / description[_MEMORY]).resolve() if _MEMORY in description else None
    write_json(defense / DESCRIPTION, description if memory is None else {**description, _MEMORY: _MEMORY})
    _copy_layers(code)
    with warnings.catch_warnings():
        # MLflow warns of type hints: of its own, and that a signature could be inferred from ours.
        warnings.simplefilter("ignore")
        _save_model(path, defense, code, example, num_outputs)
    if memory is not None:
        # After MLflow's own copying: it may be large.
        _link_files(memory, path / "artifacts" / _DEFENSE / _MEMORY)
    for cache in path.rglob("__pycache__"):
        shutil.rmtree(cache)
    return path


def _save_model(path: Path, defense: Path, code: Path, example: np.ndarray, num_outputs: int) -> None:
    single = np.dtype(np.float32)
    with client_environment():
        from mlflow.models import ModelSignature
        from mlflow.pyfunc import save_model
        from mlflow.types import Schema, TensorSpec

        inputs, logits = TensorSpec(single, (-1, *example.shape[1:])), TensorSpec(single, (-1, num_outputs))
        save_model(
            path,
            python_model=str(_CODE),
            artifacts={_DEFENSE: str(defense)},
            code_paths=[str(code)],
            signature=ModelSignature(Schema([inputs]), Schema([logits])),
            input_example=example,
            pip_requirements=[f"{name}=={version(name).partition('+')[0]}" for name in _REQUIREMENTS],
        )


def _link_files(source: Path, target: Path) -> None:
    """Hard links where both are on one file system, else copies."""
    target.mkdir(parents=True)
    for file in source.iterdir():
        if is_temporary(file):
            continue
        try:
            os.link(file, target / file.name)
        except OSError:
            shutil.copyfile(file, target / file.name)


def _copy_layers(target: Path) -> None:
    source = Path(otad_ray.__file__).parent
    target.mkdir()
    for name in _LAYERS:
        if (source / name).is_dir():
            shutil.copytree(source / name, target / name, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copyfile(source / name, target / name)


def _register(store: Store, name: str, uri: str, run_id: str) -> int:
    """The version of the model under a name of the registry; made unless it is there."""
    from mlflow import MlflowException

    ask, client = store.ask, store.client
    try:
        ask(client.create_registered_model, name)
    except MlflowException as error:
        if error.error_code != "RESOURCE_ALREADY_EXISTS":
            raise
    for found in ask(client.search_model_versions, f"name = '{name}'"):
        if found.run_id == run_id:
            return int(found.version)
    model_id = uri.rpartition("/")[2]
    # By its place: MLflow would look a `models:/` address up in the process's own default store.
    source = ask(client.get_logged_model, model_id).artifact_location
    return int(ask(client.create_model_version, name, source, run_id=run_id, model_id=model_id).version)
