"""OTAD, an optimal-transport-induced adversarial defense, as a distributed batch system on Ray."""

__version__ = "0.1.0"
