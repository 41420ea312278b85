"""Theorem 1 of the paper as metrics of a trained transformer."""

import logging

from torch import Tensor, nn

from otad_ray.certification.attention import attention_report
from otad_ray.models import Attention

logger = logging.getLogger(__name__)


def measure_attention(network: nn.Module, *inputs: Tensor) -> dict[str, float]:
    """Measure the Lipschitz constants of a network's attention blocks, on the tokens that inputs send into them.

    Args:
        network: any module; one without attention has no such metrics.
        inputs: inputs of the network, a batch each.

    Returns:
        For each block k: `attention_<k>_radius`, M, the largest norm of the tokens; `_theorem`, the bound (21);
        `_sharper`, the bound within its proof, before norms are replaced by larger ones; `_lipschitz`, the largest
        constant found at these tokens, which lies below both bounds.
    """
    if not any(isinstance(module, Attention) for module in network.modules()):
        return {}
    metrics: dict[str, float] = {}
    for number, record in enumerate(attention_report(network, *inputs), start=1):
        values = {
            "radius": record.radius,
            "theorem": record.bound.theorem,
            "sharper": record.bound.sharper,
            "lipschitz": record.largest,
        }
        shown = ", ".join(f"{name} {value:.3g}" for name, value in values.items())
        logger.info("attention %d of %s: %s", number, type(network).__name__, shown)
        metrics |= {f"attention_{number}_{name}": value for name, value in values.items()}
    return metrics
