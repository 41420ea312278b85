"""The certificate of the potential over all training points; `certify` has the proof."""

from otad_ray.certification.global_potential.certify import certify_pieces

__all__ = ["certify_pieces"]
