"""What CIP-net is told of a neighborhood, as tokens."""

from abc import ABC, abstractmethod
from typing import NamedTuple

import torch
from torch import Tensor, nn

from otad_ray.models.cip_net_config import CipNetArchitecture


class Neighborhoods(NamedTuple):
    """Neighborhoods about the mean of their points, in units of their size.

    query (B, 1, d), points (B, K, d); features (B, K, D) about mean_feature (B, 1, D); near (B, K, d): features with
    their mean, in the space of the points.
    """

    query: Tensor
    points: Tensor
    features: Tensor
    mean_feature: Tensor
    near: Tensor


class _Tokens(nn.Module, ABC):
    """Tokens (B, 2K + 1, width) with what each is: its type, and the rank that a neighbor's point and feature share."""

    def __init__(self, config: CipNetArchitecture) -> None:
        super().__init__()
        self.types = nn.Parameter(0.02 * torch.randn(3, config.width))
        self.ranks = nn.Parameter(0.02 * torch.randn(config.num_neighbors, config.width))

    def forward(self, neighborhoods: Neighborhoods) -> Tensor:
        query, points, features = self.contents(neighborhoods)
        tokens = (query + self.types[0], points + self.types[1] + self.ranks, features + self.types[2] + self.ranks)
        return torch.cat(tokens, 1)

    @abstractmethod
    def contents(self, neighborhoods: Neighborhoods) -> tuple[Tensor, Tensor, Tensor]:
        """Of the query's token (B, 1, width), the points' and the features' (B, K, width)."""


class RelationTokens(_Tokens):
    """A token says how its point, or its feature, lies to the others.

    `|x_i - x_j|^2`, `|z_i - z_j|^2` and `<z_j, x_i - x_j>`, with the query among the `x_i`, decide the exact weights.
    Coordinates beside them were learned by heart: from 1437 digits the test error, in units of the mean's, was 0.24
    without and 0.35 with them.
    """

    def __init__(self, config: CipNetArchitecture) -> None:
        super().__init__(config)
        num_neighbors = config.num_neighbors
        self.query = nn.Linear(2 * num_neighbors, config.width)
        self.points = nn.Linear(num_neighbors + 1, config.width)
        self.features = nn.Linear(3 * num_neighbors + 1, config.width)

    def contents(self, neighborhoods: Neighborhoods) -> tuple[Tensor, Tensor, Tensor]:
        num_neighbors = neighborhoods.points.shape[1]
        places = torch.cat([neighborhoods.points, neighborhoods.query], 1)
        distances = _squared_distances(places)
        products = places @ neighborhoods.near.mT
        slopes = products - products.diagonal(dim1=1, dim2=2).unsqueeze(1)
        of_features = [_squared_distances(neighborhoods.features), slopes[:, :num_neighbors], slopes.mT]
        return (
            self.query(torch.cat([distances[:, num_neighbors:, :num_neighbors], slopes[:, num_neighbors:]], 2)),
            self.points(distances[:, :num_neighbors]),
            self.features(torch.cat(of_features, 2)),
        )


class CoordinateTokens(_Tokens):
    """A token is a linear map of its point or feature, as in the paper; the query's says the mean feature, too."""

    def __init__(self, config: CipNetArchitecture) -> None:
        super().__init__(config)
        self.points = nn.Linear(config.num_coordinates, config.width)
        self.features = nn.Linear(config.dimension, config.width)
        self.mean_feature = nn.Linear(config.dimension, config.width, bias=False)
        # Linear layers start for entries of size one, where a neighborhood's have a norm of one.
        self._roots = config.num_coordinates**0.5, config.dimension**0.5

    def contents(self, neighborhoods: Neighborhoods) -> tuple[Tensor, Tensor, Tensor]:
        of_points, of_features = self._roots
        query = self.points(of_points * neighborhoods.query)
        query = query + self.mean_feature(of_features * neighborhoods.mean_feature)
        points = self.points(of_points * neighborhoods.points)
        return query, points, self.features(of_features * neighborhoods.features)


def _squared_distances(rows: Tensor) -> Tensor:
    """Rows (B, N, E) to (B, N, N)."""
    products = rows @ rows.mT
    squares = products.diagonal(dim1=1, dim2=2)
    return squares.unsqueeze(1) + squares.unsqueeze(2) - 2 * products
