"""CIP-net: a transformer encoder in place of the solver of convex integration (paper, Sections IV.C and V.F)."""

from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor, nn

from otad_ray.errors import InputError
from otad_ray.models.checkpoints import Architecture, Family
from otad_ray.models.cip_net_config import CipNetArchitecture, CipNetConfig, cip_net_config
from otad_ray.models.cip_tokens import CoordinateTokens, Neighborhoods, RelationTokens
from otad_ray.models.fingerprint import network_fingerprint
from otad_ray.models.transformer import TransformerBlock

# Least size of a neighborhood, of that in the data: where all points coincide with the query there is none.
_LEAST_SIZE = 1e-3


class CipNetOutput(NamedTuple):
    """What the head says; the other is None.

    weights (B, K): of the simplex head, float64, nonnegative, of sum 1 up to its rounding: the feature is
        `sum_i s_i w_i`, `w_i = z_i + a (x - x_i)`.
    feature (B, D): of the feature head, in the dtype of the network.
    """

    weights: Tensor | None = None
    feature: Tensor | None = None


class CipNet(nn.Module):
    """2K + 1 tokens (the query, its K neighbors' points, and their features), blocks, a head.

    A neighborhood is taken in units of its size, the root mean square of `|x - x_i|`, features besides of the ratio of
    both scales: (15) and (16) do not change when points and features grow alike, and neither does what the net sees.
    A new net gives the mean of the features.
    """

    def __init__(self, config: CipNetArchitecture) -> None:
        super().__init__()
        self.config = config
        self.tokens, self.head = (make(config) for make in _HEADS[config.head])
        blocks = [
            TransformerBlock(config.width, config.num_heads, config.hidden, dropout=config.dropout)
            for _ in range(config.num_blocks)
        ]
        for block in blocks:
            block.start_as_identity()
        self.blocks = nn.ModuleList(blocks)
        self.norm = nn.LayerNorm(config.width)
        self.point_scale: Tensor
        self.feature_scale: Tensor
        self.register_buffer("point_scale", torch.ones(()))
        self.register_buffer("feature_scale", torch.ones(()))

    def set_scales(self, point_scale: float, feature_scale: float) -> None:
        """Before training: root mean squares of the entries of points and of features about a neighborhood's mean."""
        for name, scale in (("point_scale", point_scale), ("feature_scale", feature_scale)):
            if not 0 < scale < float("inf"):
                raise ValueError(f"need a finite {name} > 0, got {scale}")
            getattr(self, name).fill_(scale)

    def check(self, *, num_neighbors: int, coordinates: int, dimension: int) -> None:
        """InputError for neighborhoods of another shape than the net's."""
        found = {"num_neighbors": num_neighbors, "num_coordinates": coordinates, "dimension": dimension}
        for name, value in found.items():
            expected = getattr(self.config, name)
            if value != expected:
                raise InputError(
                    f"this CIP-net takes {name}={expected}, got {value}; train one for these neighborhoods"
                )

    def forward(
        self, query: Tensor, points: Tensor, features: Tensor, features_in_point_space: Tensor | None = None
    ) -> CipNetOutput:
        """Weights or feature of query (B, d), points (B, K, d) and features (B, K, D), nearest neighbor first.

        features_in_point_space (B, K, d): by `TokenSpace.project`; the simplex head needs them where d < D.
        ValueError for shapes unlike the configured ones.
        """
        if (points.dim(), features.dim()) != (3, 3) or not (
            query.shape == points.shape[::2] and features.shape[:2] == points.shape[:2]
        ):
            raise ValueError(
                "need query (B, d), points (B, K, d) and features (B, K, D), "
                f"got {tuple(query.shape)}, {tuple(points.shape)} and {tuple(features.shape)}"
            )
        self.check(num_neighbors=points.shape[1], coordinates=points.shape[2], dimension=features.shape[2])
        near = self._near(points, features, features_in_point_space)
        dtype = self.norm.weight.dtype
        # Differences of bfloat16 products would be noise, and so would a softmax of bfloat16 scores.
        with torch.autocast(query.device.type, enabled=False):
            neighborhoods, size = self._in_own_units(*(part.to(dtype) for part in (query, points, features, near)))
            tokens = self.tokens(neighborhoods)
        for block in self.blocks:
            tokens = block(tokens)
        with torch.autocast(query.device.type, enabled=False):
            found = self.head(self.norm(tokens.to(dtype)))
            if self.config.head == "simplex":
                return CipNetOutput(weights=_on_the_simplex(found.double()))
            return CipNetOutput(feature=features.to(dtype).mean(1) + found * size * self._entry_ratio)

    def fingerprint(self) -> str:
        """SHA-256 of configuration, parameters and buffers, in hex: equal only for the same network."""
        return network_fingerprint(self, self.config)

    def _near(self, points: Tensor, features: Tensor, given: Tensor | None) -> Tensor:
        if self.config.head == "feature":
            # Its tokens are made of coordinates alone.
            return points
        near = features if given is None else given
        if near.shape != points.shape:
            raise ValueError(
                f"need features in the space of the points, {tuple(points.shape)}, got {tuple(near.shape)}: "
                "give features_in_point_space, by TokenSpace.project"
            )
        return near

    def _in_own_units(
        self, query: Tensor, points: Tensor, features: Tensor, near: Tensor
    ) -> tuple[Neighborhoods, Tensor]:
        """The neighborhoods, and their sizes (B, 1) per root of d."""
        center = points.mean(1, keepdim=True)
        offset, points = query.unsqueeze(1) - center, points - center
        mean_square = (points.square().mean((1, 2)) + offset.square().mean((1, 2))).unsqueeze(1)
        size = (mean_square + (_LEAST_SIZE * self.point_scale) ** 2).sqrt()
        point_unit = (size * self.config.num_coordinates**0.5).unsqueeze(2)
        feature_unit = (size * self._entry_ratio * self.config.dimension**0.5).unsqueeze(2)
        mean_feature = features.mean(1, keepdim=True)
        neighborhoods = Neighborhoods(
            offset / point_unit,
            points / point_unit,
            (features - mean_feature) / feature_unit,
            mean_feature / feature_unit,
            near / feature_unit,
        )
        return neighborhoods, size

    @property
    def _entry_ratio(self) -> Tensor:
        return self.feature_scale / self.point_scale


class _Scores(nn.Module):
    """A score (B, K) of each neighbor, from its point's and its feature's token."""

    def __init__(self, config: CipNetArchitecture) -> None:
        super().__init__()
        self.score = nn.Linear(2 * config.width, 1, bias=False)
        nn.init.zeros_(self.score.weight)

    def forward(self, tokens: Tensor) -> Tensor:
        points, features = tokens[:, 1:].chunk(2, 1)
        return self.score(torch.cat([points, features], 2)).squeeze(2)


class _Offset(nn.Linear):
    """The feature's offset from the mean (B, D), in units of the neighborhood, from the query's token."""

    def __init__(self, config: CipNetArchitecture) -> None:
        super().__init__(config.width, config.dimension)
        nn.init.zeros_(self.weight)
        nn.init.zeros_(self.bias)

    def forward(self, tokens: Tensor) -> Tensor:
        return super().forward(tokens[:, 0])


# Tokens and output of each head: weights need relations only, a feature needs directions.
_HEADS = {"simplex": (RelationTokens, _Scores), "feature": (CoordinateTokens, _Offset)}


def _on_the_simplex(scores: Tensor) -> Tensor:
    """Weights (B, K) of scores (B, K); uniform where these are not finite, for certificates rest on the simplex."""
    finite = torch.isfinite(scores).all(1, keepdim=True)
    return torch.where(finite, scores, 0.0).softmax(1)


CIP_NETS: Family[CipNet] = Family("CIP-net", {"cip_net": Architecture(CipNetArchitecture, CipNet)})


def build_cip_net(
    options: CipNetConfig,
    *,
    num_neighbors: int,
    coordinates: int,
    dimension: int,
    backbone: str | None = None,
    problem: str | None = None,
) -> CipNet:
    """A new CIP-net, randomly initialized from torch's global generator, with scales of 1."""
    config = cip_net_config(
        options,
        num_neighbors=num_neighbors,
        coordinates=coordinates,
        dimension=dimension,
        backbone=backbone,
        problem=problem,
    )
    return CipNet(config)


def save_cip_net(directory: Path, net: CipNet) -> None:
    """Write the checkpoint into an existing directory."""
    CIP_NETS.save(directory, net)


def load_cip_net(directory: Path) -> CipNet:
    """The CIP-net of a checkpoint, in evaluation mode, on the CPU; InputError where it cannot be read."""
    return CIP_NETS.load(directory)
