"""Certificates: l2 radii within which a defense's prediction is proven not to change."""

from otad_ray.certification.memory_defenses import CERTIFIERS
from otad_ray.certification.radius import Certificate, certified_radius

__all__ = ["CERTIFIERS", "Certificate", "certified_radius"]
