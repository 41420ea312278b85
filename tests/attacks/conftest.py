import pytest

from helpers.nets import Trained, train_on_digits


@pytest.fixture(scope="session")
def trained() -> Trained:
    return train_on_digits()
