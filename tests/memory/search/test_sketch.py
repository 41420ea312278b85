"""Sketches: what is kept of a key, how wrong it is at most, and the files that hold it."""

from pathlib import Path

import numpy as np
import pytest
import torch

from helpers.searched_keys import KEYS, draw, draw_decaying
from otad_ray.memory.search.sketch import ERROR, SCALE, SQUARE, TAIL, Sketch, read_sketch, write_sketch


def sketch_of(directory: Path, keys: torch.Tensor) -> Sketch:
    write_sketch(directory, keys.numpy())
    return read_sketch(directory, len(keys), "cpu")


@pytest.mark.parametrize("kind", KEYS)
def test_kept_sketches_are_as_near_as_they_say(tmp_path: Path, kind: str) -> None:
    keys = KEYS[kind](500)
    sketch = sketch_of(tmp_path, keys)
    centered = keys.double() - sketch.center
    exact = centered @ sketch.basis
    rest = (centered - exact @ sketch.basis.T).square().sum(1).sqrt()
    terms = sketch.terms.double()
    kept = sketch.codes.double() * terms[:, SCALE].unsqueeze(1)
    off = ((exact - kept).square().sum(1) + (rest - terms[:, TAIL]).square()).sqrt()
    assert (off <= terms[:, ERROR]).all()
    norms = kept.square().sum(1) + terms[:, TAIL].square()
    torch.testing.assert_close(terms[:, SQUARE], norms, rtol=2e-7, atol=1e-44)


def test_errors_are_small_beside_distances(tmp_path: Path) -> None:
    """Wrong by about a hundredth, so that hardly any key is measured in vain."""
    keys = draw_decaying(2000, 400)
    sketch = sketch_of(tmp_path, keys)
    assert (sketch.terms[:, ERROR] < 0.02 * sketch.terms[:, SQUARE].sqrt()).all()


def test_the_basis_is_orthonormal_also_with_fewer_keys_than_directions(tmp_path: Path) -> None:
    basis = sketch_of(tmp_path, draw(30, 400)).basis
    assert basis.shape == (400, 256)
    torch.testing.assert_close(basis.T @ basis, torch.eye(256, dtype=torch.float64))


def test_sketches_of_the_same_keys_are_the_same(tmp_path: Path) -> None:
    keys = draw_decaying(5000, 300)
    (tmp_path / "again").mkdir()
    first = sketch_of(tmp_path, keys)
    torch.manual_seed(5)
    second = sketch_of(tmp_path / "again", keys)
    assert torch.equal(first.codes, second.codes)
    assert torch.equal(first.terms, second.terms)
    np.testing.assert_array_equal(first.basis, second.basis)


def test_a_sketch_takes_a_third_of_the_bytes_of_its_keys_or_less(tmp_path: Path) -> None:
    keys = draw(512, 784)
    sketch = sketch_of(tmp_path, keys)
    kept = (sketch.codes, sketch.terms, sketch.squared_norms)
    assert sum(tensor.numel() * tensor.element_size() for tensor in kept) <= keys.numel() * 4 / 10


def test_files_of_another_number_of_keys_are_refused(tmp_path: Path) -> None:
    write_sketch(tmp_path, draw(30, 4).numpy())
    with pytest.raises(ValueError, match="has 30 rows, the memory 31"):
        read_sketch(tmp_path, 31, "cpu")
