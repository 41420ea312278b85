"""Certificates: l2 radii within which a defense's prediction is proven not to change; Theorem 1 of attention."""

from otad_ray.certification.attention import (
    AttentionBound,
    AttentionRecord,
    attention_bound,
    attention_report,
    empirical_lipschitz,
)
from otad_ray.certification.attention_metrics import measure_attention
from otad_ray.certification.memory_defenses import CERTIFIERS, certificate_revision
from otad_ray.certification.radius import Certificate, certified_linf_radius, certified_radius

__all__ = [
    "CERTIFIERS",
    "AttentionBound",
    "AttentionRecord",
    "Certificate",
    "attention_bound",
    "attention_report",
    "certificate_revision",
    "certified_linf_radius",
    "certified_radius",
    "empirical_lipschitz",
    "measure_attention",
]
