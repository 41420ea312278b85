"""The jobs, one module for each script in `jobs/` with the same name."""
