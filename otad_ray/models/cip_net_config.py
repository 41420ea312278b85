"""What a CIP-net is: its options, and its configuration for neighborhoods of one shape."""

from dataclasses import dataclass
from typing import Literal, get_args

from otad_ray.errors import InputError

CipNetHead = Literal["simplex", "feature"]
CIP_NET_HEADS: tuple[str, ...] = get_args(CipNetHead)


@dataclass(frozen=True, kw_only=True)
class CipNetArchitecture:
    """A CIP-net for neighborhoods of one shape.

    num_neighbors: K. num_coordinates: d of query and points. dimension: D of features.
    width: of a token. hidden: of the blocks' MLPs. head: as in `CipNetConfig`.
    backbone: fingerprint of the backbone whose points and features it knows; None for any.
    problem: what it gives solutions of, as `IntegrationConfig.problem` says it; None for any.
    """

    num_neighbors: int
    num_coordinates: int
    dimension: int
    width: int
    num_blocks: int
    num_heads: int
    hidden: int
    dropout: float
    head: CipNetHead
    backbone: str | None = None
    problem: str | None = None

    def __post_init__(self) -> None:
        for name in ("num_neighbors", "num_coordinates", "dimension", "width", "num_blocks", "num_heads", "hidden"):
            if getattr(self, name) < 1:
                raise ValueError(f"need {name} >= 1, got {getattr(self, name)}")
        if self.num_coordinates > self.dimension:
            raise ValueError(
                f"need num_coordinates <= dimension, got {self.num_coordinates} coordinates and {self.dimension}"
            )
        if self.width % self.num_heads:
            raise ValueError(f"need a width that num_heads divides, got {self.width} and {self.num_heads}")
        if not 0 <= self.dropout < 1:
            raise ValueError(f"need dropout in [0, 1), got {self.dropout}")
        if self.head not in CIP_NET_HEADS:
            raise ValueError(f"unknown head {self.head!r}; known: {', '.join(CIP_NET_HEADS)}")


@dataclass(frozen=True, kw_only=True)
class CipNetConfig:
    """How large a CIP-net is, and what it gives.

    Attributes:
        head: simplex, weights of the neighbors, so that the feature can be certified like the solver's; or feature,
            the feature itself, as in the paper.
        width: of a token; the authors' code takes 2048.
        num_blocks: of the encoder.
        num_heads: of attention.
        hidden: inner width of the blocks' MLPs (default: twice the width; the authors' code takes 512).
        dropout: in the blocks' MLPs; the authors' code takes 0.1. With it the result depends on the number of workers.
    """

    head: CipNetHead = "simplex"
    width: int = 256
    num_blocks: int = 6
    num_heads: int = 8
    hidden: int | None = None
    dropout: float = 0.0

    def __post_init__(self) -> None:
        # All rules but those on neighborhoods, before there are any.
        cip_net_config(self, num_neighbors=1, coordinates=1, dimension=1)


def cip_net_config(
    options: CipNetConfig,
    *,
    num_neighbors: int,
    coordinates: int,
    dimension: int,
    backbone: str | None = None,
    problem: str | None = None,
) -> CipNetArchitecture:
    """The configuration for such neighborhoods; InputError for options that do not fit."""
    try:
        return CipNetArchitecture(
            num_neighbors=num_neighbors,
            num_coordinates=coordinates,
            dimension=dimension,
            width=options.width,
            num_blocks=options.num_blocks,
            num_heads=options.num_heads,
            hidden=2 * options.width if options.hidden is None else options.hidden,
            dropout=options.dropout,
            head=options.head,
            backbone=backbone,
            problem=problem,
        )
    except ValueError as error:
        raise InputError(f"CIP-net: {error}") from error
