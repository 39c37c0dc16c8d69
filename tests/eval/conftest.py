"""Fixtures: a project with a set to evaluate, and `indus-cot evaluate` in a copy of it."""

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import yaml

from tests.helpers.paths import ROOT

if TYPE_CHECKING:
    from cot_builder.storage.workspace import Workspace


@pytest.fixture(scope="session")
def evaluated(trainable: "Workspace", tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A project with a set to train on and one to evaluate, 8 sound and 8 defective images; tests copy it."""
    folder = tmp_path_factory.mktemp("evaluate") / "project"
    folder.mkdir()
    shutil.copytree(ROOT / "profiles", folder / "profiles")
    shutil.copy(ROOT / "prices.yaml", folder)
    values = yaml.safe_load((ROOT / "params.yaml").read_text())
    values["pull"] = {
        "mine": {"benchmark": "folder", "source": "mine", "role": "train"},
        "held_out": {"benchmark": "folder", "source": "held_out", "role": "evaluate"},
        "absent": {"benchmark": "folder", "source": "absent", "role": "evaluate"},
    }
    values["evaluate"] |= {"draws": 100, "limit": None}
    (folder / "params.yaml").write_text(yaml.safe_dump(values))
    (folder / "data" / "pull").mkdir(parents=True)
    for made in (*trainable.data.glob("[!p]*"), trainable.prior, *trainable.data.glob("pull/*")):
        (folder / made.relative_to(trainable.root)).symlink_to(made)
    return folder


@pytest.fixture
def run(evaluated: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: Any) -> Callable[..., str]:
    """Runs `indus-cot evaluate` in this process; returns its output, raises if it fails."""
    # Imported here: most tests of this folder run no command.
    from indus_cot import app as cli
    from tests.helpers.evaluated import KEY

    shutil.copytree(evaluated, tmp_path / "project", symlinks=True)
    monkeypatch.chdir(tmp_path / "project")
    monkeypatch.setenv("OPENAI_API_KEY", KEY)

    def evaluate(*settings: str, name: str = "held_out", results: str = "results", more: tuple[str, ...] = ()) -> str:
        flags = [part for setting in settings for part in ("--set", setting)]
        try:
            cli.main([*flags, "evaluate", name, "--results", results, "--allow-unpriced", *more])
        except SystemExit as ended:
            if ended.code:
                raise AssertionError(capfd.readouterr().err) from None
        printed = capfd.readouterr()
        return printed.out + printed.err

    return evaluate
