"""Layers that baselines are built of, each by itself."""
