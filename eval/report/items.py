"""Writes the page of all evaluated images: prediction and truth are drawn on each, with the inspection next to it.

A page opened from a file must not fetch, so it loads scripts that lie next to it: scripts with thumbnails for the list,
and scripts with a few items each for the details. The page itself holds only one line per item.
"""

import json
import shutil
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
from markupsafe import Markup

from cot_builder.inspection.episode import read_turn
from cot_builder.inspection.toolbox import Toolbox
from cot_builder.progress import track
from cot_builder.storage.images import decode
from cot_builder.storage.output import stage_output
from cot_builder.storage.results import PREDICTIONS_FILE
from cot_builder.storage.samples import SampleImages
from cot_builder.storage.workspace import Workspace, file_hash
from eval.metrics import read_metrics, read_predictions
from eval.report.html import render
from eval.report.results import classify_outcome, list_evaluated
from eval.report.trajectory import (
    OBSERVATION_SIDE,
    QUERY_SIDE,
    THUMBNAIL_BYTES,
    THUMBNAIL_SIDE,
    Picture,
    encode_picture,
)
from schemas.errors import IndusCotError
from schemas.prediction import Transcript
from schemas.sample import SAMPLE, Sample
from schemas.trajectory import ToolCall

THUMBNAILS_A_SCRIPT, ITEMS_A_SCRIPT = 200, 20
QUERY_BYTES, OBSERVATION_BYTES = 24_000, 14_000
FOLDER, PAGE = "items", "index.html"
MAX_TURN_CHARACTERS = 20_000
"""Characters of a turn that are shown; the full text is in the predictions."""
OUTCOMES = {
    "tp": "defect found",
    "tn": "correctly passed",
    "fp": "false alarm",
    "fn": "defect missed",
    "unparsed": "no verdict parsed",
}


def write_items(workspace: Workspace) -> int:
    """Write ``reports/items``, the page and its scripts, atomically, and return the number of items.

    Raises:
        IndusCotError: an evaluated image is no longer in the pulled set; the disk is full.
    """
    folders = list_evaluated(workspace)
    tables = [(folder.name, read_predictions(folder)) for folder in folders]
    total = sum(table.height for _, table in tables)
    index: list[list[Any]] = []
    inputs = {folder.name: file_hash(folder / PREDICTIONS_FILE) for folder in folders}
    with stage_output(workspace.reports / FOLDER, stage="report", params={}, inputs=inputs) as output:
        target = output.path
        thumbnails: list[str] = []
        details: list[dict[str, Any]] = []
        for line, thumbnail, detail in track(_iter_items(workspace, tables), "report: evaluated images", total):
            index.append(line)
            thumbnails.append(thumbnail)
            details.append(detail)
            if len(thumbnails) == THUMBNAILS_A_SCRIPT or len(index) == total:
                _write_script(target, "thumbnails", (len(index) - 1) // THUMBNAILS_A_SCRIPT, thumbnails)
                thumbnails = []
            if len(details) == ITEMS_A_SCRIPT or len(index) == total:
                _write_script(target, "items", (len(index) - 1) // ITEMS_A_SCRIPT, details)
                details = []
        (target / PAGE).write_text(_render_page(folders, index), encoding="utf-8")
        output.counts["items"] = total
    return total


def clear_items(workspace: Workspace) -> int:
    """Delete the items page of an earlier report, and return 0, the number of items without results."""
    shutil.rmtree(workspace.reports / FOLDER, ignore_errors=True)
    return 0


def _render_page(folders: Sequence[Path], index: Sequence[Sequence[Any]]) -> str:
    def counted(values: Iterator[str]) -> list[tuple[str, str, int]]:
        return [(value, value.replace("_", " "), count) for value, count in sorted(Counter(values).items())]

    said = Counter(line[5] for line in index)
    facets = {
        "outcome": [(key, words, said[key]) for key, words in OUTCOMES.items() if said[key]],
        "set": counted(line[1] for line in index),
        "category": counted(line[2] for line in index),
        "type": counted(line[4] for line in index if line[4]),
        "tool": counted(tool for line in index for tool in line[6])
        + [("none", "no tool", sum(not line[6] for line in index))],
    }
    runs = [read_metrics(folder).run for folder in folders]
    data = json.dumps(
        {"items": index, "thumbnails": THUMBNAILS_A_SCRIPT, "details": ITEMS_A_SCRIPT, "outcomes": OUTCOMES},
        ensure_ascii=False,
        separators=(",", ":"),
    )
    return render(
        "items.html.jinja",
        ["start.js", "items.js"],
        # Escape "<" so that no text can close the script element.
        {
            "data": Markup(data.replace("<", "\\u003c")),
            "facets": facets,
            "total": len(index),
            "runs": list(dict.fromkeys(run.title for run in runs)),
        },
        loads_scripts=True,
    )


def _iter_items(
    workspace: Workspace, tables: Sequence[tuple[str, pl.DataFrame]]
) -> Iterator[tuple[list[Any], str, dict[str, Any]]]:
    images = SampleImages(workspace)
    for name, table in tables:
        samples: dict[str, Sample] = {
            row.sample_id: row for row in SAMPLE.records(SAMPLE.read(workspace.pull(name) / "sample.parquet"))
        }
        if gone := set(table["sample_id"]) - set(samples):
            raise IndusCotError(
                f"results/{name}: {len(gone)} of {table.height} evaluated images are no longer in "
                f"{workspace.pull(name)}, {min(gone)} first; run `indus-cot evaluate {name}` again"
            )
        for row in table.iter_rows(named=True):
            try:
                pixels = images.pixels(samples[row["sample_id"]])
            except IndusCotError:
                # The image could not be decoded during evaluation either; the prediction records it.
                pixels = None
            yield _make_item(row, pixels)


def _make_item(row: dict[str, Any], pixels: np.ndarray | None) -> tuple[list[Any], str, dict[str, Any]]:
    line = [
        row["sample_id"],
        row["source_set"],
        row["category"],
        row["view"],
        row["true_type"] or row["defect_type"] or "",
        classify_outcome(row["true_answer"], row["answer"]),
        sorted(set(row["tools"])),
    ]
    query = encode_picture(pixels, QUERY_SIDE, QUERY_BYTES) if pixels is not None else Picture("", 1, 1)
    small = encode_picture(pixels, THUMBNAIL_SIDE, THUMBNAIL_BYTES).uri if pixels is not None else ""
    shared = ("true_answer", "true_type", "true_boxes", "area_fraction", "answer", "boxes", "defect_type", "parse",
              "fault", "margin", "answer_before", "observed", "input_tokens", "output_tokens", "seconds",
              "cost_usd", "part_id")  # fmt: skip
    detail = {
        **{name: row[name] for name in shared},
        "calls": len(row["tools"]),
        "image": query.uri,
        "width": query.width,
        "height": query.height,
        "turns": list(_iter_turns(row["transcript"], pixels)),
    }
    return line, small, detail


def _iter_turns(transcript: str, pixels: np.ndarray | None) -> Iterator[dict[str, Any]]:
    toolbox = Toolbox(pixels, {}) if pixels is not None else None
    for turn in Transcript.model_validate_json(transcript).turns:
        again = _rerun_calls(turn.text, turn.images_sha256, toolbox) if turn.images_sha256 and toolbox else []
        yield {
            "text": turn.text[:MAX_TURN_CHARACTERS] + (" […]" if len(turn.text) > MAX_TURN_CHARACTERS else ""),
            "observation": turn.observation,
            "images": again,
            "lost": bool(toolbox) and len(again) < len(turn.images_sha256),
        }


def _rerun_calls(text: str, digests: Sequence[str], toolbox: Toolbox) -> list[str]:
    """Run the calls of a turn again and return their images; skip an image whose hash changed since the evaluation.

    Predictions hold only the hashes of the images, and the tools are deterministic.
    """
    made: dict[str, str] = {}
    for call in read_turn(text).get("tool_calls", ()):
        function = call["function"] or {}
        try:
            asked = ToolCall.model_validate({"tool": function.get("name"), "arguments": function.get("arguments")})
        except ValueError:
            continue
        observation, png = toolbox.observe(asked)
        digest = observation.image_sha256
        if png is not None and digest and digest in digests and digest not in made:
            made[digest] = encode_picture(decode(png, name="observation"), OBSERVATION_SIDE, OBSERVATION_BYTES).uri
    return [made[digest] for digest in digests if digest in made]


def _write_script(folder: Path, kind: str, number: int, values: Sequence[Any]) -> None:
    found = json.dumps(values, ensure_ascii=False, separators=(",", ":"))
    (folder / f"{kind}-{number:04d}.js").write_text(f'receive("{kind}",{number},{found});\n', encoding="utf-8")
