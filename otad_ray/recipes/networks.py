"""Networks that jobs train: where each lies, how a missing one is made, and how it is told about."""

import logging
import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from otad_ray.artifacts import (
    MANIFEST,
    atomic_directory,
    one_at_a_time,
    read_manifest,
    to_jsonable,
    versions,
    write_json,
)
from otad_ray.certification import attention_report
from otad_ray.engine.capacity import capacity_wait
from otad_ray.engine.ray_session import check_num_workers
from otad_ray.engine.training import Trainer, TrainingTask
from otad_ray.errors import InputError
from otad_ray.models import Attention
from otad_ray.options import TrainJobConfig
from otad_ray.recipes.workspace import Workspace, data_record, track_once
from otad_ray.tracking import RunRecord

logger = logging.getLogger(__name__)

# Kinds of artifacts as people call them.
_CALLED = {"backbone": "backbone", "metric": "metric net", "cip_net": "CIP-net"}


@dataclass(frozen=True, kw_only=True)
class TrainedNetwork:
    """A network of a preset, whether it is there or still to be trained.

    kind: of artifact, and its folder. job: the script that trains it. identity: what it depends on, of JSON types.
    check: InputError for input that cannot be trained on, before any work. task: its training, given where states lie.
    measure: metrics of the finished network. save: writes it into a directory. params: for its tracked run, and
    manifest: what else its manifest says.
    """

    kind: str
    job: str
    identity: Mapping[str, Any]
    check: Callable[[], None]
    task: TrainingTask
    measure: Callable[[nn.Module], Mapping[str, float]]
    save: Callable[[Path, Any], None]
    params: Mapping[str, Any]
    manifest: Mapping[str, Any]


def network_directory(workspace: Workspace, network: TrainedNetwork) -> Path:
    """Where a network lies, or will."""
    return workspace.directory(network.kind, network.identity)


def find_network(workspace: Workspace, network: TrainedNetwork) -> Path:
    """The directory of a trained network, for a memory that was built with it; InputError where there is none yet."""
    directory = network_directory(workspace, network)
    if not directory.is_dir():
        raise InputError(
            f"the {_CALLED[network.kind]} of preset {workspace.preset.name!r} is not in {directory}, so no memory can "
            "have been built with it; leave out --memory, or give the options and the storage that it was built with"
        )
    return directory


def ensure_network(workspace: Workspace, network: TrainedNetwork, trainer: Trainer) -> Path:
    """The directory of a trained network; trained first where it is missing.

    A killed training is continued, by whichever trainer: the states in `<hash>.training` beside the directory are
    those of the loop they share.
    """
    directory = network_directory(workspace, network)
    if not directory.is_dir():
        workspace.refuse_to_build(_CALLED[network.kind], directory, network.job)
        with one_at_a_time(directory.with_name(f".{directory.name}.lock")):
            # Another job may have trained it while this one waited.
            if not directory.is_dir():
                _train(network, directory, trainer)
    track_once(workspace, directory, network.kind, partial(_run_record, network=network))
    return directory


def _train(network: TrainedNetwork, directory: Path, trainer: Trainer) -> None:
    network.check()
    state = directory.with_name(f"{directory.name}.training")
    task = replace(network.task, state=state)
    logger.info("training the %s (%d rows)", _CALLED[network.kind], task.num_rows)
    try:
        trainer(task)
    except FloatingPointError as error:
        # Going on from its states would end the same way.
        shutil.rmtree(state, ignore_errors=True)
        raise InputError(f"training diverged: {error}") from error
    trained, history = task.result()
    last = history[-1].values()
    # Of the rows that were trained on; loss and energy have no other.
    shared = {name: last.pop(name) for name in ("loss", "energy") if name in last}
    metrics = shared | {f"train_{name}": value for name, value in last.items()} | dict(network.measure(trained))
    with atomic_directory(directory) as temporary:
        network.save(temporary, trained)
        manifest = {
            "kind": network.kind,
            "identity": network.identity,
            "metrics": metrics,
            "history": [{"epoch": epoch.epoch, **epoch.values()} for epoch in history],
            "rows": task.num_rows,
            **network.manifest,
            "versions": versions(),
        }
        write_json(temporary / MANIFEST, manifest)
    shutil.rmtree(state, ignore_errors=True)


def _run_record(
    workspace: Workspace, directory: Path, manifest: dict[str, Any], *, network: TrainedNetwork
) -> RunRecord:
    preset = workspace.preset
    return RunRecord(
        experiment=preset.name,
        kind=network.kind,
        name=f"{network.kind} {network.identity.get('architecture', preset.cip_net.head)}",
        job=network.job,
        result={"directory": directory},
        outcome=manifest["metrics"],
        params=to_jsonable({"data_set": preset.data_set, **network.params, **network.manifest}),
        metrics=manifest["metrics"],
        # The whole history, also of epochs before a restart, in the one run that a finished network gets.
        series={
            f"epoch_{name}": [(epoch["epoch"], epoch[name]) for epoch in manifest["history"]]
            for name in manifest["history"][0]
            if name != "epoch"
        },
        data=data_record(workspace, preset.training.rows),
        artifacts=(directory / MANIFEST,),
        tags={"otad.directory": str(directory)},
    )


def attention_metrics(network: nn.Module, *inputs: Tensor) -> dict[str, float]:
    """Theorem 1 of a network's attention blocks, on the tokens that inputs send into them; none without attention.

    attention_<k>_radius: M, the largest norm of the tokens. _theorem: the bound (21). _sharper: the proof's, before
    norms are replaced by larger ones. _lipschitz: the largest constant found at these tokens, which is below both.
    """
    if not any(isinstance(module, Attention) for module in network.modules()):
        return {}
    metrics: dict[str, float] = {}
    for number, record in enumerate(attention_report(network, *inputs), start=1):
        values = {
            "radius": record.radius,
            "theorem": record.bound.theorem,
            "sharper": record.bound.sharper,
            "lipschitz": record.largest,
        }
        shown = ", ".join(f"{name} {value:.3g}" for name, value in values.items())
        logger.info("attention %d of %s: %s", number, type(network).__name__, shown)
        metrics |= {f"attention_{number}_{name}": value for name, value in values.items()}
    return metrics


def train_job(config: TrainJobConfig, kind: str, ensure: Callable[[Workspace, Trainer], Path]) -> dict[str, Any]:
    """A training job, on Ray Train; what the last line of its output says."""
    # It takes a second to import, which every actor of every job would wait for.
    from otad_ray.engine.ray_train import train_on_ray

    waits = capacity_wait(config.capacity_wait) > 0
    check_num_workers(config.num_workers, config.address, use_gpu=config.use_gpu, waits=waits)
    directory = ensure(Workspace(config), partial(train_on_ray, config=config))
    manifest = read_manifest(directory, kind=kind)
    return {kind: str(directory), "rows": manifest["rows"], **manifest["metrics"]}
