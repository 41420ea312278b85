"""The defenses that jobs evaluate and attack, by name: saved once, opened by path in every actor; a user's own too."""

import hashlib
import importlib.util
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import Any, cast, get_args

from torch import nn

from otad_ray.artifacts import file_sha256
from otad_ray.cip import CrossTerm
from otad_ray.defenses import KNN, OTAD, Defense, MemoryDefense, Undefended, load_defense
from otad_ray.distributed.backbones import ensure_backbone
from otad_ray.distributed.memories import ensure_memory
from otad_ray.distributed.workspace import Workspace
from otad_ray.errors import InputError

# Of each: the same but over the net without residual connections ("plain"), or with the authors' cross term.
NAMES = ("otad", "otad_released", "knn", "net", "plain_otad", "plain_net")
NET = "net"
_PLAIN = "plain_"
_PLAIN_ARCHITECTURE = "fc_plain"


@dataclass(frozen=True)
class DefenseSource:
    """Where an actor finds a defense.

    name: for people and files. location: a directory that `load_defense` reads, or `file.py:function`, which builds a
    user's module. guide: directory of a defense whose net and training points an attacker of it knows.
    fingerprint: changes when the defense does.
    """

    name: str
    location: str
    guide: str
    fingerprint: str

    @property
    def is_own(self) -> bool:
        """Whether a user's file builds it."""
        return ":" in self.location

    def open(self, search: str) -> nn.Module:
        """The defense, in evaluation mode."""
        return build_module(self.location) if self.is_own else open_defense(self.location, search)

    def open_guide(self, search: str) -> MemoryDefense:
        """The defense that says what an attacker knows."""
        return cast(MemoryDefense, open_defense(self.guide, search))


@lru_cache(maxsize=16)
def open_defense(directory: str, search: str) -> Defense:
    """`load_defense`, once per process: memories are mapped, backbones are not."""
    return load_defense(directory, search=search)


@lru_cache(maxsize=16)
def build_module(location: str) -> nn.Module:
    """What the function of `file.py:function` returns, once per process; InputError where that is no module."""
    path, function = _split(location)
    digest = hashlib.sha256(str(path).encode()).hexdigest()[:12]
    spec = importlib.util.spec_from_file_location(f"otad_ray_user_{digest}", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    try:
        spec.loader.exec_module(module)
        built = getattr(module, function)()
    except Exception as error:
        raise InputError(f"{location} cannot be built: {type(error).__name__}: {error}") from error
    if not isinstance(built, nn.Module):
        raise InputError(f"{location} returned a {type(built).__name__}, need a torch.nn.Module from inputs to logits")
    return built.eval()


def find_defenses(workspace: Workspace, names: Sequence[str], search: str) -> dict[str, DefenseSource]:
    """Sources of the named defenses, whose backbones and memories are built if need be.

    names: those in `NAMES`, and `file.py:function` for the user's own. InputError for an unknown one, before any work.
    """
    check_names(names)
    known = _known(workspace, search)
    if any(name.startswith(_PLAIN) for name in names):
        plain = _known(plain_workspace(workspace), search)
        known |= {f"{_PLAIN}{name}": replace(source, name=f"{_PLAIN}{name}") for name, source in plain.items()}
    found = [known[name] if name in known else _own(name, guide=known["knn"].location) for name in names]
    sources = {source.name: source for source in found}
    if len(sources) < len(found):
        raise InputError(f"defenses must have different names, got {', '.join(source.name for source in found)}")
    return sources


def check_names(names: Sequence[str]) -> None:
    """InputError for a defense that is neither known nor a user's file."""
    if not names:
        raise InputError(f"need a defense; known: {', '.join(NAMES)}, or path/to/file.py:function for your own")
    for name in names:
        if ":" in name:
            _split(name)
        elif name not in NAMES:
            raise InputError(
                f"unknown defense {name!r}; known: {', '.join(NAMES)}, or path/to/file.py:function for your own"
            )


def _known(workspace: Workspace, search: str) -> dict[str, DefenseSource]:
    """Sources of what the preset names, all over one backbone."""
    saved = save_memory_defenses(workspace, search)
    _, backbone = ensure_backbone(workspace)
    directories = {
        "otad": saved[f"otad_{workspace.preset.integration.cross_term}"],
        "otad_released": saved["otad_released"],
        "knn": saved["knn"],
        NET: _save(workspace, Undefended(backbone), {"backbone": backbone.fingerprint()}),
    }
    guide = str(saved["knn"])
    return {name: DefenseSource(name, str(path), guide, path.name) for name, path in directories.items()}


def _own(location: str, *, guide: str) -> DefenseSource:
    path, function = _split(location)
    location = f"{path}:{function}"
    digest = hashlib.sha256(file_sha256(path).encode() + function.encode())
    for name, value in sorted(build_module(location).state_dict().items()):
        digest.update(name.encode() + value.detach().cpu().contiguous().numpy().tobytes())
    return DefenseSource(f"{path.stem}.{function}", location, guide, digest.hexdigest()[:12])


def _split(location: str) -> tuple[Path, str]:
    file, _, function = location.rpartition(":")
    path = Path(file).expanduser().absolute()
    if not path.is_file() or not function.isidentifier():
        raise InputError(f"{location!r} is no path/to/file.py:function of a function that returns a torch.nn.Module")
    return path, function


def plain_workspace(workspace: Workspace) -> Workspace:
    """The same preset with a net without residual connections."""
    preset = workspace.preset
    return workspace.of(replace(preset, backbone=replace(preset.backbone, architecture=_PLAIN_ARCHITECTURE)))


def save_memory_defenses(workspace: Workspace, search: str) -> Mapping[str, Path]:
    """Directories of the saved KNN, and of OTAD by cross term: the preset's first, then the other."""
    _, backbone = ensure_backbone(workspace)
    memory = ensure_memory(workspace, search=search)
    integration = workspace.preset.integration
    terms: list[CrossTerm] = sorted(get_args(CrossTerm), key=lambda term: term != integration.cross_term)
    defenses: dict[str, MemoryDefense] = {
        f"otad_{term}": OTAD(backbone, memory, replace(integration, cross_term=term)) for term in terms
    }
    defenses["knn"] = KNN(backbone, memory, integration.neighbors)
    return {name: _save_memory_defense(workspace, defense) for name, defense in defenses.items()}


def _save_memory_defense(workspace: Workspace, defense: MemoryDefense) -> Path:
    inputs = {"backbone": defense.backbone.fingerprint(), "memory": defense.memory.fingerprint}
    return _save(workspace, defense, {**inputs, **defense.settings()})


def _save(workspace: Workspace, defense: Defense, identity: Mapping[str, Any]) -> Path:
    directory = workspace.directory("defenses", {**identity, "kind": defense.kind})
    if not directory.is_dir():
        defense.save(directory)
    return directory
