"""How fast: each measurement times this project and a reference in one process, on the same data."""

from otad_ray.benchmarks.attacks import measure_pgd, measure_square
from otad_ray.benchmarks.certification import measure_certificates
from otad_ray.benchmarks.cip import measure_cip
from otad_ray.benchmarks.forward import measure_forward
from otad_ray.benchmarks.global_program import measure_compression, measure_global_clarabel, measure_global_pot
from otad_ray.benchmarks.measurement import Measurement, best_of, threads
from otad_ray.benchmarks.purifiers import measure_purifier
from otad_ray.benchmarks.search import measure_search, time_flat_search
from otad_ray.benchmarks.streaming import StreamedRows, measure_streaming, peak_private_bytes, private_bytes
from otad_ray.benchmarks.transformer import TransformerConfig, Transformers, measure_transformer

__all__ = [
    "Measurement",
    "StreamedRows",
    "TransformerConfig",
    "Transformers",
    "best_of",
    "measure_certificates",
    "measure_cip",
    "measure_compression",
    "measure_forward",
    "measure_global_clarabel",
    "measure_global_pot",
    "measure_pgd",
    "measure_purifier",
    "measure_search",
    "measure_square",
    "measure_streaming",
    "measure_transformer",
    "peak_private_bytes",
    "private_bytes",
    "threads",
    "time_flat_search",
]
