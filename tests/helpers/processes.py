"""Functions that run in several processes at once, as ranks of one training."""

from collections.abc import Callable
from typing import Any

import torch.multiprocessing as mp

# What such functions need, and can be found without the paths of tests. Optimizers import `torch._dynamo`.
_IMPORTED = ["otad_ray.training", "pytest", "sklearn.datasets", "sklearn.model_selection", "torch._dynamo"]


def run_in_two_processes(function: Callable[..., None], *arguments: Any) -> None:
    """Call `function(rank, 2, *arguments)` in two new processes; raise what one of them raises.

    The processes are copies of one that has imported PyTorch and more, which takes seconds.
    """
    mp.get_context("forkserver").set_forkserver_preload(_IMPORTED)
    mp.start_processes(function, (2, *arguments), nprocs=2, start_method="forkserver")
