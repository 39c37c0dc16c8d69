"""A new teacher backend in one file: it is chosen by name, drafts, words priors, and queries no server."""

import json
from pathlib import Path

import polars as pl
import pytest
import yaml

from tests.helpers import small_corpus
from tests.house.product_copy import copy_with, run_python

pytestmark = pytest.mark.slow

PARROT = '''"""A teacher that repeats the offline one in its own name."""

from cot_builder.teacher.backends import offline

ASKS = False


def draft_samples(params, workspace, tasks, priors, take, asking):
    def rename(result):
        for number, draft in enumerate(result.drafts):
            result.drafts[number] = draft.model_copy(update={"teacher": "parrot"})
        take(result)

    offline.draft_samples(params, workspace, tasks, priors, rename, asking)


def word_priors(params, workspace, measured, groups, output, asking):
    return [row.model_copy(update={"text": "So says the parrot. " + row.text, "author": "parrot"}) for row in measured]
'''


@pytest.fixture(scope="module")
def tree(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = copy_with(tmp_path_factory.mktemp("tree"), {})
    (folder / "cot_builder/teacher/backends/parrot.py").write_text(PARROT, encoding="utf-8")
    small_corpus.build(folder)
    values = yaml.safe_load((folder / "params.yaml").read_text(encoding="utf-8"))
    values["pull"] = {
        "mine": {"benchmark": "folder", "source": "mine/parts.csv", "role": "train"},
        "held_out": {"benchmark": "folder", "source": "held_out/parts.csv", "role": "evaluate"},
    }
    values["teacher"]["backend"] = "parrot"
    (folder / "params.yaml").write_text(yaml.safe_dump(values), encoding="utf-8")
    return folder


def run_tree(tree: Path, *arguments: str) -> str:
    """Run `indus-cot` in the tree; return its output including errors."""
    script = "import sys; sys.stderr = sys.stdout; from indus_cot.app import main\n"
    script += f"try:\n    main({list(arguments)!r})\nexcept SystemExit:\n    pass"
    return " ".join(run_python(tree, "-c", script).split())


def test_new_backend_drafts(tree: Path) -> None:
    printed = run_tree(tree, "prior") + run_tree(tree, "draft")
    priors = pl.read_parquet(tree / "data/prior/prior.parquet")
    assert set(priors["author"]) == {"parrot"}, printed
    assert priors["text"].str.starts_with("So says the parrot. ").all()
    drafts = pl.read_parquet(tree / "data/draft/trajectory.parquet")
    assert len(drafts) > 0 and set(drafts["teacher"]) == {"parrot"}
    assert json.loads((tree / "data/draft/manifest.json").read_text())["params"]["teacher"]["backend"] == "parrot"


def test_new_backend_queries_no_server(tree: Path) -> None:
    printed = run_tree(tree, "draft", "--dry-run")
    assert "draft --dry-run: teacher.backend is parrot, which queries no server" in printed


def test_messages_list_new_backend(tree: Path) -> None:
    printed = run_tree(tree, "--set", "teacher.backend=parot", "draft")
    assert "no 'parot'; there are endpoint, offline, parrot; did you mean parrot?" in printed
