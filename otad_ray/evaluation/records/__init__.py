"""Records: one row per sample, of attacks, of samples as they are, and of evaluations."""
