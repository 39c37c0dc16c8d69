"""A corpus that may be published, its parameters, and changes to it."""

import hashlib
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import yaml

from cot_builder.stages.assemble import assemble
from cot_builder.storage.output import stage_output
from cot_builder.storage.workspace import Workspace, file_hash
from schemas.review import REVIEW, Change, Review
from schemas.trajectory import DRAFT, Draft, Trajectory, Violation
from tests.helpers import small_corpus, training_project
from tests.helpers.hub_client import CommandResult
from tests.helpers.paths import ROOT

REPO = "owner/indus-cot"
REVIEWER = "Jane.Doe@inspectors.example"
STATED = {"licence": "CC BY 4.0", "redistribution": "allowed", "attribution": "Parts of ours, (c) the tests"}
Rows = list[dict[str, Any]]


def new_project(root: Path) -> Path:
    """A corpus with a draft that a gate turned down, one that an expert corrected, and parameters beside it."""
    workspace = small_corpus.build(root, **STATED)
    table = DRAFT.read(workspace.draft / "trajectory.parquet")
    drafts: list[Draft] = DRAFT.records(table)
    _turn_down(workspace, drafts[7])
    _correct(workspace, drafts[9])
    assemble(small_corpus.params(), workspace)
    (root / ".indus-cot").mkdir()
    shutil.copytree(ROOT / "profiles", root / "profiles")
    write_params(root, mine=STATED)
    return root


def write_params(root: Path, **sets: dict[str, str]) -> None:
    """Write ``params.yaml`` with these sets of one's own, each with what its owner states."""
    values = yaml.safe_load((ROOT / "params.yaml").read_text())
    source = {"benchmark": "folder", "source": "mine/parts.csv", "role": "train"}
    values["pull"] = {name: source | stated for name, stated in sets.items()}
    (root / "params.yaml").write_text(yaml.safe_dump(values))


def _turn_down(workspace: Workspace, draft: Draft) -> None:
    """A second candidate of a sample, which the length gate refused; it calls a tool whose image nobody kept."""
    path = workspace.draft / "rejected.parquet"
    text = draft.trajectory.replace("Something is off", "Something is, at length, off")
    other = {
        "draft_id": f"{draft.sample_id}#1", "trajectory": text,
        "violations": [Violation(gate="length", reason="long")], "draft_sha256": hashlib.sha256(text.encode()).hexdigest(),
    }  # fmt: skip
    DRAFT.write(DRAFT.frame([*DRAFT.records(DRAFT.read(path)), draft.model_copy(update=other)]), path)


def _correct(workspace: Workspace, draft: Draft) -> None:
    """What an expert said of a draft: one thought in other words."""
    before = Trajectory.model_validate_json(draft.trajectory)
    last = before.turns[-1].model_copy(update={"thought": "In better words, it ends."})
    after = before.model_copy(update={"turns": [*before.turns[:-1], last]})
    review = Review(
        review_id="1/1", draft_id=draft.draft_id, draft_sha256=draft.draft_sha256, role="review", reviewer=REVIEWER,
        reviewed_at="2026-03-04T05:06:07Z", seconds=31.5, verdict="fixed", reasons=[], evidence_rating=4, logic_rating=5,
        comment=f"says {REVIEWER}",
        changes=[Change(field="turns.0.thought", before=before.turns[-1].thought, after=last.thought)],
        trajectory=after.model_dump_json(), result="[]", caught=None, problems=[],
    )  # fmt: skip
    with stage_output(workspace.review, stage="review", params={}, inputs={}) as output:
        REVIEW.write(REVIEW.frame([review]), output.path / "reviews.parquet")


def change(project: Path, what: Callable[[Rows], object], split: str = "train") -> None:
    """Change rows of a split, by default the training split, as if `assemble` had written them so."""
    for shard in sorted((project / "data/indus_cot/data").glob(f"{split}-*.parquet")):
        table = pq.read_table(shard)
        rows = table.to_pylist()
        what(rows)
        pq.write_table(pa.Table.from_pylist(rows, schema=table.schema), shard)
    mark_validated(project)


def mark_validated(project: Path) -> None:
    """Make the manifest say what the shards are now, and that they were made from what lies there now."""
    corpus = project / "data/indus_cot"
    made_from = {
        "trajectory": project / "data/draft/trajectory.parquet",
        "reviews": project / "data/review/reviews.parquet",
    }
    shards = {f"data/{path.name}": path.read_bytes() for path in sorted((corpus / "data").glob("*.parquet"))}
    training_project.change_manifest(
        corpus,
        outputs={name: hashlib.sha256(data).hexdigest() for name, data in shards.items()},
        inputs={name: file_hash(path) for name, path in made_from.items() if path.is_file()},
    )


def reword(row: dict[str, Any]) -> None:
    """Change the last words of a row's trajectory."""
    for name in ("messages", "trajectory", "tagged"):
        row[name] = row[name].replace("it ends for", "it comes to its end for")


def assert_refused(done: CommandResult, *words: str) -> None:
    """Check that a command failed with a message of these words."""
    assert done.code == 1, done.out
    assert "Traceback" not in done.out
    for word in words:
        assert word in done.out
