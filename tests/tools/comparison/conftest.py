"""Makes ``from comparison import scenes`` work, and draws garments."""

import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[3]
sys.path.append(str(ROOT / "tools"))

from tests.tools.comparison import tiny_garments  # noqa: E402


@pytest.fixture(scope="session")
def files() -> dict[str, bytes]:
    """The four files of Fashion-MNIST, with few and simple garments."""
    return tiny_garments.files()
