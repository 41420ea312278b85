"""The training of the baselines."""
