"""What tells networks apart."""

import hashlib
from dataclasses import asdict
from typing import Any

from torch import nn


def network_fingerprint(network: nn.Module, config: Any) -> str:
    """SHA-256 of architecture, configuration, parameters and buffers, in hex: equal only for the same network."""
    # Options at None are left out: they came later, and networks from before keep their fingerprint.
    options = ", ".join(f"{name}={value!r}" for name, value in asdict(config).items() if value is not None)
    digest = hashlib.sha256(f"{type(network).__name__} {type(config).__name__}({options})".encode())
    for name, value in sorted(network.state_dict().items()):
        array = value.detach().cpu().contiguous().numpy()
        digest.update(f"{name} {array.dtype} {array.shape}".encode() + array.tobytes())
    return digest.hexdigest()
