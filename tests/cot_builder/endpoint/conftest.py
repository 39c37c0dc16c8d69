"""Keys, a place for the kept answers, and a server with a batch API."""

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from tests.servers.batch_server import BatchServer

# Imported in the fixtures: tests of prices and of the store need no client, which is slow to import.


@pytest.fixture
def store(tmp_path: Path) -> Path:
    """Where the kept answers of a test go; nothing is there yet."""
    return tmp_path / "answers.sqlite"


@pytest.fixture
def path(store: Path) -> Path:
    """The same, for tests of the file."""
    return store


@pytest.fixture
def key(monkeypatch: pytest.MonkeyPatch) -> None:
    """The API key is in its environment variable."""
    from tests.helpers.endpoint_client import KEY, KEY_VARIABLE

    monkeypatch.setenv(KEY_VARIABLE, KEY)


@pytest.fixture
def quick_batches(monkeypatch: pytest.MonkeyPatch) -> None:
    """The API key is in its environment variable, and a batch is submitted without a wait."""
    from cot_builder.endpoint import batch
    from tests.helpers.batches import KEY, KEY_VARIABLE

    monkeypatch.setenv(KEY_VARIABLE, KEY)
    monkeypatch.setattr(batch, "SUBMIT_DELAY_S", 0.05)


@pytest.fixture
def server() -> "Iterator[BatchServer]":
    """A server with a batch API."""
    from tests.servers.batch_server import batch_server

    with batch_server() as running:
        yield running
