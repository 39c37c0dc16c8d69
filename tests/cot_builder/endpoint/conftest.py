"""Fixtures: an API key, the path of an answer store, and a server with a batch API."""

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from tests.servers.batch_server import BatchServer

# The fixtures import the client, because it is slow to import, and tests of prices and the store do not need it.


@pytest.fixture
def store(tmp_path: Path) -> Path:
    """Path of the test's answer store; the file does not exist yet."""
    return tmp_path / "answers.sqlite"


@pytest.fixture
def path(store: Path) -> Path:
    """The same path, for tests of the file itself."""
    return store


@pytest.fixture
def key(monkeypatch: pytest.MonkeyPatch) -> None:
    """Set the API key in its environment variable."""
    from tests.helpers.endpoint_client import KEY, KEY_VARIABLE

    monkeypatch.setenv(KEY_VARIABLE, KEY)


@pytest.fixture
def quick_batches(monkeypatch: pytest.MonkeyPatch) -> None:
    """Set the API key in its environment variable, and submit batches almost without delay."""
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
