"""Modules that users bring: `path/to/file.py:function`, a function that returns a torch.nn.Module."""

from functools import lru_cache

from torch import nn

from otad_ray.errors import InputError
from otad_ray.user_module import call_object, load_object

# What a user's file is asked for, in messages.
EXPECTED = "a function that returns a torch.nn.Module"


def build_module(location: str) -> nn.Module:
    """Return what the function of `file.py:function` returns, in evaluation mode.

    It is called once per process for the same content of the file.

    Raises:
        InputError: if the file cannot be loaded, or the function returns no module.
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
    return built
