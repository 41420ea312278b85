"""Theorem 1: how fast the output of dot-product self-attention can change, beside how fast it does.

The bound is on `sup_{|X|_F <= M} |J_F(X)|_2`, the Lipschitz constant of the attention F on the ball of radius M around
the origin, which is convex. X are the tokens that enter an attention: a LayerNorm before it, which keeps them bounded,
and the residual connection around it are outside.
"""

from collections.abc import Callable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from math import isfinite, sqrt

import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn.attention import SDPBackend, sdpa_kernel

from otad_ray.errors import InputError
from otad_ray.models import Attention

# The search for a singular value ends where no sample's grew by this part of itself in a step.
_GROWTH = 1e-9
_MOST_STEPS = 100
# Of a vector, what is left of it outside a subspace is rounding below this part.
_ROUNDING = 1e-10
_SEED = 0
# Numbers in the tokens and attention weights of a batch.
_BATCH_VALUES = 2**19


@dataclass(frozen=True, kw_only=True)
class AttentionBound:
    """Upper bounds on the l2 Lipschitz constant of an attention for tokens with `|X|_F <= M`.

    theorem: (21) as printed, from the largest Frobenius norm of a parameter. sharper: the theorem's proof before it
    replaces the parameters' spectral norms, `|W|_2 sqrt(sum_r |V_r|_2^2 (|K_r Q_r'|_2 / sqrt(D/R) M^2 (sqrt(N) + 1)
    + sqrt(N))^2)`.
    """

    theorem: float
    sharper: float


@dataclass(frozen=True, kw_only=True)
class AttentionRecord:
    """An attention block of a network and the tokens that entered it.

    name: of the module in the network. num_tokens: N. radius: M, the largest `|X|_F` of a sample. largest, mean: of
    `empirical_lipschitz` over the samples.
    """

    name: str
    num_tokens: int
    radius: float
    bound: AttentionBound
    largest: float
    mean: float


def attention_bound(attention: Attention, *, num_tokens: int, radius: float) -> AttentionBound:
    """Theorem 1 for N tokens with `|X|_F <= radius`; ValueError for a radius or a number of tokens that cannot be."""
    if num_tokens < 1 or not radius >= 0:
        raise ValueError(f"need num_tokens >= 1 and radius >= 0, got {num_tokens} and {radius}")
    # A linear layer holds the transpose of the matrix that tokens are multiplied by from the right.
    heads = attention.queries_keys_values.weight.detach().double().unflatten(0, (3, attention.num_heads, -1)).mT
    output = attention.output.weight.detach().double()
    scale = sqrt(heads.shape[3])

    def block(logits: Tensor) -> Tensor:
        """(23), of the spectral norms of `K Q'`."""
        return logits / scale * radius**2 * (sqrt(num_tokens) + 1) + sqrt(num_tokens)

    largest = torch.maximum(torch.linalg.matrix_norm(heads).max(), torch.linalg.matrix_norm(output))
    theorem = sqrt(attention.num_heads) * largest**2 * block(largest**2)
    # `K Q'` (D, D) has the singular values of its triangular factors' product (D/R, D/R).
    queries, keys = torch.linalg.qr(heads[:2]).R
    logits = torch.linalg.matrix_norm(keys @ queries.mT, 2)
    blocks = torch.linalg.matrix_norm(heads[2], 2) * block(logits)
    sharper = torch.linalg.matrix_norm(output, 2) * blocks.norm()
    return AttentionBound(theorem=float(theorem), sharper=float(sharper))


def empirical_lipschitz(attention: Attention, tokens: Tensor) -> Tensor:
    """`|J_F(X)|_2` (B,) float64 at tokens X (B, N, D), B >= 1, by a Krylov method on `J'J`.

    A value is `|J v|` for a unit vector v, so that, rounding apart, it is never above the Lipschitz constant.
    """
    parameters = {name: parameter.detach().double() for name, parameter in attention.named_parameters()}

    def forward(inputs: Tensor) -> Tensor:
        return functional_call(attention, parameters, (inputs,))

    _, num_tokens, width = tokens.shape
    each = num_tokens * (width + attention.num_heads * num_tokens)
    batches = tokens.detach().double().split(max(1, _BATCH_VALUES // each))
    # The fused kernels have no second derivative, which a product with the Jacobian takes here.
    with sdpa_kernel(SDPBackend.MATH):
        return torch.cat([_largest_singular_value(forward, batch) for batch in batches])


def attention_report(network: nn.Module, *inputs: Tensor) -> list[AttentionRecord]:
    """Theorem 1 for each attention of a network, in their order, on the tokens that `network(*inputs)` sends into it.

    The network is run once, in the mode that it is in. Raises InputError for a network without attention, for inputs
    that do not reach one of them, and for tokens that are not finite.
    """
    attentions = {name: module for name, module in network.named_modules() if isinstance(module, Attention)}
    if not attentions:
        raise InputError(f"{type(network).__name__} has no attention that Theorem 1 could bound")
    entered = _entering_tokens(network, attentions, inputs)
    return [_record(name, attention, entered[name]) for name, attention in attentions.items()]


@torch.no_grad()
def _entering_tokens(
    network: nn.Module, attentions: Mapping[str, Attention], inputs: tuple[Tensor, ...]
) -> dict[str, list[Tensor]]:
    """What each attention is called with, once or several times: tokens (B, N, D)."""
    entered: dict[str, list[Tensor]] = {name: [] for name in attentions}
    with ExitStack() as hooks:
        for name, attention in attentions.items():
            handle = attention.register_forward_pre_hook(lambda _, given, name=name: entered[name].append(given[0]))
            hooks.callback(handle.remove)
        network(*inputs)
    return entered


def _record(name: str, attention: Attention, entered: list[Tensor]) -> AttentionRecord:
    entered = [tokens for tokens in entered if len(tokens)]
    if not entered:
        raise InputError(f"no tokens enter the attention {name!r} for these inputs; give at least one that reaches it")
    radius = float(torch.cat([torch.linalg.matrix_norm(tokens.double()) for tokens in entered]).max())
    if not isfinite(radius):
        raise InputError(f"the tokens that enter the attention {name!r} are not finite")
    num_tokens = max(tokens.shape[1] for tokens in entered)
    constants = torch.cat([empirical_lipschitz(attention, tokens) for tokens in entered])
    return AttentionRecord(
        name=name,
        num_tokens=num_tokens,
        radius=radius,
        bound=attention_bound(attention, num_tokens=num_tokens, radius=radius),
        largest=float(constants.max()),
        mean=float(constants.mean()),
    )


def _largest_singular_value(function: Callable[[Tensor], Tensor], tokens: Tensor) -> Tensor:
    """Of the Jacobian J of each sample (B,), for a function of samples (B, N, D) that do not depend on each other.

    Largest `|J v| / |v|` over the span of the power method's directions, in an orthonormal basis (Lanczos): the last
    direction alone gets there slowly where singular values lie close together.
    """
    # The same start for all samples: no result depends on who else is in the batch.
    start = torch.randn(tokens.shape[1:], generator=torch.Generator().manual_seed(_SEED), dtype=tokens.dtype)
    direction = (start / start.norm()).to(tokens.device).expand_as(tokens)
    transposed, product = _jacobian_products(function, tokens)
    basis = images = tokens.new_empty(len(tokens), 0, tokens[0].numel())
    value = tokens.new_zeros(len(tokens))
    for _ in range(_MOST_STEPS):
        moved = product(direction)
        basis = torch.cat([basis, direction.reshape(len(tokens), 1, -1)], 1)
        images = torch.cat([images, moved.reshape(len(tokens), 1, -1)], 1)
        squared = torch.linalg.eigvalsh(images @ images.mT)[:, -1]
        before, value = value, squared.clamp_min(0).sqrt()
        if bool((value <= (1 + _GROWTH) * before).all()):
            break
        direction = _orthonormalized(transposed(moved).flatten(1), basis).view_as(tokens)
    return value


def _jacobian_products(
    function: Callable[[Tensor], Tensor], tokens: Tensor
) -> tuple[Callable[[Tensor], Tensor], Callable[[Tensor], Tensor]]:
    """`u -> J' u` and `v -> J v`; the second as the derivative of the first, which is linear in u.

    Forward-mode differentiation would do the same, but raises torch's own DeprecationWarning when it is first used.
    """
    with torch.enable_grad():
        inputs = tokens.detach().requires_grad_()
        outputs = function(inputs)
        anywhere = torch.zeros_like(outputs, requires_grad=True)
        (pulled,) = torch.autograd.grad(outputs, inputs, anywhere, create_graph=True)

    def transposed(vectors: Tensor) -> Tensor:
        return torch.autograd.grad(outputs, inputs, vectors, retain_graph=True)[0]

    def product(vectors: Tensor) -> Tensor:
        return torch.autograd.grad(pulled, anywhere, vectors, retain_graph=True)[0]

    return transposed, product


def _orthonormalized(vectors: Tensor, basis: Tensor) -> Tensor:
    """The unit vectors (B, n) along what vectors (B, n) have outside a basis (B, k, n); zero where that is rounding."""
    rest = vectors
    # Once leaves the rounding of what was removed.
    for _ in range(2):
        rest = rest - ((basis @ rest.unsqueeze(2)) * basis).sum(1)
    length = rest.norm(dim=1, keepdim=True)
    outside = length > _ROUNDING * vectors.norm(dim=1, keepdim=True)
    return torch.where(outside, rest / length.where(outside, 1.0), 0.0)
