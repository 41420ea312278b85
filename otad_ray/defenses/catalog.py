"""The defenses by name. To add one, add an entry."""

from collections.abc import Mapping

from otad_ray.defenses.base import Defense
from otad_ray.defenses.knn import KNN
from otad_ray.defenses.otad import OTAD
from otad_ray.defenses.otad_nn import OTADNN
from otad_ray.defenses.undefended import Undefended

DEFENSES: Mapping[str, type[Defense]] = {
    "otad": OTAD,
    "otad_nn": OTADNN,
    "knn": KNN,
    "net": Undefended,
}
