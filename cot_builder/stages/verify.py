"""Verify a corpus: run every tool call again, render every text again, and compare both with the recorded rows."""

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
    """Check every row: image hashes, the results of all tool calls, and all renderings of the trajectory.

    Texts must be equal, and images equal pixel by pixel. Stored PNG bytes must match their hash; replayed PNG bytes
    need not, because another libpng may compress the same pixels differently.

    Returns:
        Number of trajectories and number of tool calls.

    Raises:
        IndusCotError: there is no corpus, a file is damaged, or a row differs; the message names the row, turn and
            tool of the first difference.
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
            f"{where}: made with tools of version {row.toolbox_version}, but this project has {TOOLBOX_VERSION}; "
            "verify the corpus with the version of this project that made it"
        )
    try:
        trajectory = Trajectory.model_validate_json(row.trajectory)
    except ValidationError as error:
        raise IndusCotError(
            f"{where}: column trajectory is invalid ({error.errors()[0]['msg']}); run `indus-cot assemble` again"
        ) from None
    pixels = _verify_images(row, where)
    calls = replay(trajectory, Toolbox(pixels, priors), [image.bytes for image in row.images[1:]], where)
    _verify_renderings(row, trajectory, where)
    return calls


def _verify_images(row: IndusCot, where: str) -> np.ndarray:
    """Check that image, hash, region and the first entry of `images` agree; return the inspected pixels."""
    if hashlib.sha256(row.image.bytes).hexdigest() != row.image_sha256:
        raise IndusCotError(f"{where}: the image does not match its sha256")
    pixels = decode(row.image.bytes, row.region, where)
    shown = row.images[0].bytes if row.images else b""
    if row.region is None and shown != row.image.bytes:
        raise IndusCotError(f"{where}: the first entry of images is not the inspected image")
    if not np.array_equal(decode(shown, name=where), pixels):
        raise IndusCotError(f"{where}: the first entry of images does not show the inspected region")
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
                raise IndusCotError(f"{where}: column {column} is not valid JSON ({error})") from None
        if recorded != expected:
            raise IndusCotError(f"{where}: column {column} does not match the rendering of the trajectory")
