"""The nearest training sample in the catalog of baselines."""

from otad_ray.defenses.baselines.nearest_neighbor import NearestNeighbor
from otad_ray.recipes.baselines.entry import BaselineEntry, refuse_regression

ENTRY = BaselineEntry(
    name="nearest_neighbor",
    paper="Cover and Hart, Nearest neighbor pattern classification, 1967",
    source="certificate: Wang et al., Evaluating the robustness of nearest neighbor classifiers, arXiv 1906.03972",
    changes=(
        "the certificate is the largest distance to a bisector for each sample of another class, which is a lower "
        "bound of the exact radius: the exact one needs a quadratic program for each of them"
    ),
    make=lambda parts: NearestNeighbor(parts.input_memory),
    refuse=refuse_regression,
)
