"""How a saved defense is loaded."""

import json
from pathlib import Path

import torch

from otad_ray.defenses.base import DESCRIPTION, Defense
from otad_ray.defenses.baselines import BASELINE_DEFENSES
from otad_ray.defenses.catalog import DEFENSES
from otad_ray.defenses.parts import SavedParts
from otad_ray.errors import InputError


def load_defense(directory: str | Path, *, search: str = "torch", device: str | torch.device = "cpu") -> Defense:
    """Load the defense that `Defense.save` wrote.

    Args:
        directory: Where it was saved.
        search: How its memory is searched: torch, or faiss with the same results, or what else `SearchName` reads.
        device: Where its networks and its memory are put.

    Returns:
        The defense, in evaluation mode.

    Raises:
        InputError: If there is no defense, or one that cannot be loaded.
    """
    directory = Path(directory).absolute()
    kinds: dict[str, type[Defense]] = {kind.kind: kind for kind in (*DEFENSES.values(), *BASELINE_DEFENSES)}
    try:
        description = json.loads((directory / DESCRIPTION).read_text())
        kind = description["kind"]
        if kind not in kinds:
            raise InputError(f"unknown defense {kind!r} in {directory}; known: {', '.join(kinds)}")
        return kinds[kind].load(SavedParts(directory, description, search=search, device=device)).eval()
    except FileNotFoundError:
        raise InputError(f"{directory} is no defense: it has no {DESCRIPTION}") from None
    except InputError:
        raise
    except (KeyError, TypeError, ValueError) as error:
        raise InputError(f"{directory / DESCRIPTION} cannot be used: {error!r}") from error
