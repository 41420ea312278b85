"""The settings of a baseline on a preset: those of the catalog, changed by what a person asks for."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import fields, replace
from typing import Any

from otad_ray.errors import InputError, name_type
from otad_ray.recipes.baselines.catalog import BASELINES
from otad_ray.recipes.baselines.entry import DEFAULT, BaselineEntry
from otad_ray.recipes.workspace import Workspace
from otad_ray.training import LoopConfig

_OPTION = "--defense-settings"


def resolve_settings(entry: BaselineEntry, workspace: Workspace) -> LoopConfig:
    """Return the settings of a baseline's training on a preset.

    Raises:
        InputError: for changes that do not fit the settings.
    """
    assert entry.training is not None
    definition = workspace.definition
    settings = entry.training.settings.get(definition.name, entry.training.settings[DEFAULT])
    if "bounds" in _names(settings):
        settings = replace(settings, bounds=definition.bounds)  # type: ignore[call-arg]
    changes = parse_changes(workspace.preset.defense_settings).get(entry.name, {})
    try:
        return replace(settings, **changes)
    except ValueError as error:
        raise InputError(f"{_OPTION} of {entry.name}: {error}") from error


def parse_changes(given: Sequence[str]) -> Mapping[str, Mapping[str, Any]]:
    """Return the changes of settings, by baseline and field.

    Args:
        given: such as `pgd_at.eps=0.2`; values are JSON, or words.

    Raises:
        InputError: for an unknown baseline or field, or a value of another type.
    """
    changes: dict[str, dict[str, Any]] = {}
    for item in given:
        place, equals, text = item.partition("=")
        name, dot, field = place.partition(".")
        if not (equals and dot and text):
            raise InputError(f"{_OPTION} takes DEFENSE.SETTING=VALUE, such as pgd_at.eps=0.2, got {item!r}")
        if name not in BASELINES or BASELINES[name].training is None:
            known = ", ".join(entry.name for entry in BASELINES.values() if entry.training is not None)
            raise InputError(f"{_OPTION}: no defense {name!r} with a training; known: {known}")
        changes.setdefault(name, {})[field] = _read_value(name, field, text)
    return changes


def _read_value(name: str, field: str, text: str) -> Any:
    training = BASELINES[name].training
    assert training is not None
    settings = training.settings[DEFAULT]
    known = _names(settings)
    if field not in known:
        raise InputError(f"{_OPTION}: {name} has no setting {field!r}; known: {', '.join(known)}")
    try:
        value = json.loads(text)
    except json.JSONDecodeError:
        value = text
    current = getattr(settings, field)
    if isinstance(current, float) and type(value) is int:
        value = float(value)
    if type(value) is not type(current):
        raise InputError(f"{_OPTION}: {name}.{field} is {name_type(current)} ({current}), got {text!r}")
    return value


def _names(settings: LoopConfig) -> list[str]:
    return [field.name for field in fields(settings)]
