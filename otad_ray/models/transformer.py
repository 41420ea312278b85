"""Pre-norm transformer blocks: those of the ViT backbone, of CIP-net and of metric nets."""

from typing import Literal

from torch import Tensor, nn
from torch.nn import functional

MlpEnd = Literal["linear", "gelu"]


class Attention(nn.Module):
    """Multi-head dot-product self-attention, equation (20): without biases, as Theorem 1 takes it.

    width: D of a token. num_heads: R, which divides the width.
    """

    def __init__(self, width: int, num_heads: int) -> None:
        super().__init__()
        if width % num_heads:
            raise ValueError(f"need a width that num_heads divides, got width={width} and num_heads={num_heads}")
        self.num_heads = num_heads
        self.queries_keys_values = nn.Linear(width, 3 * width, bias=False)
        self.output = nn.Linear(width, width, bias=False)

    def forward(self, tokens: Tensor) -> Tensor:
        """Tokens (B, N, D) to (B, N, D)."""
        heads = self.queries_keys_values(tokens).unflatten(2, (3, self.num_heads, -1)).permute(2, 0, 3, 1, 4)
        mixed = functional.scaled_dot_product_attention(*heads.unbind(0))
        return self.output(mixed.transpose(1, 2).flatten(2))


class AttentionResidual(nn.Module):
    """`Attn_k` of (18): attention of normalized tokens."""

    def __init__(self, width: int, num_heads: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width)
        self.attention = Attention(width, num_heads)

    def forward(self, tokens: Tensor) -> Tensor:
        return self.attention(self.norm(tokens))


def mlp_residual(width: int, hidden: int, *, ends_with: MlpEnd = "linear", dropout: float = 0.0) -> nn.Sequential:
    """`MLP_k` of (18) on normalized tokens; the authors' code ends it with a GELU."""
    layers: list[nn.Module] = [
        nn.LayerNorm(width), nn.Linear(width, hidden), nn.GELU(), nn.Dropout(dropout), nn.Linear(hidden, width),
    ]  # fmt: skip
    return nn.Sequential(*layers, *([nn.GELU()] if ends_with == "gelu" else []))


class TransformerBlock(nn.Module):
    """One block of (18): its two residuals, which whoever runs it adds to the tokens one after the other."""

    def __init__(
        self, width: int, num_heads: int, hidden: int, *, ends_with: MlpEnd = "linear", dropout: float = 0.0
    ) -> None:
        super().__init__()
        self.attention = AttentionResidual(width, num_heads)
        self.mlp = mlp_residual(width, hidden, ends_with=ends_with, dropout=dropout)

    @property
    def residuals(self) -> tuple[nn.Module, nn.Module]:
        return self.attention, self.mlp

    def forward(self, tokens: Tensor) -> Tensor:
        """Tokens (B, N, D) to (B, N, D)."""
        for residual in self.residuals:
            tokens = tokens + residual(tokens)
        return tokens

    def start_as_identity(self) -> None:
        """Zero the last linear map of each residual: the path of the tokens then has no length."""
        last = [layer for layer in self.mlp if isinstance(layer, nn.Linear)][-1]
        for parameter in (self.attention.attention.output.weight, last.weight, last.bias):
            nn.init.zeros_(parameter)
