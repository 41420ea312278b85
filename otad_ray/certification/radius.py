"""`certified_radius`: one function for every defense that has a certificate."""

from typing import Any

import torch
from torch import Tensor, nn

from otad_ray.certification.certificate import Certificate
from otad_ray.certification.memory_defenses import CERTIFIERS
from otad_ray.errors import InputError
from otad_ray.memory import NeighborMemory


@torch.no_grad()
def certified_radius(defense: nn.Module, inputs: Tensor) -> Certificate:
    """Radii (B,) float64 around inputs (B, *shape) float32 within which the prediction is proven not to change.

    For every float32 input `x'` with `|x' - x| < r`, in l2 and the inputs' own units, the class of the largest logit is
    that at `x`; whether it is the right class is the caller's matter. Rounded down; 0 where nothing is proven.
    A module with a method `certified_radius(inputs) -> (radius, method)` certifies itself; others by `CERTIFIERS`.
    Raises InputError, with the reason, for what has no certificate, and where its method returns no certificate.
    """
    own = getattr(defense, "certified_radius", None)
    if own is not None:
        return _check(f"{type(defense).__name__}.certified_radius", own(inputs), len(inputs))
    if type(defense) not in CERTIFIERS:
        known = ", ".join(kind.__name__ for kind in CERTIFIERS)
        raise InputError(
            f"no certificate for {type(defense).__name__}: nothing proven bounds how fast its logits change; there is "
            f"one for {known}, and for a module with a method certified_radius(inputs) -> (radius, method)"
        )
    _check_search(defense)
    _check_precision(inputs)
    if len(inputs) == 0:
        return Certificate(torch.zeros(0, dtype=torch.float64, device=inputs.device), [])
    return CERTIFIERS[type(defense)](defense, inputs)


@torch.no_grad()
def certified_linf_radius(defense: nn.Module, inputs: Tensor) -> Certificate | None:
    """Return radii (B,) as `certified_radius` does, but in linf, of a defense that proves such radii itself.

    Args:
        defense: with a method `certified_linf_radius(inputs) -> (radius, method)`; any other has no such radii, but an
            l2 ball holds a linf ball, which reports count.
        inputs: (B, *shape) float32.

    Returns:
        The radii, or None for a defense without the method.

    Raises:
        InputError: if the method returns no certificate.
    """
    own = getattr(defense, "certified_linf_radius", None)
    if own is None:
        return None
    return _check(f"{type(defense).__name__}.certified_linf_radius", own(inputs), len(inputs))


def _check_search(defense: nn.Module) -> None:
    """Refuse a defense whose neighbors need not be the nearest."""
    memory = getattr(defense, "memory", None)
    if isinstance(memory, NeighborMemory) and memory.search_name.approximate:
        raise InputError(
            f"no certificate where neighbors may be missed: the memory is searched by {memory.search_name}; leave out "
            "--approximate, or open the memory with an exact search"
        )


def _check_precision(inputs: Tensor) -> None:
    """The allowances for rounding are those of float32."""
    if inputs.dtype != torch.float32:
        raise InputError(f"certificates are for float32 inputs, got {inputs.dtype}; predictions are made in float32")
    precision = _find_precision()
    if precision != "highest" or torch.is_autocast_enabled(inputs.device.type):
        found = "autocast is on" if precision == "highest" else f"float32_matmul_precision is {precision!r}"
        raise InputError(
            f"certificates need float32 matrix products, {found}; call torch.set_float32_matmul_precision('highest') "
            "outside of autocast, here and wherever the defense predicts"
        )


def _find_precision() -> str:
    """Return the precision of float32 matrix products, "highest" if they are not rounded further."""
    try:
        return torch.get_float32_matmul_precision()
    except RuntimeError:
        # Set by PyTorch's newer names, one for each kind of product and device.
        return "set for some products only"


def _check(call: str, returned: Any, count: int) -> Certificate:
    """Return the certificate that a defense's own method returned; InputError, naming the method, if it is none."""
    try:
        radius, method = returned
        radius, method = torch.as_tensor(radius, dtype=torch.float64), list(method)
    except (TypeError, ValueError) as error:
        raise InputError(f"{call} must return (radius, method), got {type(returned).__name__}") from error
    if radius.shape != (count,) or len(method) != count:
        raise InputError(
            f"{call} must return {count} radii and methods, got shape {tuple(radius.shape)} and {len(method)} methods"
        )
    if not bool((torch.isfinite(radius) & (radius >= 0)).all()):
        raise InputError(
            f"{call} must return finite radii of at least 0, got {float(radius.min())} to {float(radius.max())}"
        )
    return Certificate(radius, [str(item) for item in method])
