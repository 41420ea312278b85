"""The defenses that jobs evaluate and attack, by name; each is saved once, and opened by path in every worker."""

import hashlib
import logging
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, get_args

import torch
from torch import Tensor, nn

from otad_ray.cip import CrossTerm, Pieces, solver_fingerprint
from otad_ray.defenses import DEFENSES, Defense
from otad_ray.defenses.otad_nn import check_problem
from otad_ray.errors import InputError
from otad_ray.locations import resolve_path
from otad_ray.memory import IntegrationConfig, NeighborMemory, PotentialConfig
from otad_ray.models import Backbone, CipNet, MetricNet, load_cip_net
from otad_ray.recipes.backbone import ensure_backbone
from otad_ray.recipes.baselines.catalog import BASELINES
from otad_ray.recipes.baselines.recipe import (
    PresetBaselineParts,
    check_baseline,
    explain_collapse,
    explain_misfit,
)
from otad_ray.recipes.baselines.settings import parse_changes
from otad_ray.recipes.cip_net import ensure_cip_net
from otad_ray.recipes.defense_source import NET, DefenseSource
from otad_ray.recipes.global_potential.clusters import ensure_clusters
from otad_ray.recipes.global_potential.offsets import ensure_pieces
from otad_ray.recipes.memory import ensure_memory
from otad_ray.recipes.metric_net import ensure_metric
from otad_ray.recipes.user_module import EXPECTED, build_module, digest_state
from otad_ray.recipes.workspace import Workspace
from otad_ray.user_module import absolute_location, fingerprint, is_location, split_location

logger = logging.getLogger(__name__)

# OTAD-T-NN, whose CIP-net is trained, and labeled for, only if it is asked for.
OTAD_NN = "otad_nn"
# Over all training points, which must lie in the features' space: those of a vision transformer do not.
_OTAD_GLOBAL, _SMALLER_SPACE = "otad_global", "vit"
# KNN, whose net and training points an attacker of any defense of the preset knows.
KNN_NAME = "knn"
# "released" is the same with the authors' cross term, "plain" over a net without residual connections.
_RELEASED, _PLAIN = "_released", "plain_"
_HAVE_RELEASED, _HAVE_PLAIN = ("otad",), ("otad", NET)
_OWN_NAMES = (
    *(name for base in DEFENSES for name in (base, *((f"{base}{_RELEASED}",) if base in _HAVE_RELEASED else ()))),
    *(f"{_PLAIN}{base}" for base in _HAVE_PLAIN),
)
NAMES = (*_OWN_NAMES, *BASELINES)
# Stands for all names that fit the data set.
ALL = "all"
_RESIDUAL_ARCHITECTURE, _PLAIN_ARCHITECTURE = "fc_resnet", "fc_plain"


@dataclass(frozen=True)
class PresetParts:
    """The parts of a preset that defenses are made of; each is made when it is first asked for, if it is missing.

    Attributes:
        workspace: the preset.
        integration: how features are integrated.
        cip_net_directory: a CIP-net in place of the preset's.
    """

    workspace: Workspace
    integration: IntegrationConfig
    cip_net_directory: str | None = None

    @property
    def backbone(self) -> Backbone:
        return ensure_backbone(self.workspace).network

    @property
    def memory(self) -> NeighborMemory:
        return ensure_memory(self.workspace)

    @property
    def metric(self) -> MetricNet | None:
        found = ensure_metric(self.workspace)
        return found and found.network

    @property
    def cip_net(self) -> CipNet:
        if self.cip_net_directory is None:
            return ensure_cip_net(self.workspace).network
        return open_cip_net(self.workspace, self.cip_net_directory)

    @property
    def potential(self) -> PotentialConfig:
        return self.workspace.preset.potential

    @property
    def pieces(self) -> Pieces:
        return ensure_pieces(self.workspace)

    @property
    def clusters(self) -> Tensor | None:
        return ensure_clusters(self.workspace)


def find_defenses(
    workspace: Workspace, names: Sequence[str], *, cip_net: str | None = None
) -> dict[str, DefenseSource]:
    """Return the sources of defenses, whose backbones and memories are made if they are missing.

    Args:
        workspace: the preset.
        names: names in `NAMES`, `file.py:function` for the user's own, and `all`.
        cip_net: directory of the CIP-net of OTAD-T-NN (default: the preset's).

    Raises:
        InputError: for an unknown name, and for a user's file that cannot be built, before any work.
    """
    check_names(names)
    names = expand_names(workspace, names)
    parse_changes(workspace.preset.defense_settings)
    for name in names:
        if name in BASELINES:
            check_baseline(workspace, BASELINES[name])
        elif name not in NAMES:
            build_module(absolute_location(name, expected=EXPECTED))
    if OTAD_NN in names and cip_net is not None:
        open_cip_net(workspace, cip_net)
    if any(name.startswith(_PLAIN) for name in names):
        _check_plain(workspace)
    found = [
        _find_known(workspace, name, cip_net=cip_net) if name in NAMES else _find_own(workspace, name) for name in names
    ]
    sources = {source.name: source for source in found}
    if len(sources) < len(found):
        raise InputError(f"defenses must have different names, got {', '.join(source.name for source in found)}")
    return sources


def check_names(names: Sequence[str]) -> None:
    """Refuse a defense that is neither known nor a user's file."""
    known = f"known: {', '.join(NAMES)}, {ALL} of them that fit, or path/to/file.py:function for your own"
    if not names:
        raise InputError(f"need a defense; {known}")
    for name in names:
        if is_location(name):
            split_location(name, expected=EXPECTED)
        elif name not in (*NAMES, ALL):
            raise InputError(f"unknown defense {name!r}; {known}")


def expand_names(workspace: Workspace, names: Sequence[str]) -> tuple[str, ...]:
    """Return the names of defenses, each once, with all that fit the data set in place of `all`."""
    expanded = [item for name in names for item in (_list_fitting(workspace) if name == ALL else (name,))]
    return tuple(dict.fromkeys(expanded))


def _list_fitting(workspace: Workspace) -> Iterator[str]:
    """Yield the names of the defenses that fit the data set; say which do not."""
    architecture = workspace.preset.backbone.architecture
    for name in _OWN_NAMES:
        needs = _RESIDUAL_ARCHITECTURE if name.startswith(_PLAIN) else architecture
        if architecture == needs and not (name == _OTAD_GLOBAL and architecture == _SMALLER_SPACE):
            yield name
    for name, entry in BASELINES.items():
        reason = explain_misfit(workspace, entry)
        if reason is None:
            yield name
        else:
            logger.info("without %s: %s", name, reason)


def save_defense(workspace: Workspace, name: str, *, cip_net: str | None = None) -> Path:
    """Make a defense of the preset and save it, unless that was done; return its directory.

    Args:
        workspace: the preset.
        name: a name in `NAMES`.
        cip_net: directory of the CIP-net of OTAD-T-NN (default: the preset's).
    """
    if name in BASELINES:
        return workspace.open_once(("defense", name), partial(_save_baseline, workspace, name))
    if name.startswith(_PLAIN):
        return save_defense(plain_workspace(workspace), name.removeprefix(_PLAIN))
    integration = workspace.preset.integration
    if name.endswith(_RELEASED):
        integration = replace(integration, cross_term="released")
    parts = PresetParts(workspace, integration, cip_net)
    return workspace.open_once((name, cip_net), partial(_save_own, parts, name.removesuffix(_RELEASED)))


def save_otad_by_cross_term(workspace: Workspace) -> Mapping[str, Path]:
    """Save OTAD with each cross term, the preset's first; return the directories as `otad_<cross term>`."""
    integration = workspace.preset.integration
    terms: list[CrossTerm] = sorted(get_args(CrossTerm), key=lambda term: term != integration.cross_term)
    return {
        f"otad_{term}": _save_own(PresetParts(workspace, replace(integration, cross_term=term)), "otad")
        for term in terms
    }


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


def _save_own(parts: PresetParts, name: str) -> Path:
    """Make and save a defense of the preset's own parts; a user's file with a solver is part of its identity."""
    defense = DEFENSES[name].from_parts(parts)
    file = solver_fingerprint(parts.integration.solver)
    return _save(parts.workspace, defense, defense.identity() | ({} if file is None else {"solver_file": file}))


def _save_baseline(workspace: Workspace, name: str) -> Path:
    """Make and save a baseline."""
    defense = BASELINES[name].make(PresetBaselineParts(workspace, name))
    return _save(workspace, defense, defense.identity())


def _save(workspace: Workspace, defense: Defense, identity: Mapping[str, Any]) -> Path:
    """Save a defense at the place that an identity names, unless it is there already; return the place."""
    directory = workspace.directory("defenses", identity)
    if not directory.is_dir():
        defense.save(directory)
    return directory


def _find_known(workspace: Workspace, name: str, *, cip_net: str | None) -> DefenseSource:
    """Return the source of a defense of the preset."""
    path = save_defense(workspace, name, cip_net=cip_net if name == OTAD_NN else None)
    is_plain = name.startswith(_PLAIN)
    knn = save_defense(plain_workspace(workspace) if is_plain else workspace, KNN_NAME)
    return DefenseSource(
        name=name,
        location=str(path),
        surrogate=str(knn),
        fingerprint=path.name,
        search=workspace.search,
        net=f"{_PLAIN}{NET}" if is_plain else NET,
        max_samples=BASELINES[name].max_samples if name in BASELINES else None,
        warning=explain_collapse(workspace, name) if name in BASELINES else None,
    )


def _find_own(workspace: Workspace, location: str) -> DefenseSource:
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
        surrogate=str(save_defense(workspace, KNN_NAME)),
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
