"""Defenses by name: what CIP-nets and metric nets serve, and what certificates hold."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from helpers.transformer_jobs import only_cip_net_directory, preset
from otad_ray.attacks import Budget, MetricPGD, Streams, find_attack
from otad_ray.certification import certified_radius
from otad_ray.cip import Regularity
from otad_ray.data import load_all, open_split
from otad_ray.defenses import load_defense
from otad_ray.errors import InputError
from otad_ray.models import MetricNetConfig
from otad_ray.options import JobConfig
from otad_ray.recipes.defenses import find_defenses, save_defense
from otad_ray.recipes.workspace import Workspace


def test_a_cip_net_serves_another_metric_net_than_its_labels_came_from(
    evaluated: dict[str, Any], storage: Path
) -> None:
    """Table VI: labels from neighbors by the metric net, used with neighbors by the points."""
    cip_net = str(only_cip_net_directory(storage))
    workspace = Workspace(JobConfig(preset=preset(metric=MetricNetConfig()), storage=str(storage)))
    saved = save_defense(workspace, "otad_nn", cip_net=cip_net)
    assert str(saved) != evaluated["defenses"]["otad_nn"]
    test = load_all(open_split(workspace.definition, "test"))
    with torch.no_grad():
        predicted = load_defense(saved)(test.x).argmax(1)
    assert float((predicted == test.y).double().mean()) > 0.6
    other = Workspace(JobConfig(preset=preset(training=replace(preset().training, epochs=1)), storage=str(storage)))
    with pytest.raises(InputError, match="was trained on features of backbone"):
        save_defense(other, "otad_nn", cip_net=cip_net)
    integration = preset().integration
    for changed, message in [
        (replace(integration, num_neighbors=4), "takes 5 neighbors, got neighbors=4"),
        (
            replace(integration, cross_term="released"),
            "learned the solutions of cross_term theory.*cross_term released",
        ),
        (replace(integration, regularity=Regularity(smoothness=3.0)), "learned the solutions of .*smoothness=2.0"),
    ]:
        elsewhere = Workspace(JobConfig(preset=preset(integration=changed), storage=str(storage / "nothing")))
        with pytest.raises(InputError, match=message):
            find_defenses(elsewhere, ("otad_nn",), cip_net=cip_net)
    with pytest.raises(InputError, match="is no CIP-net checkpoint"):
        find_defenses(elsewhere, ("otad_nn",), cip_net=str(storage))
    # Said before anything was trained there.
    assert not list((storage / "nothing").glob("digits_vit/*/*"))


def test_certificates_through_a_lipschitz_metric_net_hold_against_attacks_on_it(
    evaluated: dict[str, Any], storage: Path
) -> None:
    robust = preset(
        metric=MetricNetConfig(architecture="orthogonal", width=16, num_keys=32),
        metric_training=replace(preset().metric_training, epochs=3, margin=0.5),
    )
    workspace = Workspace(JobConfig(preset=robust, storage=str(storage)))
    defense = load_defense(save_defense(workspace, "otad"))
    samples = load_all(open_split(robust.definition, "test"))
    x, y = samples.x[:30], samples.y[:30]
    radius, method = certified_radius(defense, x)
    with torch.no_grad():
        predicted = defense(x).argmax(1)
    assert set(method) <= {"hull", "constant_neighborhood", ""}
    attacked = (radius > 0).nonzero().flatten().tolist()
    assert len(attacked) >= 6
    for attack in (MetricPGD(steps=40, restarts=1), find_attack("neighbor_aware"), find_attack("noise")):
        for row in attacked[:6]:
            budget = Budget(eps=0.999 * float(radius[row]), bounds=(0, 1))
            rows = slice(row, row + 1)
            found = attack(defense, x[rows], predicted[rows], budget, Streams.of(0, [row]))
            with torch.no_grad():
                assert defense(found.x_adv).argmax(1) == predicted[row]
    with pytest.raises(InputError, match="is in training mode"):
        certified_radius(defense.train(), x)
    defense.eval()
    # Beyond the radius the same attack breaks some: it is one.
    far = MetricPGD(steps=40, restarts=1)(defense, x, y, Budget(eps=3.0, bounds=(0, 1)), Streams.of(0, range(30)))
    with torch.no_grad():
        assert (defense(far.x_adv).argmax(1) != predicted).sum() >= 10


def test_an_ordinary_metric_net_gets_no_certificate(evaluated: dict[str, Any]) -> None:
    for name in ("otad_theory", "otad_nn", "knn"):
        with pytest.raises(InputError, match="no certificate: CNN gives no lipschitz_bound"):
            certified_radius(load_defense(evaluated["defenses"][name]), torch.rand(2, 1, 8, 8))
