"""Networks on disk: `weights.safetensors` beside a JSON file that says which network it is."""

import json
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Generic, TypeVar

from safetensors import SafetensorError
from safetensors.torch import load_file, save
from torch import nn

from otad_ray.artifacts import atomic_file, write_json
from otad_ray.errors import InputError

_WEIGHTS_FILE = "weights.safetensors"


Network = TypeVar("Network", bound=nn.Module)


@dataclass(frozen=True)
class Architecture(Generic[Network]):
    """A registered network: its configuration's type and its builder."""

    config: type
    build: Callable[[Any], Network]


@dataclass(frozen=True)
class Family(Generic[Network]):
    """Networks that stand for one another, by name: the backbones, the metric nets.

    name: for people, and of the JSON file.
    """

    name: str
    architectures: Mapping[str, Architecture[Network]]

    def find(self, architecture: str) -> Architecture[Network]:
        """InputError, listing the known names, for an unknown one."""
        if architecture not in self.architectures:
            raise InputError(
                f"unknown {self.name} architecture {architecture!r}; known: {', '.join(self.architectures)}"
            )
        return self.architectures[architecture]

    def save(self, directory: Path, network: Network) -> None:
        """Write the checkpoint into an existing directory."""
        (name,) = (name for name, kind in self.architectures.items() if type(network) is kind.build)
        with atomic_file(directory / _WEIGHTS_FILE) as temporary:
            state = {key: value.detach().cpu().contiguous() for key, value in network.state_dict().items()}
            # Not `save_file`: its errors are its own, and a full disk is told by the system's.
            temporary.write_bytes(save(state))
        config: Any = network.config
        write_json(directory / self._file, {"architecture": name, "config": asdict(config)})

    def load(self, directory: Path) -> Network:
        """The network of a checkpoint, in evaluation mode, on the CPU; InputError where it cannot be read."""
        directory = Path(directory)
        try:
            description = json.loads((directory / self._file).read_text())
            kind = self.find(description["architecture"])
            network = kind.build(kind.config(**description["config"]))
            network.load_state_dict(load_file(directory / _WEIGHTS_FILE))
        except FileNotFoundError as error:
            raise InputError(f"{directory} is no {self.name} checkpoint: {error.filename} is missing") from None
        except InputError:
            raise
        except (OSError, KeyError, TypeError, ValueError, RuntimeError, SafetensorError) as error:
            raise InputError(f"the {self.name} in {directory} cannot be loaded: {error}") from error
        return network.eval()

    @property
    def _file(self) -> str:
        return f"{self.name.replace(' ', '_').replace('-', '_').lower()}.json"
