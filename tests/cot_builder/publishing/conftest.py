"""A stand-in for the Hub with one publication, and projects to publish from."""

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.helpers.hub_client import Client, CommandResult
from tests.helpers.publication import REPO, new_project
from tests.servers.hub_server import OWNER, HubServer


@pytest.fixture(scope="package")
def hub_server() -> Iterator[HubServer]:
    """The stand-in; tests take `hub`."""
    server = HubServer()
    yield server
    server.close()


@pytest.fixture(scope="package")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A project to publish from, to be read only."""
    return new_project(tmp_path_factory.mktemp("publish"))


@pytest.fixture(scope="package")
def client(hub_server: HubServer, project: Path) -> Iterator[Client]:
    """`indus-cot` in the project, logged in as the owner."""
    made = Client(project, hub_server.url, OWNER)
    yield made
    made.close()


@pytest.fixture(scope="package")
def published(client: Client) -> CommandResult:
    """The first publication, which most tests look at and none changes."""
    done = client.run("publish", "--repo", REPO, "--tag")
    assert done.code == 0, done.out
    return done


@pytest.fixture
def hub(hub_server: HubServer) -> Iterator[HubServer]:
    """The stand-in, without faults before and after."""
    yield hub_server
    hub_server.faults.clear()
    hub_server.before_create = hub_server.before_commit = hub_server.after_commit = lambda: None
    hub_server.card_fault = ""


@pytest.fixture
def copy(project: Path, tmp_path: Path) -> Path:
    """A project of its own to spoil; the shards of the corpus are copied, everything else is linked."""
    for name in ("params.yaml", "profiles", "reports", "mine", ".indus-cot"):
        (tmp_path / name).symlink_to(project / name)
    (tmp_path / "data").mkdir()
    for path in (project / "data").iterdir():
        if path.name not in ("indus_cot", "publish") and path.is_dir():
            (tmp_path / "data" / path.name).symlink_to(path)
    shutil.copytree(project / "data" / "indus_cot", tmp_path / "data" / "indus_cot")
    return tmp_path
