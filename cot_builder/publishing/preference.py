"""Rows of `preference`: rejected trajectories beside the chosen ones."""

import hashlib
import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import polars as pl
import pyarrow as pa

from cot_builder.corpus.drafts import ObservationImages
from cot_builder.corpus.writing import row_id
from cot_builder.inspection.rendering import prompt, render_messages
from cot_builder.inspection.toolbox import Toolbox
from cot_builder.publishing.rows import RowContext, check_without_path, make_observation_reference, render_prompt_json
from cot_builder.storage.images import decode
from cot_builder.storage.workspace import Workspace
from schemas.errors import IndusCotError
from schemas.review import Review
from schemas.trajectory import DRAFT, Draft, Trajectory

LEAK = "leak"
JUDGE = "judge"


@dataclass
class Pair:
    """A rejected trajectory, to be paired with the chosen one."""

    origin: str
    reasons: list[str]
    trajectory: Trajectory


def find_pairs(workspace: Workspace, reviews: Sequence[Review], counts: Counter[str]) -> dict[str, list[Pair]]:
    """Find rejected trajectories by the id of the row or sample of the chosen one.

    Drafts that failed the leak gate are left out, because nobody should learn from their texts.
    """
    found: dict[str, list[Pair]] = {}
    rejected = workspace.draft / "rejected.parquet"
    drafts: list[Draft] = DRAFT.records(DRAFT.read(rejected)) if rejected.is_file() else []
    for draft in sorted(drafts, key=lambda item: item.draft_id):
        gates = [violation.gate for violation in draft.violations]
        if LEAK in gates:
            counts["pairs left out: leak"] += 1
            continue
        origin = "judge" if all(gate == JUDGE for gate in gates) else "gates"
        pair = Pair(origin, gates, Trajectory.model_validate_json(draft.trajectory))
        found.setdefault(draft.sample_id, []).append(pair)
    fixed = {row.draft_id for row in reviews if row.verdict == "fixed" and row.role != "gold" and not row.problems}
    taken = workspace.draft / "trajectory.parquet"
    if fixed and taken.is_file():
        table = DRAFT.read(taken).filter(pl.col("draft_id").is_in(sorted(fixed)))
        for draft in DRAFT.records(table.sort("draft_id")):
            before = Trajectory.model_validate_json(draft.trajectory)
            found.setdefault(row_id(draft.draft_id), []).append(Pair("review", [], before))
    return found


def open_observation_images(workspace: Workspace) -> ObservationImages | None:
    """Images that the tools returned during drafting; None if none were kept."""
    folder = workspace.draft
    return ObservationImages(folder) if (folder / "observation.parquet").is_file() else None


def make_preference_row(
    context: RowContext,
    observations: ObservationImages | None,
    row: Mapping[str, Any],
    pair: Pair,
    taken: Trajectory,
    images: pa.ListScalar,
    references: list[dict[str, Any]],
    number: int,
) -> dict[str, Any]:
    """Build a row of `preference`.

    Args:
        context: Context of the publication.
        observations: Images that tools returned during drafting.
        row: Row of the corpus without images.
        pair: The rejected trajectory.
        taken: The chosen trajectory.
        images: Images of the row.
        references: References of these images.
        number: Number of the pair within the row.

    Raises:
        IndusCotError: a text reveals supervision, or a tool returns another image than the recorded one.
    """
    source = context.sources[row["source_set"]]
    chosen = images.as_py()
    refused, again = _collect_observations(observations, row, pair.trajectory, chosen[0]["bytes"])
    shown = (chosen[:1], chosen[1:], refused) if source.embedded else ([], [], [])
    chat = partial(render_messages, category=row["category"], view=row["view"])
    asked = len(prompt(row["category"], row["view"]))
    turned_down = json.dumps(chat(pair.trajectory)[asked:], ensure_ascii=False)
    check_without_path(context, row, turned_down, f"preference of row {row['id']}, messages that were turned down")
    return {
        "id": f"{row['id']}-{number}",
        "row": row["id"],
        "prompt": render_prompt_json(row["category"], row["view"]),
        "chosen": json.dumps(chat(taken)[asked:], ensure_ascii=False),
        "rejected": turned_down,
        "images": shown[0],
        "chosen_images": shown[1],
        "rejected_images": shown[2],
        "tools": context.tools,
        "origin": pair.origin,
        "reasons": pair.reasons,
        "references": references[:1],
        "chosen_references": references[1:],
        "rejected_references": again,
        **{name: row[name] for name in ("sample_id", "source_set", "category", "view", "toolbox_version")},
        "licence": context.licences[row["source_set"]],
        "image_licence": row["licence"],
        "obtain": source.obtain,
    }


def _collect_observations(
    observations: ObservationImages | None, row: Mapping[str, Any], trajectory: Trajectory, inspected: bytes
) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """Observation images of a trajectory outside the corpus, with their references."""
    toolbox: Toolbox | None = None
    shown, references = [], []
    for number, turn in enumerate(trajectory.turns, 1):
        digest = turn.observation.image_sha256 if turn.observation else None
        if digest is None or turn.call is None:
            continue
        png = observations.get(digest) if observations and digest in observations else None
        if png is None:
            toolbox = toolbox or Toolbox(decode(inspected, name=row["id"]), {})
            _, png = toolbox.observe(turn.call)
        if png is None or hashlib.sha256(png).hexdigest() != digest:
            raise IndusCotError(
                f"preference of row {row['id']}, turn {number}: the tool returns another image than the recorded one; "
                "run `indus-cot repro draft`"
            )
        path = f"{digest[:16]}.png"
        shown.append({"bytes": png, "path": path})
        references.append(make_observation_reference(digest, number, path, row["image_sha256"]))
    return shown, references
