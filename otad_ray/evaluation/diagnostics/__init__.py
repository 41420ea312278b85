"""Diagnostics of backbones, metric nets and labels."""
