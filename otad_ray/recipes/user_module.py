"""Modules that users bring: `path/to/file.py:function`, a function that returns a torch.nn.Module."""

import hashlib
import re
from collections.abc import Mapping
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from otad_ray.errors import InputError
from otad_ray.evaluation.foreign_module import shield_for_good
from otad_ray.user_module import call_object, load_object

# What a user's file is asked for, in messages.
EXPECTED = "a function that returns a torch.nn.Module"


def build_module(location: str) -> nn.Module:
    """Return what the function of `file.py:function` returns, in evaluation mode and shielded (`shield_for_good`).

    It is called once per process for the same content of the file.

    Raises:
        InputError: if the file cannot be loaded, or the function returns no module, or one whose parameters or
            buffers have no values.
    """
    return _build_module(location, load_object(location, expected=EXPECTED))


@lru_cache(maxsize=16)
def _build_module(location: str, function: object) -> nn.Module:
    """Build the module; `function` tells one content of the file from another."""
    built = call_object(location, expected=EXPECTED)
    if not isinstance(built, nn.Module):
        raise InputError(f"{location} returned a {type(built).__name__}, need a torch.nn.Module from inputs to logits")
    try:
        # Not every module returns itself.
        built.eval()
    except Exception as error:
        raise InputError(f"{location} returned a module that eval() fails on: {error}") from error
    _check_values(location, built)
    return shield_for_good(built)


def digest_state(module: nn.Module) -> str:
    """Return a digest of a module's parameters and buffers, of any type."""
    digest = hashlib.sha256()
    for name, value in sorted(module.state_dict().items()):
        digest.update(name.encode())
        if isinstance(value, Tensor):
            for part in _split_sparse(value):
                digest.update(part.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes())
        else:
            # An object without a text of its own shows its address, which is another in every process.
            digest.update(re.sub(r" at 0x[0-9a-f]+", "", repr(value)).encode())
    return digest.hexdigest()


def _check_values(location: str, module: nn.Module) -> None:
    """Refuse a module that cannot say what its parameters and buffers hold: nothing could tell it from another."""
    try:
        state: Mapping[str, Any] = module.state_dict()
    except Exception as error:
        raise InputError(
            f"{location} returned a module that state_dict() fails on: {type(error).__name__}: {error}; "
            "it must return all parameters and buffers"
        ) from error
    # Before a lazy module is asked for its first answer, even its state holds parameters without a shape.
    for name, value in state.items():
        if is_lazy(value):
            raise InputError(
                f"{location}: {name} has no values yet; call the module once before the function returns it"
            )
        if isinstance(value, Tensor) and value.is_meta:
            raise InputError(f"{location}: {name} is on the meta device and has no values; load them in the function")


def _split_sparse(value: Tensor) -> tuple[Tensor, ...]:
    """Return a tensor as dense ones: a sparse one as its indices and values."""
    if value.layout == torch.strided:
        return (value,)
    pairs = value.detach().to_sparse_coo().coalesce()
    return pairs.indices(), pairs.values()
