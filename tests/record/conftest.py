"""Where the tests' records are."""

from pathlib import Path

import pytest

from extraction_record.connection import Place
from support.record import place_of


@pytest.fixture
def empty(database, tmp_path: Path) -> Place:
    """An empty database on each server in turn."""
    return place_of(database, tmp_path / "credentials")


@pytest.fixture
def record18(recorded, tmp_path: Path) -> Place:
    """A record on PostgreSQL 18."""
    return place_of(recorded, tmp_path / "credentials")
