"""Where a worker finds a defense: plain data that goes to actors, and how it is opened there."""

from dataclasses import dataclass
from functools import lru_cache
from typing import cast

from torch import nn

from otad_ray.defenses import Defense, MemoryDefense, load_defense
from otad_ray.errors import InputError
from otad_ray.recipes.user_module import build_module, digest_state

# Name of the undefended net.
NET = "net"


@dataclass(frozen=True, kw_only=True)
class DefenseSource:
    """Where a worker finds a defense.

    Attributes:
        name: for people and files.
        location: a directory that `load_defense` reads, or `file.py:function`, which builds a user's module.
        surrogate: directory of a defense whose net and training points an attacker knows.
        fingerprint: changes when the defense does.
        search: how memories are searched, as `SearchName` reads it.
        net: name of the undefended net that shows how strong attacks are.
        state: digest of the parameters and buffers of a user's module; None for others.
        max_samples: the most samples that it is asked for, because it is slow; None for all.
        warning: what its training ended with that speaks against it; None if nothing does.
    """

    name: str
    location: str
    surrogate: str
    fingerprint: str
    search: str
    net: str = NET
    state: str | None = None
    max_samples: int | None = None
    warning: str | None = None

    def open(self) -> nn.Module:
        """Return the defense, in evaluation mode; InputError if a user's function builds another one than before."""
        if self.state is None:
            return open_defense(self.location, self.search)
        module = build_module(self.location)
        if digest_state(module) != self.state:
            raise InputError(f"{self.location} built another module here than before; seed it or load its weights")
        return module

    def open_surrogate(self, defense: nn.Module) -> MemoryDefense:
        """Return the defense whose net and training points an attacker knows: its own, else the preset's."""
        if isinstance(defense, MemoryDefense):
            return defense
        return cast(MemoryDefense, open_defense(self.surrogate, self.search))


@lru_cache(maxsize=16)
def open_defense(directory: str, search: str) -> Defense:
    """Load a defense once per process: memories are mapped, but backbones are not."""
    return load_defense(directory, search=search)
