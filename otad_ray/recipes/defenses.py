"""The defenses that jobs evaluate and attack, by name: saved once, opened by path in every actor; a user's own too."""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import cast, get_args

import torch
from torch import Tensor, nn

from otad_ray.cip import CrossTerm
from otad_ray.defenses import KNN, OTAD, OTADNN, Defense, MemoryDefense, Undefended, load_defense
from otad_ray.defenses.otad_nn import check_problem
from otad_ray.errors import InputError
from otad_ray.models import CipNet, MetricNet, load_cip_net
from otad_ray.recipes.backbone import ensure_backbone
from otad_ray.recipes.cip_net import ensure_cip_net
from otad_ray.recipes.memory import ensure_memory
from otad_ray.recipes.metric_net import ensure_metric
from otad_ray.recipes.workspace import Workspace
from otad_ray.user_module import absolute_location, call_object, fingerprint, is_location, load_object, split_location

# OTAD-T-NN, whose CIP-net is trained, and labeled for, only where it is asked for.
OTAD_NN = "otad_nn"
# Of each: the same but over the net without residual connections ("plain"), or with the authors' cross term.
NAMES = ("otad", "otad_released", OTAD_NN, "knn", "net", "plain_otad", "plain_net")
NET = "net"
# What a user's file is asked for.
_EXPECTED = "a function that returns a torch.nn.Module"
_PLAIN = "plain_"
_RESIDUAL_ARCHITECTURE, _PLAIN_ARCHITECTURE = "fc_resnet", "fc_plain"


@dataclass(frozen=True)
class DefenseSource:
    """Where an actor finds a defense.

    name: for people and files. location: a directory that `load_defense` reads, or `file.py:function`, which builds a
    user's module. guide: directory of a defense whose net and training points an attacker of it knows.
    fingerprint: changes when the defense does. net: name of the undefended net that shows how strong attacks are.
    state: digest of the parameters and buffers of a user's module; None for others.
    """

    name: str
    location: str
    guide: str
    fingerprint: str
    net: str = NET
    state: str | None = None

    def open(self, search: str) -> nn.Module:
        """The defense, in evaluation mode; InputError where a user's function builds another one than before."""
        if self.state is None:
            return open_defense(self.location, search)
        module = build_module(self.location)
        if _state_digest(module) != self.state:
            raise InputError(f"{self.location} built another module here than before; seed it or load its weights")
        return module

    def open_guide(self, search: str) -> MemoryDefense:
        """The defense that says what an attacker knows."""
        return cast(MemoryDefense, open_defense(self.guide, search))


@lru_cache(maxsize=16)
def open_defense(directory: str, search: str) -> Defense:
    """`load_defense`, once per process: memories are mapped, backbones are not."""
    return load_defense(directory, search=search)


def build_module(location: str) -> nn.Module:
    """Return what the function of `file.py:function` returns, in evaluation mode.

    It is called once per process for the same content of the file. Raises InputError if it returns no module.
    """
    return _build_module(location, load_object(location, expected=_EXPECTED))


@lru_cache(maxsize=16)
def _build_module(location: str, function: object) -> nn.Module:
    """Build the module; `function` tells one content of the file from another."""
    built = call_object(location, expected=_EXPECTED)
    if not isinstance(built, nn.Module):
        raise InputError(f"{location} returned a {type(built).__name__}, need a torch.nn.Module from inputs to logits")
    try:
        # Not every module returns itself.
        built.eval()
    except Exception as error:
        raise InputError(f"{location} returned a module that eval() fails on: {error}") from error
    return built


def find_defenses(
    workspace: Workspace, names: Sequence[str], search: str, *, cip_net: str | None = None
) -> dict[str, DefenseSource]:
    """Sources of the named defenses, whose backbones and memories are built if need be.

    names: those in `NAMES`, and `file.py:function` for the user's own. cip_net: directory of the CIP-net of OTAD-T-NN
    (default: the preset's). InputError for an unknown name, before any work.
    """
    check_names(names)
    for name in names:
        if name not in NAMES:
            # One that cannot be built is said before anything is trained for it.
            build_module(absolute_location(name, expected=_EXPECTED))
    if OTAD_NN in names and cip_net is not None:
        open_cip_net(workspace, cip_net)
    if any(name.startswith(_PLAIN) for name in names):
        _check_plain(workspace)
    known = _known(workspace, search)
    if OTAD_NN in names:
        path = save_otad_nn(workspace, search, cip_net=cip_net)
        known[OTAD_NN] = DefenseSource(OTAD_NN, str(path), known["knn"].guide, path.name)
    if any(name.startswith(_PLAIN) for name in names):
        plain = _known(plain_workspace(workspace), search)
        known |= {
            f"{_PLAIN}{name}": replace(source, name=f"{_PLAIN}{name}", net=f"{_PLAIN}{NET}")
            for name, source in plain.items()
        }
    shape = workspace.definition.shape
    found = [known[name] if name in known else _own(name, known["knn"].location, shape) for name in names]
    sources = {source.name: source for source in found}
    if len(sources) < len(found):
        raise InputError(f"defenses must have different names, got {', '.join(source.name for source in found)}")
    return sources


def check_names(names: Sequence[str]) -> None:
    """InputError for a defense that is neither known nor a user's file."""
    if not names:
        raise InputError(f"need a defense; known: {', '.join(NAMES)}, or path/to/file.py:function for your own")
    for name in names:
        if is_location(name):
            split_location(name, expected=_EXPECTED)
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
        NET: _save(workspace, Undefended(backbone)),
    }
    guide = str(saved["knn"])
    return {name: DefenseSource(name, str(path), guide, path.name) for name, path in directories.items()}


def _own(location: str, guide: str, shape: tuple[int, ...]) -> DefenseSource:
    path, function = split_location(location, expected=_EXPECTED)
    location = f"{path}:{function}"
    module = build_module(location)
    state = _state_digest(module)
    # Asked for its answers first: what it imports only then is part of the fingerprint too.
    answers = _answers(module, shape)
    digest = hashlib.sha256(f"{fingerprint(location)} {state}".encode() + answers)
    name = f"{path.stem}.{function}"
    return DefenseSource(name, location, guide, digest.hexdigest()[:12], state=state)


def _state_digest(module: nn.Module) -> str:
    """Of parameters and buffers, of any type."""
    digest = hashlib.sha256()
    for name, value in sorted(module.state_dict().items()):
        digest.update(name.encode())
        if isinstance(value, Tensor):
            digest.update(value.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes())
        else:
            digest.update(repr(value).encode())
    return digest.hexdigest()


@torch.no_grad()
def _answers(module: nn.Module, shape: tuple[int, ...]) -> bytes:
    """Outputs at fixed inputs: they change with what neither file nor state show. Nothing where they are random."""
    inputs = torch.rand(4, *shape, generator=torch.Generator().manual_seed(0))
    try:
        first, second = module(inputs), module(inputs)
        return first.cpu().numpy().tobytes() if torch.equal(first, second) else b""
    except Exception:
        # What is wrong with it is told by those who ask it for real samples.
        return b""


def plain_workspace(workspace: Workspace) -> Workspace:
    """The same preset with a net without residual connections."""
    preset = workspace.preset
    return workspace.of(replace(preset, backbone=replace(preset.backbone, architecture=_PLAIN_ARCHITECTURE)))


def _check_plain(workspace: Workspace) -> None:
    architecture = workspace.preset.backbone.architecture
    if architecture != _RESIDUAL_ARCHITECTURE:
        raise InputError(
            f"{_PLAIN}... is the net without residual connections, of {_RESIDUAL_ARCHITECTURE} only; the backbone is "
            f"{architecture!r}"
        )


def save_memory_defenses(workspace: Workspace, search: str) -> Mapping[str, Path]:
    """Directories of the saved KNN, and of OTAD by cross term: the preset's first, then the other."""
    memory = ensure_memory(workspace, search=search)
    _, backbone = ensure_backbone(workspace)
    metric = _metric(workspace)
    integration = workspace.preset.integration
    terms: list[CrossTerm] = sorted(get_args(CrossTerm), key=lambda term: term != integration.cross_term)
    defenses: dict[str, MemoryDefense] = {
        f"otad_{term}": OTAD(backbone, memory, replace(integration, cross_term=term), metric) for term in terms
    }
    defenses["knn"] = KNN(backbone, memory, integration.neighbors, metric)
    return {name: _save(workspace, defense) for name, defense in defenses.items()}


def _metric(workspace: Workspace) -> MetricNet | None:
    """The metric net of the preset, trained if need be; None for a preset without."""
    found = ensure_metric(workspace)
    return found and found[1]


def save_otad_nn(workspace: Workspace, search: str, *, cip_net: str | None = None) -> Path:
    """Directory of the saved OTAD-T-NN, with the preset's CIP-net or that in the directory `cip_net`."""
    net = ensure_cip_net(workspace, search=search)[1] if cip_net is None else open_cip_net(workspace, cip_net)
    memory = ensure_memory(workspace, search=search)
    _, backbone = ensure_backbone(workspace)
    defense = OTADNN(backbone, memory, net, workspace.preset.integration, _metric(workspace))
    return _save(workspace, defense)


def open_cip_net(workspace: Workspace, directory: str) -> CipNet:
    """The CIP-net in a directory; InputError where there is none, or one of another problem than the preset's."""
    net = load_cip_net(Path(directory))
    check_problem(net, workspace.preset.integration)
    return net


def check_cip_net_directory(directory: str | None, *, asked: bool, option: str) -> None:
    """InputError for a CIP-net that nobody would use."""
    if directory is not None and not asked:
        raise InputError(f"cip_net_directory is {directory}, but OTAD-T-NN is not asked for; add {option}")


def _save(workspace: Workspace, defense: Defense) -> Path:
    directory = workspace.directory("defenses", defense.identity())
    if not directory.is_dir():
        defense.save(directory)
    return directory
