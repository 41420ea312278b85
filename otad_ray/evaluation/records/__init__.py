"""Records: one row per sample, of attacks, of clean passes and of evaluations."""
