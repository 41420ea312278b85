"""Random noise of the same norm: what every attack must beat."""

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor, nn

from otad_ray.attacks.attack import Attack, AttackResult, Cost, Kind
from otad_ray.attacks.budget import Budget, random_directions
from otad_ray.attacks.goals import Goal
from otad_ray.attacks.progress import Progress
from otad_ray.attacks.streams import Streams
from otad_ray.defenses import MemoryDefense


@dataclass(frozen=True, kw_only=True)
class Noise(Attack):
    """The worst of several draws of norm eps: uniform on the sphere (l2), or of random signs (linf).

    Clipped to the bounds, which shortens them.
    """

    kind: ClassVar[Kind] = "noise"
    tasks: ClassVar[tuple[str, ...]] = ("classification", "regression")
    draws: int = 1

    @property
    def cost(self) -> Cost:
        return Cost(1 + self.draws)

    def _run(
        self,
        defense: nn.Module,
        x: Tensor,
        y: Tensor,
        budget: Budget,
        streams: Streams,
        guide: MemoryDefense | None,
    ) -> AttackResult:
        progress = Progress(x, y, Goal())
        progress.evaluate(defense, progress.open, x)
        for _ in range(self.draws):
            rows = progress.open
            if not len(rows):
                break
            directions = random_directions(streams.take(rows), x.shape[1:]).to(x)
            progress.evaluate(defense, rows, budget.project(x[rows], x[rows] + budget.step(directions, budget.eps)))
        return progress.result()
