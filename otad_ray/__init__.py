"""OTAD, the optimal-transport-induced adversarial defense, as a distributed batch system on Ray."""

from importlib.metadata import version
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from otad_ray.evaluation import RobustnessReport, evaluate_robustness

__all__ = ["RobustnessReport", "__version__", "evaluate_robustness"]

__version__ = version("otad_ray")


def __getattr__(name: str) -> Any:
    """Import the front door when it is first asked for: `import otad_ray` itself imports no PyTorch."""
    if name in ("RobustnessReport", "evaluate_robustness"):
        from otad_ray import evaluation

        return getattr(evaluation, name)
    raise AttributeError(f"module 'otad_ray' has no attribute {name!r}")


def __dir__() -> list[str]:
    """List the front door too, for tab completion."""
    return sorted({*globals(), *__all__})
