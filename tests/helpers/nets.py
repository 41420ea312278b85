"""Nets to attack: trained, of rows that are computed one by one, linear, and with gradients masked on purpose."""

from dataclasses import dataclass

import torch
from sklearn.datasets import load_digits
from torch import Tensor, nn
from torch.nn import functional

BOUNDS = (0.0, 1.0)


@dataclass(frozen=True)
class Trained:
    """An undefended net, and digits (B, 1, 8, 8) in [0, 1] that it was not trained on."""

    net: nn.Module
    x: Tensor
    y: Tensor


def train_on_digits() -> Trained:
    images, labels = load_digits(return_X_y=True)
    x, y = torch.tensor(images / 16, dtype=torch.float32).view(-1, 1, 8, 8), torch.tensor(labels)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        net = nn.Sequential(nn.Flatten(), nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 10))
    optimizer = torch.optim.Adam(net.parameters(), 1e-2)
    for _ in range(150):
        optimizer.zero_grad()
        functional.cross_entropy(net(x[:1400]), y[:1400]).backward()
        optimizer.step()
    return Trained(net.eval().requires_grad_(False), x[1400:], y[1400:])


def accuracy(net: nn.Module, x: Tensor, y: Tensor) -> float:
    with torch.no_grad():
        return float((net(x).argmax(1) == y).double().mean())


class Rows(nn.Module):
    """A two-layer net whose outputs are the same to the last bit whatever is in the batch, as BLAS does not promise."""

    def __init__(self, dimension: int, num_classes: int = 4) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(0)
        self.first = torch.randn(8, dimension, generator=generator)
        self.second = torch.randn(num_classes, 8, generator=generator)

    def forward(self, x: Tensor) -> Tensor:
        hidden = torch.stack([(self.first * row).sum(1).tanh() for row in x.flatten(1)])
        return torch.stack([(self.second * row).sum(1) for row in hidden])


class TwoClasses(nn.Module):
    """Logits (0, <weight, x> + bias): the closed forms of every attack are known."""

    def __init__(self, weight: Tensor, bias: float = 0.0) -> None:
        super().__init__()
        self.weight, self.bias = weight, bias

    def forward(self, x: Tensor) -> Tensor:
        value = x.flatten(1) @ self.weight + self.bias
        return torch.stack([torch.zeros_like(value), value], 1)


class Rounded(nn.Module):
    """Logits in steps: the gradient is zero everywhere, and there is a graph."""

    def __init__(self, net: nn.Module, step: float = 0.25) -> None:
        super().__init__()
        self.net, self.step = net, step

    def forward(self, x: Tensor) -> Tensor:
        return (self.net(x) / self.step).round() * self.step


class Counted(nn.Module):
    """A net that counts the samples it is asked about."""

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net = net
        self.rows = 0

    def forward(self, x: Tensor) -> Tensor:
        self.rows += len(x)
        return self.net(x)


def wilson_interval(share: float, count: int) -> tuple[float, float]:
    """95 % interval of a share of so many samples."""
    z = 1.959964
    center = (share + z**2 / (2 * count)) / (1 + z**2 / count)
    half = z * (share * (1 - share) / count + z**2 / (4 * count**2)) ** 0.5 / (1 + z**2 / count)
    return center - half, center + half
