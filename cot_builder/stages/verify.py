"""Replays every tool call of a corpus, renders every text again, and compares with what it recorded."""

import hashlib
import json
from pathlib import Path

import numpy as np
from pydantic import ValidationError

from cot_builder.corpus.reading import read_all, read_ids
from cot_builder.inspection.rendering import render_messages, render_tags
from cot_builder.inspection.replay import replay
from cot_builder.inspection.toolbox import Toolbox, tool_schemas
from cot_builder.inspection.tools import TOOLBOX_VERSION
from cot_builder.progress import track
from cot_builder.storage.images import decode
from schemas.errors import IndusCotError
from schemas.indus_cot import IndusCot
from schemas.prior import PRIOR
from schemas.trajectory import Trajectory

Priors = dict[tuple[str, str], str]


def verify(corpus: Path) -> tuple[int, int]:
    """Check every row: image hashes, every tool call run again, and every rendering of the trajectory.

    Texts must be equal and images equal pixel by pixel. The stored PNG bytes are held to their hash, the
    replayed ones are not: another libpng may pack the same pixels otherwise.

    Returns:
        Number of trajectories and of calls.

    Raises:
        IndusCotError: no corpus is there, a file is damaged, or the first difference, by row, turn and tool.
    """
    total = len(read_ids(corpus))
    table = PRIOR.read(corpus / "priors" / "priors.parquet")
    priors = {(row["category"], row["view"]): row["text"] for row in table.iter_rows(named=True)}
    rows = calls = 0
    for row in track(read_all(corpus), "verify", total):
        calls += _verify_row(row, priors, f"{corpus}, row {row.id}")
        rows += 1
    return rows, calls


def _verify_row(row: IndusCot, priors: Priors, where: str) -> int:
    if row.toolbox_version != TOOLBOX_VERSION:
        raise IndusCotError(
            f"{where}: made with tools of version {row.toolbox_version}, here is {TOOLBOX_VERSION}; "
            "verify it with the version of this project that made it"
        )
    try:
        trajectory = Trajectory.model_validate_json(row.trajectory)
    except ValidationError as error:
        raise IndusCotError(f"{where}: column trajectory holds no trajectory ({error.errors()[0]['msg']})") from None
    pixels = _verify_images(row, where)
    calls = replay(trajectory, Toolbox(pixels, priors), [image.bytes for image in row.images[1:]], where)
    _verify_renderings(row, trajectory, where)
    return calls


def _verify_images(row: IndusCot, where: str) -> np.ndarray:
    """The inspected pixels, once image, hash, region and the first of images agree."""
    if hashlib.sha256(row.image.bytes).hexdigest() != row.image_sha256:
        raise IndusCotError(f"{where}: the image differs from its sha256")
    pixels = decode(row.image.bytes, row.region, where)
    shown = row.images[0].bytes if row.images else b""
    if row.region is None and shown != row.image.bytes:
        raise IndusCotError(f"{where}: the first of images is not the inspected image")
    if not np.array_equal(decode(shown, name=where), pixels):
        raise IndusCotError(f"{where}: the first of images does not show the inspected region")
    return pixels


def _verify_renderings(row: IndusCot, trajectory: Trajectory, where: str) -> None:
    verdict = trajectory.verdict
    due = {
        "messages": render_messages(trajectory, row.category, row.view),
        "tools": tool_schemas(),
        "tagged": render_tags(trajectory),
        "answer": verdict.answer,
        "boxes": verdict.boxes,
        "defect_type": verdict.defect_type,
        "tool_calls": [call.tool for call in trajectory.calls],
    }
    for column, expected in due.items():
        recorded = getattr(row, column)
        if column in ("messages", "tools"):
            try:
                recorded = json.loads(recorded)
            except ValueError as error:
                raise IndusCotError(f"{where}: column {column} holds no JSON ({error})") from None
        if recorded != expected:
            raise IndusCotError(f"{where}: column {column} is not what its trajectory renders to")
