"""What is measured of running jobs, and how it is shown: metrics, dashboard and alert rules, as data.

`python -m otad_ray.monitoring` writes `dashboards/` and the tables of `docs/monitoring.md`. Nothing is imported here:
the cluster's metrics actor needs the definitions alone, and PyTorch would take it seconds and hundreds of megabytes.
"""
