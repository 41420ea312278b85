"""The training of a sparse transformation layer: what it goes on from, and what it takes for another training."""

from pathlib import Path

import pytest
import torch

from otad_ray.defenses.baselines.stl import SparseClassifier, StlConfig
from otad_ray.errors import InputError
from otad_ray.training import TrainingStore
from otad_ray.training.baselines.stl import StlProblem, StlSettings
from otad_ray.training.loop import minimize

SHAPE = (2, 8, 8)


def new_network(num_filters: int = 3, filter_size: int = 3) -> SparseClassifier:
    torch.manual_seed(0)
    return SparseClassifier(
        StlConfig(shape=SHAPE, num_outputs=4, num_filters=num_filters, filter_size=filter_size, num_iterations=10)
    ).eval()


def random_rows() -> tuple[torch.Tensor, torch.Tensor]:
    """16 images in [0, 1], and their labels."""
    return torch.rand(16, *SHAPE, generator=torch.Generator().manual_seed(1)), torch.arange(16) % 4


@pytest.mark.parametrize(("num_filters", "filter_size"), [(2, 3), (3, 4)])
def test_checkpoints_of_another_dictionary_are_refused(num_filters: int, filter_size: int, tmp_path: Path) -> None:
    settings = StlSettings(epochs=1, dictionary_images=8, dictionary_rounds=1)
    images, labels = random_rows()
    minimize(StlProblem(new_network(), images, labels, settings), settings, store=TrainingStore(tmp_path))
    other = StlProblem(new_network(num_filters, filter_size), images, labels, settings)
    with pytest.raises(InputError, match="another training"):
        minimize(other, settings, store=TrainingStore(tmp_path))


def test_finished_training_learns_and_rebuilds_nothing_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    settings = StlSettings(epochs=1, dictionary_images=8, dictionary_rounds=1)
    rows = random_rows()
    first, second = new_network(), new_network()
    minimize(StlProblem(first, *rows, settings), settings, store=TrainingStore(tmp_path))
    monkeypatch.setattr(SparseClassifier, "transform", None)
    monkeypatch.setattr("otad_ray.training.baselines.stl.learn_dictionary", None)
    minimize(StlProblem(second, *rows, settings), settings, store=TrainingStore(tmp_path))
    assert not torch.equal(first.dictionary, new_network().dictionary)
    for key, value in first.state_dict().items():
        torch.testing.assert_close(second.state_dict()[key], value, rtol=0, atol=0)


@pytest.mark.parametrize("changed", range(3))
def test_identity_is_that_of_the_given_images_and_labels(changed: int) -> None:
    settings = StlSettings(epochs=1, dictionary_images=4, classifier_rows=8)
    network, (images, labels) = new_network(), random_rows()
    before = StlProblem(network, images, labels, settings).identity
    network.dictionary.mul_(1 + 1e-6)
    assert StlProblem(network, images.clone(), labels.clone(), settings).identity == before
    # A row that both are trained on, one of the classifier alone, and a label.
    (images[0], images[2], labels[2:3])[changed].add_(1)
    assert StlProblem(network, images, labels, settings).identity != before
