"""Prints one trajectory of a corpus, or opens it as a page."""

import difflib
import json
import random
import tempfile
import webbrowser
from io import BytesIO
from pathlib import Path

from PIL import Image
from rich.console import Console, Group, RenderableType
from rich.padding import Padding
from rich.panel import Panel
from rich.rule import Rule
from rich.table import Table
from rich.text import Text

from cot_builder.corpus.reading import RowLocation, read_ids, read_rows
from eval.report.html import render
from eval.report.trajectory import format_arguments, make_view, parse_trajectory
from schemas.errors import IndusCotError
from schemas.indus_cot import IndusCot
from schemas.trajectory import Turn, Verdict

MAX_MATCHES = 20
MAX_CLOSE_MATCHES = 5
IMAGE_BYTES = 400_000


def show(corpus: Path, sample: str, browser: bool) -> None:
    """Print one trajectory step by step.

    Args:
        corpus: Folder of the corpus.
        sample: Id of a row or of a sample, or a part of one; empty for a random row.
        browser: Whether to open it as a self-contained page instead.

    Raises:
        IndusCotError: the corpus is missing; no row, or more than one, has that id.
    """
    row = next(read_rows(corpus, [find_row(corpus, sample)]))
    if browser:
        _open_in_browser(row)
    else:
        Console().print(render_row(row))


def find_row(corpus: Path, sample: str) -> RowLocation:
    """Find the only row whose id or sample id is ``sample``, or else contains it.

    Raises:
        IndusCotError: no row matches, or more than one.
    """
    names = read_ids(corpus)
    if not names:
        raise IndusCotError(f"{corpus}: the corpus has no row; run `indus-cot assemble` again")
    if not sample:
        return random.choice(names)[2]
    matches = [item for item in names if sample in item[:2]] or [
        item for item in names if sample in item[0] or sample in item[1]
    ]
    if len(matches) == 1:
        return matches[0][2]
    if matches:
        lines = [f"  {row_id}  {sample_id}" for row_id, sample_id, _ in matches[:MAX_MATCHES]]
        more = f"\n  … and {len(matches) - MAX_MATCHES} more" if len(matches) > MAX_MATCHES else ""
        raise IndusCotError(
            f"{sample!r} matches {len(matches)} trajectories of {corpus}; be more precise, for example with an id of "
            "the first column:\n" + "\n".join(lines) + more
        )
    known = [name for item in names for name in item[:2]]
    close = difflib.get_close_matches(sample, known, MAX_CLOSE_MATCHES, 0.3)
    raise IndusCotError(
        f"{sample!r}: no trajectory of {corpus} has that id or sample id"
        + ("; similar ids:\n  " + "\n  ".join(close) if close else "")
        + "\nWithout an id, `indus-cot show` shows a random trajectory."
    )


def render_row(row: IndusCot) -> RenderableType:
    """Render a row for the terminal. Control characters in its texts are replaced, so that they have no effect."""
    trajectory = parse_trajectory(row)
    parts: list[RenderableType] = [_render_header(row)]
    images = iter(row.images[1:])
    for number, turn in enumerate(trajectory.turns[:-1], 1):
        parts.append(Rule(f"step {number}", style="dim", align="left"))
        parts.append(Text(_hide_control_characters(turn.thought)))
        parts += _render_call(turn, next(images, None) if turn.observation and turn.observation.image_sha256 else None)
    parts.append(Rule("verdict", style="dim", align="left"))
    parts.append(Text(_hide_control_characters(trajectory.turns[-1].thought)))
    parts.append(_render_verdict(trajectory.verdict))
    parts.append(Rule(style="dim"))
    parts.append(Text(f"licence {_hide_control_characters(row.licence)}", style="dim"))
    return Group(*parts)


def _render_header(row: IndusCot) -> Panel:
    reviewed = (
        "auto: not reviewed by a person" if row.review_status == "auto" else f"{row.review_status}, {row.reviewers}"
    )
    facts = [
        ("category", f"{row.category}, view {row.view}"),
        ("sample", row.sample_id),
        ("split", f"{row.split}, from {row.source_set}"),
        ("review", reviewed),
        ("teacher", f"{row.teacher}, prompt {row.prompt_version}, toolbox {row.toolbox_version}"),
        ("image", f"{_describe_image(row.image.bytes)}, sha256 {row.image_sha256}"),
    ]
    if row.region:
        facts.append(("inspected", f"pixels {list(row.region)} of it"))
    table = Table.grid(padding=(0, 2))
    table.add_column(style="dim")
    table.add_column(overflow="fold")
    for name, value in facts:
        table.add_row(name, Text(_hide_control_characters(value)))
    return Panel(
        table, title=Text(_hide_control_characters(row.id), style="bold"), title_align="left", border_style="dim"
    )


def _render_call(turn: Turn, image: object) -> list[RenderableType]:
    assert turn.call is not None and turn.observation is not None
    call = Text("→ ", style="cyan").append(turn.call.tool, style="bold cyan")
    for name, value in format_arguments(turn.call):
        call.append(f"  {_hide_control_characters(name)} ", style="dim").append(
            _hide_control_characters(value), style="cyan"
        )
    refused = turn.observation.text.startswith("error:")
    said = Text(_hide_control_characters(turn.observation.text), style="red" if refused else "green")
    if turn.observation.image_sha256:
        data = getattr(image, "bytes", None)
        size = _describe_image(data) if isinstance(data, bytes) else "missing"
        said.append(f"\nimage {size}, sha256 {turn.observation.image_sha256}", style="dim")
    return [Padding(call, (1, 0, 0, 2)), Padding(said, (0, 0, 1, 4))]


def _render_verdict(verdict: Verdict) -> Padding:
    if verdict.answer == "No":
        return Padding(Text("○ No defect", style="bold cyan"), (1, 0, 0, 2))
    boxes = ", ".join(json.dumps(list(box)) for box in verdict.boxes)
    text = Text("◆ Yes", style="bold red").append(
        f"  {_hide_control_characters(verdict.defect_type or '')}", style="red"
    )
    return Padding(text.append(f"  at {boxes}"), (1, 0, 0, 2))


def _describe_image(data: bytes) -> str:
    try:
        with Image.open(BytesIO(data)) as image:
            return f"{image.width} x {image.height} px {image.format}"
    except OSError:
        return f"{len(data)} bytes, not an image"


def _hide_control_characters(text: str) -> str:
    return "".join(character if character.isprintable() or character == "\n" else "�" for character in text)


def _open_in_browser(row: IndusCot) -> None:
    page = render("one.html.jinja", [], {"view": make_view(row, IMAGE_BYTES, IMAGE_BYTES)})
    with tempfile.NamedTemporaryFile("w", encoding="utf-8", prefix="indus-cot-", suffix=".html", delete=False) as file:
        file.write(page)
    path = Path(file.name)
    opened = webbrowser.open(path.as_uri())
    Console(stderr=True).print(
        Text(str(path) if opened else f"no browser could be started; open {path} yourself"), soft_wrap=True
    )
