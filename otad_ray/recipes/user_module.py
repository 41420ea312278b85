"""Modules that users bring: `path/to/file.py:function`, a function that returns a torch.nn.Module."""

import hashlib
import importlib.util
import sys
from functools import lru_cache
from pathlib import Path

from torch import nn

from otad_ray.errors import InputError


@lru_cache(maxsize=16)
def build_module(location: str) -> nn.Module:
    """Call the function of `file.py:function`, once per process; InputError if it returns no module."""
    path, function = split_location(location)
    name = f"otad_ray_user_{hashlib.sha256(str(path).encode()).hexdigest()[:12]}"
    spec = importlib.util.spec_from_file_location(name, path)
    if spec is None or spec.loader is None:
        raise InputError(f"{path} is no Python file; its name must end with .py")
    module = importlib.util.module_from_spec(spec)
    # Where dataclasses and pickle look for it; and its neighbors can be imported, as in a script.
    sys.modules[name] = module
    sys.path.insert(0, str(path.parent))
    try:
        spec.loader.exec_module(module)
        built = getattr(module, function)()
    except Exception as error:
        raise InputError(f"{location} cannot be built: {type(error).__name__}: {error}") from error
    finally:
        sys.path.remove(str(path.parent))
    if not isinstance(built, nn.Module):
        raise InputError(f"{location} returned a {type(built).__name__}, need a torch.nn.Module from inputs to logits")
    return built.eval()


def make_absolute(location: str) -> str:
    """Return a location that is the same in every working directory, so that its module is built once."""
    path, function = split_location(location)
    return f"{path}:{function}"


def split_location(location: str) -> tuple[Path, str]:
    """Return the file and the function of `file.py:function`; InputError if there is no such file."""
    file, _, function = location.rpartition(":")
    path = Path(file).expanduser().absolute()
    if not path.is_file() or not function.isidentifier():
        raise InputError(f"{location!r} is no path/to/file.py:function of a function that returns a torch.nn.Module")
    return path, function
