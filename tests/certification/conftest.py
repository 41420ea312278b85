"""Small memories, of chosen features and of a transformer's, and the certificates' formulas in plain loops."""

from collections.abc import Callable
from copy import deepcopy
from dataclasses import dataclass
from math import prod
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn import functional

from otad_ray.defenses import KNN, MemoryDefense
from otad_ray.memory import NeighborMemory
from otad_ray.models import Backbone, BackboneConfig, MetricNet, ViT, ViTArchitecture, build_backbone

Build = Callable[[Tensor, Tensor], tuple[Backbone, NeighborMemory]]
IMAGE = (1, 8, 8)


@pytest.fixture
def build(tmp_path: Path) -> Build:
    """`build(points, features)`: a memory and a backbone, the head of which reads the classes off the features."""

    def make(points: Tensor, features: Tensor, num_outputs: int = 3) -> tuple[Backbone, NeighborMemory]:
        net = build_backbone(BackboneConfig(num_blocks=1), shape=(points.shape[1],), num_outputs=num_outputs)
        with torch.no_grad():
            net.classifier.weight.copy_(torch.eye(num_outputs, points.shape[1]))
            net.classifier.bias.zero_()
        labels = features[:, :num_outputs].argmax(1)
        memory = NeighborMemory.build(
            tmp_path / f"memory{len(list(tmp_path.iterdir()))}",
            None,
            [points],
            [features],
            [labels],
            [torch.arange(len(points))],
            provenance={"backbone": net.fingerprint()},
        )
        return net.eval(), memory

    return make


@pytest.fixture
def clouds(build: Build) -> tuple[Backbone, NeighborMemory, Tensor]:
    """Three overlapping clouds of 660 points in 8 dimensions, features noisy one-hot classes; and 20 queries."""
    generator = torch.Generator().manual_seed(0)
    centers = 2.5 * torch.randn(3, 8, generator=generator)
    labels = torch.arange(660) % 3
    points = centers[labels] + torch.randn(660, 8, generator=generator)
    features = 3 * torch.eye(3, 8)[labels] + 0.2 * torch.randn(660, 8, generator=generator)
    queries = centers[torch.arange(20) % 3] + torch.randn(20, 8, generator=generator)
    # Some between the clouds, with neighbors of several classes.
    queries[:6] = centers[torch.arange(6) % 3].lerp(centers[(torch.arange(6) + 1) % 3], 0.5)
    queries[:6] += 0.4 * torch.randn(6, 8, generator=generator)
    return *build(points, features), queries


@dataclass
class Images:
    """Training images (N, 1, 8, 8) of three overlapping clouds and queries (B, 1, 8, 8)."""

    train: Tensor
    queries: Tensor


@pytest.fixture(scope="session")
def images() -> Images:
    generator = torch.Generator().manual_seed(0)
    centers = 0.5 + 0.18 * torch.randn(3, *IMAGE, generator=generator)
    train = centers[torch.arange(300) % 3] + 0.08 * torch.randn(300, *IMAGE, generator=generator)
    queries = centers[torch.arange(14) % 3] + 0.08 * torch.randn(14, *IMAGE, generator=generator)
    # Some between the clouds, with neighbors of several classes.
    queries[:4] = centers[torch.arange(4) % 3].lerp(centers[(torch.arange(4) + 1) % 3], 0.5)
    queries[:4] += 0.05 * torch.randn(4, *IMAGE, generator=generator)
    return Images(train, queries)


@pytest.fixture
def vision(tmp_path: Path, images: Images) -> Callable[..., tuple[ViT, NeighborMemory]]:
    """`vision(pooling, patch_size, metric=None)`: a transformer of random weights, and a memory of the images."""

    def make(pooling: str, patch_size: int, metric: MetricNet | None = None) -> tuple[ViT, NeighborMemory]:
        torch.manual_seed(patch_size)
        net = ViT(
            ViTArchitecture(
                shape=IMAGE, num_outputs=3, patch_size=patch_size, width=8, num_blocks=2, num_heads=2, hidden=8,
                pooling=pooling,
            )
        ).eval()  # fmt: skip
        with torch.no_grad():
            for name, parameter in net.named_parameters():
                parameter.normal_(float(name.endswith("norm.weight")), 0.3)
            # Images move tokens alike in all directions, so that certificates are not far from what is true.
            torch.nn.init.orthogonal_(net.patch_embedding.weight)
            features = net.features(net.embed(images.train))
            # The head tells the clouds apart, with mistakes.
            targets = 3 * torch.eye(3)[torch.arange(len(features)) % 3] - 1
            net.classifier.weight.copy_(torch.linalg.lstsq(classifier_input(net, features), targets).solution.T)
            memory = NeighborMemory.build(
                tmp_path / f"memory{len(list(tmp_path.iterdir()))}",
                None if metric is None else [metric(images.train)],
                [net.coordinates(images.train)],
                [features],
                [net.head(features).argmax(1)],
                [torch.arange(len(features))],
                provenance={"backbone": net.fingerprint()},
                point_space=net.point_space,
            )
        return net, memory

    return make


def classifier_input(net: ViT, features: Tensor) -> Tensor:
    """What the classifier reads (n, W) of features (n, D)."""
    classifier, net.classifier = net.classifier, torch.nn.Identity()
    try:
        return net.head(features)
    finally:
        net.classifier = classifier


@torch.no_grad()
def classes(defense: MemoryDefense, inputs: Tensor) -> Tensor:
    return defense(inputs).argmax(1)


@pytest.fixture
def broken(images: Images) -> Callable[[MemoryDefense, Tensor], Tensor]:
    """`broken(defense, sizes)`: whether (B,) an attack within sizes (B,) changes the prediction of a query."""

    def attack(defense: MemoryDefense, sizes: Tensor) -> Tensor:
        moved = torch.cat([directed(defense, images, sizes), descended(defense, images.queries, sizes)], 1)
        offsets = (moved.double() - images.queries.double().unsqueeze(1)).flatten(2)
        # Adding a small step to a float32 image changes the step's length.
        within = offsets.norm(dim=2) < sizes.unsqueeze(1)
        changed = classes(defense, moved.flatten(0, 1)).view(within.shape) != classes(
            defense, images.queries
        ).unsqueeze(1)
        return (changed & within).any(1)

    return attack


def directed(defense: MemoryDefense, images: Images, sizes: Tensor) -> Tensor:
    """Steps (B, P, *shape) to images of other classes, away from those of the own class, and in random directions."""
    randoms = torch.randn(40, *IMAGE, generator=torch.Generator().manual_seed(0))
    found = []
    for query, label, size in zip(images.queries, classes(defense, images.queries), sizes.tolist(), strict=True):
        order = (images.train - query).flatten(1).norm(dim=1).argsort()
        same = (defense.memory.labels == label)[order]
        others, own = images.train[order[~same][:20]], images.train[order[same][:5]]
        means = others.cumsum(0) / torch.arange(1, 21).view(-1, 1, 1, 1)
        directions = [others - query, (others.unsqueeze(1) - own).flatten(0, 1), means - own.mean(0), randoms]
        unit = functional.normalize(torch.cat(directions).flatten(1)).view(-1, *IMAGE)
        found.append(query + torch.cat([0.7 * size * unit, 0.999 * size * unit]))
    return torch.stack(found)


def descended(defense: MemoryDefense, queries: Tensor, sizes: Tensor) -> Tensor:
    """Ends (B, 2, *shape) of projected gradient steps on the margin, from two random starts."""
    labels = classes(defense, queries).repeat_interleave(2)
    sizes = 0.999 * sizes.float().repeat_interleave(2).unsqueeze(1)
    starts = queries.flatten(1).repeat_interleave(2, 0)
    noise = torch.randn(starts.shape, generator=torch.Generator().manual_seed(1))
    offset = 0.5 * sizes * functional.normalize(noise)
    for _ in range(8):
        offset.requires_grad_()
        logits = defense((starts + offset).view(-1, *IMAGE))
        margin = logits.gather(1, labels.unsqueeze(1)) - logits.scatter(1, labels.unsqueeze(1), -torch.inf).amax(1)
        (gradient,) = torch.autograd.grad(margin.sum(), offset)
        offset = (offset - 0.3 * sizes * functional.normalize(gradient)).detach()
        offset = offset * (sizes / offset.norm(dim=1, keepdim=True).clamp_min(1e-12)).clamp_max(1)
    return (starts + offset).view(len(queries), 2, *IMAGE)


class Reference:
    """The formulas of the certificates of an input (*shape), in float64, in the features' space, a point at a time."""

    def __init__(self, defense: MemoryDefense, query: Tensor, predicted: int, low: float) -> None:
        self.defense, self.query, self.predicted, self.low = defense, query, predicted, low
        memory, net = defense.memory, defense.backbone
        with torch.no_grad():
            key, coordinates = (located[0].double() for located in defense.locate(query.unsqueeze(0)))
        self.keys = memory.keys.double().numpy()
        self.features = memory.features.double().numpy()
        self.points, self.point = (net.points_of(array.double()).numpy() for array in (memory.points, coordinates))
        self.squared = np.square(self.keys - key.numpy()).sum(1)
        self.order = np.argsort(self.squared)
        self.num_neighbors = defense.num_neighbors if isinstance(defense, KNN) else defense.config.num_neighbors
        self.neighbors = self.order[: self.num_neighbors]
        self.weight = numerators(net)
        embedding = embedding_matrix(net, query.shape)
        self.sigma = np.linalg.norm(embedding, 2)
        # Of how the head sees points move, only what lies in the range of the embedding counts.
        basis = np.linalg.svd(embedding, full_matrices=False)[0][:, : np.linalg.matrix_rank(embedding)]
        self.seen = self.weight @ basis @ basis.T
        self.lipschitz = self.sigma if defense.metric is None else defense.metric.lipschitz_bound()

    def radius(self) -> float:
        limit = np.inf if isinstance(self.defense, KNN) else self.integrated_limit()
        if isinstance(self.defense, KNN) and self.least_margin(self.features[self.neighbors].mean(0)) <= 0:
            limit = 0.0
        return max(self.hull(), min(self.entry_of_any() / self.lipschitz, limit / self.sigma))

    def margins(self, feature: np.ndarray) -> list[tuple[float, float, float]]:
        """Of each rival: the margin, `|h_ab|`, and the length of its part that the head sees move."""
        found = []
        for rival in set(range(len(self.weight))) - {self.predicted}:
            normal = self.weight[self.predicted] - self.weight[rival]
            seen = self.seen[self.predicted] - self.seen[rival]
            found.append((float(normal @ feature), float(np.linalg.norm(normal)), float(np.linalg.norm(seen))))
        return found

    def least_margin(self, feature: np.ndarray) -> float:
        return min(margin for margin, _, _ in self.margins(feature))

    def center_radius(self, j: int) -> float:
        center = self.features[j] + self.low * (self.point - self.points[j])
        radii = []
        for margin, _, seen in self.margins(center):
            slope = abs(self.low) * seen
            radii.append(0.0 if margin <= 0 else np.inf if slope < 1e-12 else margin / slope)
        return min(radii)

    def entry(self, j: int, nearer: np.ndarray) -> float:
        nearer = nearer[self.squared[nearer] < self.squared[j]]
        apart = np.linalg.norm(self.keys[nearer] - self.keys[j], axis=1)
        radii = (self.squared[j] - self.squared[nearer]) / (2 * apart)
        return float(np.sort(radii)[-self.num_neighbors]) if len(radii) >= self.num_neighbors else 0.0

    def hull(self) -> float:
        right = np.array([i for i in self.order if self.least_margin(self.features[i]) > 0][:200], dtype=int)
        least = np.inf
        # In this order most of the rest is ruled out by the cheap bound.
        for j in self.order:
            cheap = (np.sqrt(self.squared[j]) - np.sqrt(self.squared[self.neighbors[-1]])) / 2 / self.lipschitz
            if cheap > least:
                break
            reach = self.center_radius(j) / self.sigma
            if reach < least:
                least = min(least, max(self.entry(j, right) / self.lipschitz, reach, cheap))
        return least

    def entry_of_any(self) -> float:
        return min(self.entry(j, self.neighbors) for j in self.order[self.num_neighbors :])

    def integrated_limit(self) -> float:
        with torch.no_grad():
            _, solution = self.defense.integrate(self.query.unsqueeze(0))
        low, high = self.low, self.defense.config.regularity.smoothness
        return min(
            max(0.0, margin) / (abs(high + low) / 2 * seen + (high - low) / 2 * length)
            for margin, length, seen in self.margins(solution.feature[0].double().numpy())
        )


def numerators(net: Backbone) -> np.ndarray:
    """`W` (C, D) of logits times the standard deviation that a normalization divides by: for heads without biases."""
    units = torch.eye(net.dimension, dtype=torch.float64)
    with torch.no_grad():
        logits = deepcopy(net).double().head(units)
        if isinstance(net, ViT):
            tokens = units.unflatten(1, (-1, net.config.width))
            pooled = tokens[:, 0] if net.config.pooling == "class_token" else tokens.mean(1)
            logits = logits * (pooled.var(1, correction=0, keepdim=True) + net.norm.eps).sqrt()
    return logits.T.numpy()


def embedding_matrix(net: Backbone, shape: tuple[int, ...]) -> np.ndarray:
    """The linear part (D, values) of the embedding."""
    units = torch.eye(prod(shape), dtype=torch.float64).view(-1, *shape)
    exact = deepcopy(net).double()
    with torch.no_grad():
        return (exact.embed(units) - exact.embed(torch.zeros_like(units[:1]))).T.numpy()


@pytest.fixture
def reference() -> type[Reference]:
    return Reference
