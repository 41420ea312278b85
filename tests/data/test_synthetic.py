"""Gaussian classes: means on the sphere, the noise asked for, and the best accuracy there can be."""

import math

import numpy as np
import pytest

from otad_ray.data import data_set, load_all, open_split, synthetic
from otad_ray.data.synthetic import class_means
from otad_ray.errors import InputError


def test_rows_are_normal_about_means_on_the_unit_sphere() -> None:
    definition = data_set("gaussian_classes_0.5_20")
    train, test = (load_all(open_split(definition, split)) for split in ("train", "test"))
    assert definition.num_outputs == 20
    assert train.x.shape == (50_000, 128)
    assert test.x.shape == (10_000, 128)
    assert np.bincount(train.y).tolist() == [2500] * 20
    means = class_means(20)
    np.testing.assert_allclose(np.linalg.norm(means, axis=1), 1)
    for batch in (train, test):
        noise = batch.x.numpy() - means[batch.y]
        assert abs(noise.std() - 0.5) < 0.001
        # Isotropic: 128 sample deviations, each within five of their standard errors.
        assert abs(noise.std(0) - 0.5).max() < 5 * 0.5 / math.sqrt(2 * len(noise))
        by_class = np.stack([noise[batch.y == label].mean(0) for label in range(20)])
        assert abs(by_class).max() < 5 * 0.5 / math.sqrt(len(noise) / 20)


def test_rows_are_the_same_each_time_and_the_parts_differ() -> None:
    names = ("gaussian_classes", "gaussian_classes_0.3", "gaussian_classes_0.3_10")
    assert len({open_split(data_set(name), "train").fingerprint for name in names}) == 1
    assert open_split(data_set("gaussian_classes_0.4"), "test").fingerprint != (
        open_split(data_set("gaussian_classes"), "test").fingerprint
    )
    train, test = (load_all(open_split(data_set("gaussian_classes"), split)).x[:10_000] for split in ("train", "test"))
    assert abs((train - test).std() - 0.3 * math.sqrt(2)) < 0.001


@pytest.mark.parametrize("std", [0.3, 0.6, 2.0])
def test_the_bayes_accuracy_of_two_classes_in_closed_form(std: float) -> None:
    distance = np.linalg.norm(np.subtract(*class_means(2)))
    exact = 0.5 * (1 + math.erf(distance / (2 * std) / math.sqrt(2)))
    found = data_set(f"gaussian_classes_{std}_2").bayes_accuracy()
    assert abs(found - exact) < 4 * 5e-4


def test_the_nearest_mean_reaches_the_bayes_accuracy() -> None:
    definition = data_set("gaussian_classes_0.4")
    test = load_all(open_split(definition, "test"))
    means = class_means(10)
    nearest = ((test.x.numpy()[:, None] - means) ** 2).sum(2).argmin(1)
    accuracy = (nearest == test.y.numpy()).mean()
    bayes = definition.bayes_accuracy()
    assert abs(accuracy - bayes) < 4 * math.sqrt(bayes * (1 - bayes) / 10_000)


def test_more_classes_than_dimensions(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(synthetic, "_BAYES_DRAWS", 20_000)
    definition = data_set("gaussian_classes_0.05_200")
    assert definition.bayes_accuracy() > 0.999


def test_other_data_sets_have_no_known_best_accuracy() -> None:
    assert data_set("digits").bayes_accuracy is None


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("gaussian_classes_", r"need gaussian_classes\[_STD\[_CLASSES\]\]"),
        ("gaussian_classes_-1", "need gaussian_classes"),
        ("gaussian_classes_0.5_ten", "need gaussian_classes"),
        ("gaussian_classes_0", "need a standard deviation > 0"),
        ("gaussian_classes_0.5_1", "need 2 to 1000 classes, got 1"),
    ],
)
def test_refusals(name: str, message: str) -> None:
    with pytest.raises(InputError, match=message):
        data_set(name)
