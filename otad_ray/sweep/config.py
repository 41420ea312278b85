"""Options of the sweep."""

from dataclasses import dataclass
from math import inf

from otad_ray.attacks import Budget, Norm, find_attack
from otad_ray.data import Split
from otad_ray.errors import InputError
from otad_ray.options import ActorJobConfig
from otad_ray.recipes.defenses import ALL, OTAD_NN, check_cip_net_directory, check_names
from otad_ray.sweep.samples import COHORT_SIZE


@dataclass(frozen=True, kw_only=True)
class SweepConfig(ActorJobConfig):
    """Options of the sweep.

    Attributes:
        defense: otad, otad_released (the authors' cross term), otad_nn (CIP-net in place of the solver),
            otad_global (over all training points), knn, net
            (undefended), plain_otad and plain_net (without residual connections); the baselines that `otad defenses`
            lists; all, for every one of these that fits the data set; or path/to/file.py:function, which returns your
            own torch.nn.Module.
        cip_net_directory: a CIP-net for otad_nn in place of the preset's.
        attacks: attacks on all samples (default: the cheap ones that fit the data set).
        costly_attacks: attacks on the first costly_samples (default: those that fit, or none where attacks are named).
        costly_samples: see costly_attacks.
        eps: radii of the perturbations, in the unit of the inputs (default: by norm and task).
        norm: l2 or linf.
        samples: how many, drawn from the split by the seed (default: 1000, or all of a smaller split).
        split: where samples are drawn from.
        seed: of the samples and of the attacks.
        early_stop: do not attack a sample again that is broken already with an eps: the same worst case in less time,
            but then attacks cannot be compared.
        rows_per_shard: samples attacked and written at a time, in cohorts of 100.
    """

    defense: tuple[str, ...] = ("otad", "net")
    cip_net_directory: str | None = None
    attacks: tuple[str, ...] | None = None
    costly_attacks: tuple[str, ...] | None = None
    costly_samples: int = 200
    eps: tuple[float, ...] | None = None
    norm: Norm = "l2"
    samples: int | None = None
    split: Split = "test"
    seed: int = 0
    early_stop: bool = False
    rows_per_shard: int = COHORT_SIZE

    def __post_init__(self) -> None:
        super().__post_init__()
        check_names(self.defense)
        asked = OTAD_NN in self.defense or ALL in self.defense
        check_cip_net_directory(self.cip_net_directory, asked=asked, option=f"--defense {OTAD_NN}")
        for name in (*(self.attacks or ()), *(self.costly_attacks or ())):
            find_attack(name)
        for eps in self.eps or ():
            if Budget(eps=eps, norm=self.norm).eps == inf:
                raise InputError(
                    "need a finite eps; attacks that choose the norm themselves are run once by themselves"
                )
        for name in ("samples", "costly_samples"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise InputError(f"need {name} >= 1, got {value}")
        if self.rows_per_shard % COHORT_SIZE:
            raise InputError(f"rows_per_shard must be a multiple of {COHORT_SIZE}, a cohort, got {self.rows_per_shard}")
        if self.seed < 0:
            raise InputError(f"need seed >= 0, got {self.seed}")
