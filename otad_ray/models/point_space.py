"""Coordinates of points in a space that is isometric to theirs, and far smaller.

A transformer's points are an affine map of the input into many more dimensions than it has. Distances and inner
products of differences of points are those of their coordinates: these are what is stored, searched and integrated.
"""

from typing import Any, Self

import torch
from torch import Tensor


class TokenSpace:
    """Points `x = offset + lift(c)` of tokens that share one basis.

    basis (W, m): orthonormal columns. num_moving: patches; their coordinates c are (num_moving * m,).
    num_fixed: tokens before them that are the same for every input, such as a class token.
    offset (D,): `D = (num_fixed + num_moving) * W`.
    """

    def __init__(self, basis: Tensor, *, num_moving: int, num_fixed: int, offset: Tensor) -> None:
        self._basis, self._offset = basis, offset
        self._num_moving, self._num_fixed = num_moving, num_fixed
        self.num_coordinates = num_moving * basis.shape[1]
        self.dimension = (num_fixed + num_moving) * len(basis)

    @property
    def tensors(self) -> dict[str, Tensor]:
        """What `restore` needs, beside `layout`."""
        return {"basis": self._basis, "offset": self._offset}

    @property
    def layout(self) -> dict[str, int]:
        """Numbers of tokens, of JSON types."""
        return {"num_moving": self._num_moving, "num_fixed": self._num_fixed}

    @classmethod
    def restore(cls, tensors: dict[str, Tensor], layout: dict[str, Any]) -> Self:
        """The space of these `tensors` and this `layout`."""
        return cls(tensors["basis"], offset=tensors["offset"], **layout)

    def to(self, device: str | torch.device) -> Self:
        """The same space with its tensors on a device."""
        return self.restore({name: tensor.to(device) for name, tensor in self.tensors.items()}, self.layout)

    def points(self, coordinates: Tensor) -> Tensor:
        """Points (..., D) of coordinates (..., d)."""
        return self._offset.to(coordinates) + self.lift(coordinates)

    def lift(self, displacements: Tensor) -> Tensor:
        """Differences of coordinates (..., d) as differences of points (..., D), of the same length."""
        tokens = displacements.unflatten(-1, (self._num_moving, -1)) @ self._basis.to(displacements).T
        if self._num_fixed:
            fixed = tokens.new_zeros(*tokens.shape[:-2], self._num_fixed, tokens.shape[-1])
            tokens = torch.cat([fixed, tokens], -2)
        return tokens.flatten(-2)

    def project(self, vectors: Tensor) -> Tensor:
        """The adjoint of `lift`: vectors (..., D) to (..., d), so that `<lift(c), v> = <c, project(v)>`."""
        tokens = vectors.unflatten(-1, (self._num_fixed + self._num_moving, -1))
        return (tokens[..., self._num_fixed :, :] @ self._basis.to(vectors)).flatten(-2)
