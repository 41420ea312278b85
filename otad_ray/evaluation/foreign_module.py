"""Modules that users bring: kept from changing their inputs, and checked for what they answer before any work."""

import logging
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from otad_ray.attacks import check_logits
from otad_ray.defenses.randomness import is_random
from otad_ray.errors import InputError

logger = logging.getLogger(__name__)

# Batches of other sizes round otherwise, but by far less.
_ALONE_TOLERANCE = 1e-3
# Records and attacks compute in single precision; these types only say how a network was run.
_SHORT_TYPES = (torch.bfloat16, torch.float16)


@contextmanager
def shield(module: nn.Module) -> Iterator[nn.Module]:
    """Yield the module as `shield_for_good` returns it, and leave the module as it was."""
    shielded = _as_hookable(module)
    with ExitStack() as stack:
        for handle in _add_hooks(shielded):
            stack.callback(handle.remove)
        yield shielded


def shield_for_good(module: nn.Module) -> nn.Module:
    """Return a module that answers as the given one does, gets copies of its inputs, and answers in float32.

    A network that normalizes its input in place would otherwise change the samples that it is judged by. Answers of
    half precision become float32, and all others stay as they are. The result is the module itself wherever that is
    possible, so that its class and its other methods remain.

    Args:
        module: maps inputs (B, *shape) to logits (B, C).
    """
    shielded = _as_hookable(module)
    _add_hooks(shielded)
    return shielded


def cast_logits(logits: Any) -> Any:
    """Return half-precision logits in float32, and everything else unchanged."""
    return logits.float() if isinstance(logits, Tensor) and logits.dtype in _SHORT_TYPES else logits


@torch.no_grad()
def ask_for_logits(module: nn.Module, x: Tensor, y: Tensor, *, who: str) -> Tensor:
    """Ask a module for a batch, and for its first sample alone, as attacks do that go on with what is left of a batch.

    Args:
        module: inputs to logits.
        x: samples (B, *shape), B >= 1.
        y: classes that must lie within the logits, or float targets.
        who: how messages call the module, such as "the model".

    Returns:
        The logits (B, C) of the batch.

    Raises:
        InputError: if the module raises, or returns anything else than floating-point logits for each sample.
    """
    logits = _ask(module, x, y, who)
    if is_random(module):
        # It answers a sample alone with other noise.
        return logits
    # A random module's answers to the batch do not depend on whether it was asked for one sample too.
    with torch.random.fork_rng(devices=()):
        alone = _ask(module, x[:1], y[:1], who)
    _compare_alone(alone, logits[:1], who)
    return logits


def _compare_alone(alone: Tensor, in_batch: Tensor, who: str) -> None:
    """Refuse another number of logits (1, C) for a sample alone than in a batch, and warn of other values."""
    if alone.shape != in_batch.shape:
        raise InputError(
            f"{who} returned {in_batch.shape[1]} logits for a sample in a batch, and {alone.shape[1]} for the same "
            "sample alone"
        )
    if not torch.allclose(alone, in_batch, rtol=_ALONE_TOLERANCE, atol=_ALONE_TOLERANCE, equal_nan=True):
        logger.warning(
            "%s answers a sample alone otherwise than in a batch, by up to %.2g: it is random, or samples of a batch "
            "influence each other, and then attacks on it show little",
            who,
            float((alone - in_batch).abs().max()),
        )


def _ask(module: nn.Module, x: Tensor, y: Tensor, who: str) -> Tensor:
    try:
        logits = module(x)
    except InputError:
        raise
    except Exception as error:
        raise InputError(
            f"{who} raised {type(error).__name__}: {error}, on samples {tuple(x.shape)}, {x.dtype}"
        ) from error
    if not isinstance(logits, Tensor):
        raise InputError(f"{who} must return a tensor of logits (N, C), got {type(logits).__name__}")
    if logits.layout != torch.strided:
        raise InputError(f"{who} must return dense logits, got {logits.layout}; end its forward with .to_dense()")
    if not logits.is_floating_point():
        raise InputError(
            f"{who} must return float32 logits, got {logits.dtype}; return scores, as they are before argmax"
        )
    check_logits(logits, x, y)
    return logits


class _Hookable(nn.Module):
    """Asks a TorchScript module, which takes no hooks."""

    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        self.module = module

    def forward(self, inputs: Tensor) -> Any:
        """Return the answer to inputs (B, *shape)."""
        return self.module(inputs)

    def state_dict(self, *arguments: Any, **named: Any) -> Any:
        """Return the module's own state: the names of its parameters identify it."""
        return self.module.state_dict(*arguments, **named)


def _as_hookable(module: nn.Module) -> nn.Module:
    return _Hookable(module) if isinstance(module, torch.jit.ScriptModule) else module


def _add_hooks(module: nn.Module) -> tuple[RemovableHandle, RemovableHandle]:
    return (
        # The first of all hooks before, and the last of those after: hooks of the user's own are shielded too.
        module.register_forward_pre_hook(_copy_inputs, prepend=True),
        module.register_forward_hook(_cast_answer),
    )


def _copy_inputs(module: nn.Module, arguments: tuple[Any, ...]) -> tuple[Any, ...]:
    return tuple(value.clone() if isinstance(value, Tensor) else value for value in arguments)


def _cast_answer(module: nn.Module, arguments: tuple[Any, ...], answer: Any) -> Any:
    return cast_logits(answer)
