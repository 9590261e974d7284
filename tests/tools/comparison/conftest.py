"""Draws garments."""

import pytest

from tests.tools.comparison import tiny_garments


@pytest.fixture(scope="session")
def files() -> dict[str, bytes]:
    """The four files of Fashion-MNIST, with few and simple garments."""
    return tiny_garments.files()
