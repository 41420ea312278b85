"""The state of a training that is under way, on disk: what a rerun continues from."""

import json
import logging
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from otad_ray.artifacts import atomic_file, remove_abandoned
from otad_ray.errors import InputError

logger = logging.getLogger(__name__)

# The newest, and the one before it, should the newest be damaged.
_KEPT = 2
_PATTERN = "epoch-*.safetensors"
_DAMAGE = (OSError, KeyError, TypeError, ValueError, SafetensorError)


@dataclass(frozen=True, kw_only=True)
class EpochMetrics:
    """Means over the rows of one epoch, each row under the parameters of its step.

    loss: what is minimized. Of backbones: the energy of (14), and the accuracy, a fraction, of classifiers or the mse
    of regressions. Of metric nets: active, pairs or triplets a row that the loss counts. Of CIP-nets: squared_error,
    the mean squared distance to the solver's features, (19).
    """

    epoch: int
    loss: float
    energy: float | None = None
    accuracy: float | None = None
    mse: float | None = None
    active: float | None = None
    squared_error: float | None = None

    def values(self) -> dict[str, float]:
        """The metrics there are, by name, without the epoch."""
        return {name: value for name, value in asdict(self).items() if name != "epoch" and value is not None}


@dataclass(frozen=True, kw_only=True)
class TrainingState:
    """All that the epochs still to come depend on; order and learning rate follow from the epoch.

    training: identifies what is being trained, and how. network: its parameters and buffers by name.
    optimizer: its tensors, as `<parameter's number>.<name>`. history: every epoch so far.
    """

    training: str
    network: Mapping[str, Tensor]
    optimizer: Mapping[str, Tensor]
    history: tuple[EpochMetrics, ...]

    @property
    def epoch(self) -> int:
        return len(self.history)


class TrainingStore:
    """A directory of states, a safetensors file each, with the history in the file's header.

    every: epochs between states; the last epoch's is always kept. Write from one process at a time.
    """

    def __init__(self, directory: Path, *, every: int = 1) -> None:
        if every < 1:
            raise InputError(f"need at least 1 epoch between checkpoints, got {every}")
        self.directory = Path(directory)
        self.every = every

    def save(self, state: TrainingState) -> None:
        """Write a state whole or not at all, and drop those it makes superfluous."""
        tensors = {f"network.{name}": value for name, value in state.network.items()}
        tensors |= {f"optimizer.{name}": value for name, value in state.optimizer.items()}
        tensors = {name: value.detach().cpu().contiguous() for name, value in tensors.items()}
        header = {"training": state.training, "history": [asdict(metrics) for metrics in state.history]}
        with atomic_file(self._path(state.epoch)) as temporary:
            temporary.write_bytes(save(tensors, metadata={"state": json.dumps(header)}))
        for path in self._paths()[:-_KEPT]:
            path.unlink(missing_ok=True)

    def load(self, epoch: int) -> TrainingState:
        """The state after an epoch; InputError where it cannot be read."""
        path = self._path(epoch)
        try:
            with safe_open(path, framework="pt") as file:
                header = json.loads(file.metadata()["state"])
                tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
            return TrainingState(
                training=header["training"],
                network=_below("network.", tensors),
                optimizer=_below("optimizer.", tensors),
                history=tuple(EpochMetrics(**metrics) for metrics in header["history"]),
            )
        except _DAMAGE as error:
            raise InputError(f"the training state {path} cannot be read ({error}); delete it") from error

    def latest(self) -> TrainingState | None:
        """The newest state that can be read, or None; a damaged one costs the epochs since the one before it."""
        if not self.directory.is_dir():
            return None
        remove_abandoned(self.directory)
        for path in reversed(self._paths()):
            try:
                return self.load(int(path.stem.removeprefix("epoch-")))
            except InputError as error:
                logger.warning("%s. Going on from an earlier one", error)
        return None

    def _path(self, epoch: int) -> Path:
        return self.directory / f"epoch-{epoch:05d}.safetensors"

    def _paths(self) -> list[Path]:
        return sorted(self.directory.glob(_PATTERN))


def _below(prefix: str, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {name.removeprefix(prefix): value for name, value in tensors.items() if name.startswith(prefix)}
