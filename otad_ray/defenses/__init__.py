"""Defenses: each maps inputs in the data set's bounds to logits, and can be saved and loaded."""

from otad_ray.defenses.base import Defense, MemoryDefense
from otad_ray.defenses.catalog import DEFENSES
from otad_ray.defenses.knn import KNN
from otad_ray.defenses.otad import OTAD
from otad_ray.defenses.otad_global import OTADGlobal
from otad_ray.defenses.otad_nn import OTADNN
from otad_ray.defenses.parts import DefenseParts, SavedParts
from otad_ray.defenses.persistence import load_defense
from otad_ray.defenses.undefended import Undefended

__all__ = [
    "DEFENSES",
    "KNN",
    "OTAD",
    "OTADNN",
    "Defense",
    "DefenseParts",
    "MemoryDefense",
    "OTADGlobal",
    "SavedParts",
    "Undefended",
    "load_defense",
]
