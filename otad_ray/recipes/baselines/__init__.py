"""The catalog of baselines: what each is made of, and how it is trained."""
