"""Defenses over all training points, of a memory alone."""

from torch import nn

from otad_ray.cip import fit_potentials
from otad_ray.cip.global_program import find_neighbors
from otad_ray.defenses import OTADGlobal
from otad_ray.memory import NeighborMemory, PotentialConfig, move_pieces


def make_global_defense(net: nn.Module, memory: NeighborMemory, config: PotentialConfig) -> OTADGlobal:
    """Return the defense of a net and a memory, with potentials fitted to the 10 nearest points of each."""
    potentials = fit_potentials(memory.points, memory.features, find_neighbors(memory.points, 10))
    pieces = move_pieces(memory, potentials, config)
    return OTADGlobal(net, memory, pieces, smoothness=config.smoothness, share=config.share).eval()
