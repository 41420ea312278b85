"""The defenses that jobs evaluate and attack, by name; each is saved once, and opened by path in every worker."""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, get_args

import torch
from torch import nn

from otad_ray.cip import CrossTerm
from otad_ray.defenses import KNN, OTAD, OTADNN, Defense, MemoryDefense, Undefended
from otad_ray.defenses.otad_nn import check_problem
from otad_ray.errors import InputError
from otad_ray.locations import resolve_path
from otad_ray.models import CipNet, MetricNet, load_cip_net
from otad_ray.recipes.backbone import ensure_backbone
from otad_ray.recipes.cip_net import ensure_cip_net
from otad_ray.recipes.defense_source import NET, DefenseSource
from otad_ray.recipes.memory import ensure_memory
from otad_ray.recipes.metric_net import ensure_metric
from otad_ray.recipes.user_module import EXPECTED, build_module, digest_state
from otad_ray.recipes.workspace import Workspace
from otad_ray.user_module import absolute_location, fingerprint, is_location, split_location

# OTAD-T-NN, whose CIP-net is trained, and labeled for, only if it is asked for.
OTAD_NN = "otad_nn"
# "plain" is the same over a net without residual connections, "released" the authors' cross term.
NAMES = ("otad", "otad_released", OTAD_NN, "knn", NET, "plain_otad", "plain_net")
_PLAIN = "plain_"
_RESIDUAL_ARCHITECTURE, _PLAIN_ARCHITECTURE = "fc_resnet", "fc_plain"


def find_defenses(
    workspace: Workspace, names: Sequence[str], *, cip_net: str | None = None
) -> dict[str, DefenseSource]:
    """Return the sources of defenses, whose backbones and memories are made if they are missing.

    Args:
        workspace: the preset.
        names: names in `NAMES`, and `file.py:function` for the user's own.
        cip_net: directory of the CIP-net of OTAD-T-NN (default: the preset's).

    Raises:
        InputError: for an unknown name, and for a user's file that cannot be built, before any work.
    """
    check_names(names)
    for name in names:
        if name not in NAMES:
            build_module(absolute_location(name, expected=EXPECTED))
    if OTAD_NN in names and cip_net is not None:
        open_cip_net(workspace, cip_net)
    if any(name.startswith(_PLAIN) for name in names):
        _check_plain(workspace)
    known = _find_known(workspace)
    if OTAD_NN in names:
        path = save_otad_nn(workspace, cip_net=cip_net)
        known[OTAD_NN] = replace(known["knn"], name=OTAD_NN, location=str(path), fingerprint=path.name)
    if any(name.startswith(_PLAIN) for name in names):
        plain = _find_known(plain_workspace(workspace))
        known |= {
            f"{_PLAIN}{name}": replace(source, name=f"{_PLAIN}{name}", net=f"{_PLAIN}{NET}")
            for name, source in plain.items()
        }
    found = [known[name] if name in known else _find_own(workspace, name, known["knn"].location) for name in names]
    sources = {source.name: source for source in found}
    if len(sources) < len(found):
        raise InputError(f"defenses must have different names, got {', '.join(source.name for source in found)}")
    return sources


def check_names(names: Sequence[str]) -> None:
    """Refuse a defense that is neither known nor a user's file."""
    if not names:
        raise InputError(f"need a defense; known: {', '.join(NAMES)}, or path/to/file.py:function for your own")
    for name in names:
        if is_location(name):
            split_location(name, expected=EXPECTED)
        elif name not in NAMES:
            raise InputError(
                f"unknown defense {name!r}; known: {', '.join(NAMES)}, or path/to/file.py:function for your own"
            )


def save_memory_defenses(workspace: Workspace) -> Mapping[str, Path]:
    """Save KNN, and OTAD by cross term, the preset's first; return their directories by name."""
    return workspace.open_once("memory defenses", lambda: _save_memory_defenses(workspace))


def save_net(workspace: Workspace) -> Path:
    """Save the undefended net as a defense, and return its directory."""
    backbone = ensure_backbone(workspace).network
    return _save(workspace, Undefended(backbone), {"backbone": backbone.fingerprint()})


def save_otad_nn(workspace: Workspace, *, cip_net: str | None = None) -> Path:
    """Save OTAD-T-NN, with the preset's CIP-net or that in the directory `cip_net`; return its directory."""
    net = ensure_cip_net(workspace).network if cip_net is None else open_cip_net(workspace, cip_net)
    backbone = ensure_backbone(workspace).network
    defense = OTADNN(backbone, ensure_memory(workspace), net, workspace.preset.integration, _find_metric(workspace))
    return _save_memory_defense(workspace, defense)


def open_cip_net(workspace: Workspace, directory: str) -> CipNet:
    """Return the CIP-net in a directory; InputError if there is none, or one of another problem than the preset's."""
    net = load_cip_net(resolve_path(directory, "--cip-net-directory"))
    check_problem(net, workspace.preset.integration)
    return net


def check_cip_net_directory(directory: str | None, *, asked: bool, option: str) -> None:
    """Refuse a CIP-net that nobody would use."""
    if directory is not None and not asked:
        raise InputError(f"cip_net_directory is {directory}, but OTAD-T-NN is not asked for; add {option}")


def plain_workspace(workspace: Workspace) -> Workspace:
    """Return the workspace of the same preset with a net without residual connections."""
    preset = workspace.preset
    return workspace.vary(replace(preset, backbone=replace(preset.backbone, architecture=_PLAIN_ARCHITECTURE)))


def _find_known(workspace: Workspace) -> dict[str, DefenseSource]:
    """Return the sources of what the preset names, all over one backbone."""
    saved = save_memory_defenses(workspace)
    directories = {
        "otad": saved[f"otad_{workspace.preset.integration.cross_term}"],
        "otad_released": saved["otad_released"],
        "knn": saved["knn"],
        NET: save_net(workspace),
    }
    surrogate = str(saved["knn"])
    return {
        name: DefenseSource(
            name=name, location=str(path), surrogate=surrogate, fingerprint=path.name, search=workspace.search
        )
        for name, path in directories.items()
    }


def _find_own(workspace: Workspace, location: str, surrogate: str) -> DefenseSource:
    """Return the source of a user's module."""
    path, function = split_location(location, expected=EXPECTED)
    location = f"{path}:{function}"
    module = build_module(location)
    state = digest_state(module)
    # The module is asked for answers first: a file that it imports only then is part of the fingerprint too.
    answers = _digest_answers(module, workspace.definition.shape)
    digest = hashlib.sha256(f"{fingerprint(location)} {state}".encode() + answers)
    return DefenseSource(
        name=f"{path.stem}.{function}",
        location=location,
        surrogate=surrogate,
        fingerprint=digest.hexdigest()[:12],
        search=workspace.search,
        state=state,
    )


@torch.no_grad()
def _digest_answers(module: nn.Module, shape: tuple[int, ...]) -> bytes:
    """Return outputs at fixed inputs: they show changes that neither file nor state do. Random outputs give nothing."""
    inputs = torch.rand(4, *shape, generator=torch.Generator().manual_seed(0))
    try:
        first, second = module(inputs), module(inputs)
        return first.cpu().numpy().tobytes() if torch.equal(first, second) else b""
    except Exception:
        # Those who ask it for real samples say what is wrong with it.
        return b""


def _check_plain(workspace: Workspace) -> None:
    """Refuse the net without residual connections for backbones that have no such form."""
    architecture = workspace.preset.backbone.architecture
    if architecture != _RESIDUAL_ARCHITECTURE:
        raise InputError(
            f"{_PLAIN}... is the net without residual connections, of {_RESIDUAL_ARCHITECTURE} only; the backbone is "
            f"{architecture!r}"
        )


def _save_memory_defenses(workspace: Workspace) -> Mapping[str, Path]:
    memory, metric = ensure_memory(workspace), _find_metric(workspace)
    backbone = ensure_backbone(workspace).network
    integration = workspace.preset.integration
    terms: list[CrossTerm] = sorted(get_args(CrossTerm), key=lambda term: term != integration.cross_term)
    defenses: dict[str, MemoryDefense] = {
        f"otad_{term}": OTAD(backbone, memory, replace(integration, cross_term=term), metric) for term in terms
    }
    defenses["knn"] = KNN(backbone, memory, integration.neighbors, metric)
    return {name: _save_memory_defense(workspace, defense) for name, defense in defenses.items()}


def _find_metric(workspace: Workspace) -> MetricNet | None:
    """Return the metric net of the preset, trained if it is missing; None for a preset without one."""
    found = ensure_metric(workspace)
    return found and found.network


def _save_memory_defense(workspace: Workspace, defense: MemoryDefense) -> Path:
    inputs = {"backbone": defense.backbone.fingerprint(), "memory": defense.memory.fingerprint}
    if defense.metric is not None:
        inputs["metric"] = defense.metric.fingerprint()
    if isinstance(defense, OTADNN):
        inputs["cip_net"] = defense.cip_net.fingerprint()
    return _save(workspace, defense, {**inputs, **defense.settings()})


def _save(workspace: Workspace, defense: Defense, identity: Mapping[str, Any]) -> Path:
    """Save a defense at the place that its identity names, unless it is there already."""
    directory = workspace.directory("defenses", {**identity, "kind": defense.kind})
    if not directory.is_dir():
        defense.save(directory)
    return directory
