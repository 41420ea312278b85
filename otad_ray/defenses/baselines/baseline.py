"""What the baselines share: they are made of networks, and are saved and loaded with them."""

from abc import abstractmethod
from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar, Self

from torch import Tensor, nn

from otad_ray.artifacts import to_jsonable
from otad_ray.defenses.base import Defense, SavedNetwork, save_defense
from otad_ray.defenses.parts import SavedParts
from otad_ray.errors import InputError, name_type
from otad_ray.models.checkpoints import Family
from otad_ray.models.fingerprint import network_fingerprint


class Baseline(Defense):
    """A defense that OTAD is compared with.

    A subclass sets `kind` and `families` and defines `forward`. Its constructor takes the networks and the settings by
    name, and keeps each network under the name of its argument.

    Attributes:
        families: for each network, by the constructor's argument, the family whose checkpoints hold it.
    """

    families: ClassVar[Mapping[str, Family[Any]]] = {}

    @abstractmethod
    def forward(self, inputs: Tensor) -> Tensor:
        """Map inputs (B, *shape) to logits (B, C)."""

    def forward_details(self, inputs: Tensor) -> tuple[Tensor, None, None]:
        """Return the logits (B, C); there is no feature to compare, and nothing is solved."""
        return self(inputs), None, None

    @property
    def networks(self) -> dict[str, nn.Module]:
        """The networks by the constructor's argument."""
        return {name: getattr(self, name) for name in self.families}

    def settings(self) -> dict[str, Any]:
        """Return the constructor's arguments beside the networks, of JSON types or dataclasses."""
        return {}

    def identity(self) -> dict[str, Any]:
        """Return the kind, the settings, and the fingerprints of the networks."""
        prints = {name: network_fingerprint(network, network.config) for name, network in self.networks.items()}
        return {"kind": self.kind, **prints, **self.settings()}

    def save(self, directory: str | Path) -> None:
        """Write `defense.json`, and each network in a folder of its own.

        Raises:
            InputError: if `directory` holds something, or a network is none that can be written.
        """
        for name, network in self.networks.items():
            if type(network) not in [kind.build for kind in self.families[name].architectures.values()]:
                raise InputError(
                    f"this defense cannot be saved: its {name} is {name_type(network)}, which is no "
                    f"{self.families[name].name} of this package"
                )
        folders = {name: SavedNetwork(network, self.families[name].save) for name, network in self.networks.items()}
        description = {"networks": list(folders), "settings": to_jsonable(self.settings())}
        save_defense(Path(directory), self.kind, folders, description)

    @classmethod
    def load(cls, saved: SavedParts) -> Self:
        networks = {name: saved.read_network(name, family) for name, family in cls.families.items()}
        made = cls(**networks, **saved.settings)
        if missing := made.settings().keys() - saved.settings.keys():
            raise KeyError(f"settings: {', '.join(sorted(missing))}")
        return made


class Purifier(Baseline):
    """A map from inputs to cleaner inputs, before any classifier.

    Attributes:
        classifier: what is asked for the logits of the purified inputs.
    """

    classifier: nn.Module

    @abstractmethod
    def purify(self, inputs: Tensor) -> Tensor:
        """Map inputs (B, *shape), in the data set's bounds, to inputs of the same kind."""

    def forward(self, inputs: Tensor) -> Tensor:
        return self.classifier(self.purify(inputs))
