"""The defenses that are made of a preset's own parts, by name. To add one, add an entry."""

from collections.abc import Mapping

from otad_ray.defenses.base import MemoryDefense
from otad_ray.defenses.knn import KNN
from otad_ray.defenses.otad import OTAD
from otad_ray.defenses.otad_global import OTADGlobal
from otad_ray.defenses.otad_nn import OTADNN
from otad_ray.defenses.undefended import Undefended

DEFENSES: Mapping[str, type[MemoryDefense] | type[Undefended]] = {
    "otad": OTAD,
    "otad_nn": OTADNN,
    "otad_global": OTADGlobal,
    "knn": KNN,
    "net": Undefended,
}
