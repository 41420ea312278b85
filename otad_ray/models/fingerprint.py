"""What tells networks apart."""

import hashlib
from dataclasses import asdict
from typing import Any

from torch import nn


def network_fingerprint(network: nn.Module, config: Any) -> str:
    """Return the SHA-256 of architecture, parameters and buffers, in hex: equal only for the same network."""
    # Options at None are left out: they came later, and networks from before keep their fingerprint.
    options = ", ".join(f"{name}={value!r}" for name, value in asdict(config).items() if value is not None)
    # Architectures were called configurations when the first fingerprints were taken, by which artifacts are found.
    kind = type(config).__name__.replace("Architecture", "Config")
    digest = hashlib.sha256(f"{type(network).__name__} {kind}({options})".encode())
    for name, value in sorted(network.state_dict().items()):
        array = value.detach().cpu().contiguous().numpy()
        digest.update(f"{name} {array.dtype} {array.shape}".encode() + array.tobytes())
    return digest.hexdigest()
