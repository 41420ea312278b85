"""Table IX of the paper: seconds a sample, from image to logits, of OTAD-T, exact and by a conic solver, and OTAD-T-NN.

The networks are new ones: what they take does not depend on their training.
"""

from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import Tensor, nn

from otad_ray.benchmarks.measurement import Measurement, best_of
from otad_ray.data import Batch
from otad_ray.defenses import OTAD, OTADNN
from otad_ray.memory import IntegrationConfig, NeighborMemory
from otad_ray.models import (
    BackboneConfig,
    CipNet,
    CipNetConfig,
    MetricNetConfig,
    build_backbone,
    build_cip_net,
    build_metric_net,
)
from otad_ray.models.cip_net_config import CipNetHead
from otad_ray.stages import record_stages

_SEED = 0
_EMBEDDED_ROWS = 64
_REPEATS = 3
# A conic solver takes seconds a row.
_CONIC, _CONIC_ROWS = "clarabel", 2

# Goals, as ratios of which more is better. The paper's CIP-net is to be no faster than the exact solver; the one with
# the simplex head is smaller, and has none. On a GPU the exact forward is to take a millisecond.
_FEATURE_NET_GOAL, _MILLISECOND_GOAL = 1.0, 1.0


@dataclass(frozen=True, kw_only=True)
class TransformerConfig:
    """Of the networks and of the problem that they solve. metric: None searches the points. cip_net: of either head."""

    backbone: BackboneConfig
    metric: MetricNetConfig | None
    cip_net: CipNetConfig
    integration: IntegrationConfig


class Transformers(nn.Module):
    """New networks for images of one shape, and the defenses made of them.

    The residuals of a new backbone end with maps that are zero, so that its features are its points: these maps are
    drawn at random like all others.
    """

    def __init__(self, options: TransformerConfig, *, shape: tuple[int, ...], num_outputs: int) -> None:
        super().__init__()
        # The exact solver, whatever the options say.
        self.config = replace(options.integration, solver="dual")
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(_SEED)
            self.backbone = build_backbone(options.backbone, shape=shape, num_outputs=num_outputs)
            for layer in self.backbone.modules():
                if isinstance(layer, nn.Linear) and not layer.weight.any():
                    layer.reset_parameters()
            self.metric = None if options.metric is None else build_metric_net(options.metric, shape=shape)
            self.simplex, self.feature = (self._cip_net(options, head) for head in ("simplex", "feature"))
        self.eval()

    def _cip_net(self, options: TransformerConfig, head: CipNetHead) -> CipNet:
        space, dimension = self.backbone.point_space, self.backbone.dimension
        return build_cip_net(
            replace(options.cip_net, head=head),
            num_neighbors=self.config.num_neighbors,
            coordinates=dimension if space is None else space.num_coordinates,
            dimension=dimension,
        )

    @torch.no_grad()
    def remember(self, directory: Path, rows: Batch) -> None:
        """Build a memory of these rows."""
        inputs, backbone, metric = rows.x.split(_EMBEDDED_ROWS), self.backbone, self.metric
        points = [backbone.coordinates(batch) for batch in inputs]
        fingerprints = {"backbone": backbone.fingerprint()}
        NeighborMemory.build(
            directory,
            None if metric is None else (metric(batch) for batch in inputs),
            points,
            (backbone.features(backbone.points_of(batch)) for batch in points),
            rows.y.split(_EMBEDDED_ROWS),
            rows.ids.split(_EMBEDDED_ROWS),
            provenance=fingerprints if metric is None else {**fingerprints, "metric": metric.fingerprint()},
            point_space=backbone.point_space,
        )

    def exact(self, memory: NeighborMemory, *, solver: str = "dual") -> OTAD:
        return OTAD(self.backbone, memory, replace(self.config, solver=solver), self.metric)

    def approximate(self, memory: NeighborMemory, head: CipNetHead) -> OTADNN:
        return OTADNN(self.backbone, memory, getattr(self, head), self.config, self.metric)


@torch.no_grad()
def measure_transformer(networks: Transformers, memory: NeighborMemory, inputs: Tensor) -> list[Measurement]:
    """Seconds a sample of a batch of inputs (B, *shape), all on one device, with the threads torch has now.

    The conic solver runs on processors only, on the first rows. On a GPU the exact forward is also held against one
    millisecond.
    """
    device = inputs.device.type
    exact = networks.exact(memory)
    ours, stages = _seconds(exact, inputs), _shares(exact, inputs)
    features = memory.features.shape[1]
    where = f"{torch.get_num_threads()} threads" if device == "cpu" else torch.cuda.get_device_name(inputs.device)
    note = (
        f"a batch of {len(inputs)}, K = {networks.config.num_neighbors} of {len(memory)} rows, D = {features}, "
        f"untrained networks, {where}"
    )

    def against(name: str, reference: float, goal: float | None, more: str) -> Measurement:
        return Measurement(
            name=f"otad_t_{name}_{device}",
            unit="s/sample",
            ours=ours,
            reference=reference,
            ratio=reference / ours,
            goal=goal,
            note=f"{note}; {more}",
        )

    feature, simplex = (_seconds(networks.approximate(memory, head), inputs) for head in ("feature", "simplex"))
    found = [
        against("feature_net", feature, _FEATURE_NET_GOAL, f"against OTAD-T-NN with the paper's head; ours: {stages}"),
        against("simplex_net", simplex, None, "against OTAD-T-NN with the simplex head"),
    ]
    if device == "cpu":
        conic, agreement = _conic(networks, memory, inputs[:_CONIC_ROWS])
        return [*found, against(_CONIC, conic, None, f"against {_CONIC} in D variables; {agreement}")]
    return [*found, against("millisecond", 1e-3, _MILLISECOND_GOAL, "against a millisecond")]


def _seconds(defense: nn.Module, inputs: Tensor) -> float:
    """Of one sample. Logits are brought to the processor: a GPU has finished then."""
    defense(inputs).cpu()
    return best_of(_REPEATS, lambda: defense(inputs).cpu())[0] / len(inputs)


def _shares(defense: nn.Module, inputs: Tensor) -> str:
    """Which stage takes how much of a forward pass; on a GPU, of what waits for it."""
    with record_stages() as seconds:
        defense(inputs).cpu()
    total = sum(seconds.values())
    return ", ".join(f"{name} {100 * part / total:.0f} %" for name, part in seconds.items())


def _conic(networks: Transformers, memory: NeighborMemory, inputs: Tensor) -> tuple[float, str]:
    """Seconds a sample of OTAD-T by a conic solver, and how far its solutions are from the exact ones."""
    reference = networks.exact(memory, solver=_CONIC)
    seconds, _ = best_of(1, lambda: reference(inputs))
    (_, expected), (_, found) = (networks.exact(memory, solver=name).integrate(inputs) for name in ("dual", _CONIC))
    values, features = (
        float((getattr(found, name) - getattr(expected, name)).abs().max() / getattr(expected, name).abs().max())
        for name in ("value", "feature")
    )
    return seconds / len(inputs), f"{len(inputs)} rows; values agree to {values:.0e}, features to {features:.0e}"
