"""The feature that CIP-net gives in place of a solver."""

from torch import Tensor

from otad_ray.cip import center_displacement, combine_centers
from otad_ray.memory.integration import IntegrationConfig, Neighborhood
from otad_ray.models import CipNet, TokenSpace


def net_inputs(neighborhood: Neighborhood, point_space: TokenSpace | None) -> tuple[Tensor, ...]:
    """What CIP-net is called with: the neighborhood and, where points are kept in another space, features in that."""
    return neighborhood if point_space is None else (*neighborhood, point_space.project(neighborhood.features))


def approximate_feature(
    cip_net: CipNet, neighborhood: Neighborhood, config: IntegrationConfig, point_space: TokenSpace | None
) -> Tensor:
    """Features (n, D) by CIP-net; with its simplex head `sum_i s_i w_i`, in the hull of the `w_i` like the solver's."""
    output = cip_net(*net_inputs(neighborhood, point_space))
    if output.weights is None:
        return output.feature
    displacement = center_displacement(config.regularity, config.cross_term)
    return combine_centers(output.weights, *neighborhood, displacement, point_space)
