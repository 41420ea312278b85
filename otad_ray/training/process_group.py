"""The processes that train together."""

from typing import TypeVar

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

Value = TypeVar("Value")


class ProcessGroup:
    """Those of torch.distributed where a group is open in this process, else this process alone."""

    def __init__(self) -> None:
        is_open = dist.is_available() and dist.is_initialized()
        self.rank = dist.get_rank() if is_open else 0
        self.size = dist.get_world_size() if is_open else 1

    def parallel(self, network: nn.Module) -> nn.Module:
        """The network, with gradients averaged over the processes."""
        return DistributedDataParallel(network) if self.size > 1 else network

    def share(self, batch: Tensor) -> Tensor:
        """This process's part of a batch; parts differ by one row at most, and may be empty."""
        return batch.tensor_split(self.size)[self.rank]

    def gather_shares(self, part: Tensor, total: int) -> Tensor:
        """A batch's rows (total, ...), of which every process gives its share (n, ...); own ones have a gradient."""
        if self.size == 1:
            return part
        sizes = [len(share) for share in torch.arange(total).tensor_split(self.size)]
        # Processes exchange equal shapes only.
        padded = part.new_zeros(max(sizes), *part.shape[1:])
        padded[: len(part)] = part.detach()
        shares = [torch.empty_like(padded) for _ in sizes]
        dist.all_gather(shares, padded)
        kept = [share[:size] for share, size in zip(shares, sizes, strict=True)]
        kept[self.rank] = part
        return torch.cat(kept)

    def sum(self, values: Tensor) -> Tensor:
        """Sum over the processes, the same in each."""
        if self.size > 1:
            dist.all_reduce(values)
        return values

    def from_first(self, value: Value) -> Value:
        """The value that the process of rank 0 gives."""
        if self.size == 1:
            return value
        values = [value]
        dist.broadcast_object_list(values)
        return values[0]
