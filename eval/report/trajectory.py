"""Prepares one trajectory for the page: images are downscaled and encoded, marks are placed."""

import base64
import json
import re
from dataclasses import dataclass
from io import BytesIO
from typing import Any

import cv2
import numpy as np
from PIL import Image
from pydantic import ValidationError

from cot_builder.inspection.tools import TOOLS
from cot_builder.storage.images import decode
from schemas.errors import IndusCotError
from schemas.geometry import SCALE, Box, check_box
from schemas.indus_cot import IndusCot
from schemas.trajectory import ToolCall, Trajectory, Turn, Verdict

QUERY_SIDE = 720
OBSERVATION_SIDE = 448
THUMBNAIL_SIDE = 112
THUMBNAIL_BYTES = 2600
MIN_SIDE = 160


@dataclass(frozen=True)
class Picture:
    """An image for the page; width and height are those of the original, in pixels."""

    uri: str
    width: int
    height: int


@dataclass(frozen=True)
class Mark:
    """A box drawn on the inspected image: kind (verdict, tool, patch), CSS position, badge, description."""

    kind: str
    style: str
    badge: str
    title: str
    classes: str
    """CSS classes that place the badge so that it neither leaves the image nor covers another badge."""


@dataclass(frozen=True)
class Point:
    """A reference point of a measurement, in per cent of the inspected image."""

    x: float
    y: float
    badge: str


@dataclass(frozen=True)
class Step:
    """A turn as the page shows it."""

    number: int
    thought: str
    tool: str | None
    arguments: list[tuple[str, str]]
    text: str
    refused: bool
    picture: Picture | None
    points: list[Point]


@dataclass(frozen=True)
class View:
    """One trajectory, ready for the template."""

    row: IndusCot
    query: Picture
    thumbnail: str
    steps: list[Step]
    conclusion: str
    verdict: Verdict
    tool_marks: list[tuple[Mark, str]]
    """One mark per region, with the numbers of the steps that looked there."""
    verdict_marks: list[Mark]
    patch_marks: list[Mark]


def encode_picture(pixels: np.ndarray, side: int, limit: int) -> Picture:
    """Encode an image as WebP in a data: URI, and lower quality and size until it fits ``limit`` or gets illegible.

    Args:
        pixels: uint8 (height, width, 3) BGR.
        side: Limit on the longest side, in pixels.
        limit: Limit on the size in bytes, before base64.
    """
    height, width = pixels.shape[:2]
    quality = 80
    encoded = _encode_webp(pixels, side, quality)
    while len(encoded) > limit and (quality > 50 or side > MIN_SIDE):
        if quality > 50:
            quality -= 15
        else:
            side = max(MIN_SIDE, int(min(side, max(width, height)) * 0.8))
        encoded = _encode_webp(pixels, side, quality)
    return Picture("data:image/webp;base64," + base64.b64encode(encoded).decode(), width, height)


def _encode_webp(pixels: np.ndarray, side: int, quality: int) -> bytes:
    height, width = pixels.shape[:2]
    factor = side / max(width, height)
    if factor < 1:
        size = max(1, round(width * factor)), max(1, round(height * factor))
        pixels = cv2.resize(pixels, size, interpolation=cv2.INTER_AREA)
    sink = BytesIO()
    # OpenCV only has the slowest method, which takes three times as long and saves a twentieth of the bytes.
    Image.fromarray(cv2.cvtColor(pixels, cv2.COLOR_BGR2RGB)).save(sink, "WEBP", quality=quality, method=1)
    return sink.getvalue()


def make_view(row: IndusCot, query_bytes: int, observation_bytes: int) -> View:
    """Prepare a row of the corpus for the page; the limits are bytes per image.

    Raises:
        IndusCotError: an image is damaged or missing, or the trajectory is invalid.
    """
    trajectory = parse_trajectory(row)
    stored = iter(row.images[1:])
    steps = []
    for number, turn in enumerate(trajectory.turns[:-1], 1):
        assert turn.call is not None and turn.observation is not None
        shown = None
        if turn.observation.image_sha256:
            image = next(stored, None)
            if image is None:
                raise IndusCotError(
                    f"row {row.id}, turn {number}: the image is missing; run `indus-cot assemble` again"
                )
            pixels = decode(image.bytes, name=f"row {row.id}, turn {number}")
            shown = encode_picture(pixels, OBSERVATION_SIDE, observation_bytes)
        steps.append(_make_step(number, turn, turn.call, turn.observation.text, shown))
    inspected = decode(row.images[0].bytes, name=f"row {row.id}, inspected image")
    query = encode_picture(inspected, QUERY_SIDE, query_bytes)
    patches = list(_make_patch_marks(row))
    return View(
        row=row,
        query=query,
        thumbnail=encode_picture(inspected, THUMBNAIL_SIDE, THUMBNAIL_BYTES).uri,
        steps=steps,
        conclusion=trajectory.turns[-1].thought,
        verdict=trajectory.verdict,
        tool_marks=_make_tool_marks(trajectory),
        verdict_marks=[
            make_mark("verdict", box, trajectory.verdict.defect_type or "", f"verdict {list(box)}")
            for box in trajectory.verdict.boxes
        ],
        patch_marks=patches,
    )


def parse_trajectory(row: IndusCot) -> Trajectory:
    """Parse the column ``trajectory`` of a row.

    Raises:
        IndusCotError: the column holds no valid trajectory.
    """
    try:
        return Trajectory.model_validate_json(row.trajectory)
    except ValidationError as error:
        raise IndusCotError(
            f"row {row.id}, column trajectory: invalid trajectory ({error.errors()[0]['msg']}); run `indus-cot "
            "assemble` again"
        ) from None


def _make_step(number: int, turn: Turn, call: ToolCall, text: str, shown: Picture | None) -> Step:
    return Step(
        number=number,
        thought=turn.thought,
        tool=call.tool,
        arguments=format_arguments(call),
        text=text,
        refused=text.startswith("error:"),
        picture=shown,
        points=_make_points(call, number),
    )


def format_arguments(call: ToolCall) -> list[tuple[str, str]]:
    """Return the argument names and values of a call as text."""
    return [
        (name, value if isinstance(value, str) else json.dumps(value, ensure_ascii=False))
        for name, value in call.arguments.items()
    ]


def _make_tool_marks(trajectory: Trajectory) -> list[tuple[Mark, str]]:
    looked: dict[Box, list[tuple[int, str]]] = {}
    for number, turn in enumerate(trajectory.turns[:-1], 1):
        assert turn.call is not None and turn.observation is not None
        region = _find_shown_region(turn.call, turn.observation.text)
        if region and not turn.observation.text.startswith("error:"):
            looked.setdefault(region, []).append((number, turn.call.tool))
    marks: list[tuple[Mark, str]] = []
    for region, steps in looked.items():
        badge = ", ".join(str(number) for number, _ in steps)
        title = "; ".join(f"step {number}: {tool} {list(region)}" for number, tool in steps)
        marks.append(
            (
                make_mark("tool", region, badge, title, to_right=len(marks) % 2 == 1),
                " ".join(str(number) for number, _ in steps),
            )
        )
    return marks


def _find_shown_region(call: ToolCall, text: str) -> Box | None:
    """Return the region that the tool reports (it may have enlarged it), else the requested region."""
    if call.tool not in TOOLS or not TOOLS[call.tool].returns_image:
        return None
    said = re.search(r"\bof \[(\d+), (\d+), (\d+), (\d+)\]", text)
    asked = call.arguments.get("region")
    values = [int(part) for part in said.groups()] if said else asked
    return _parse_box(values)


def _parse_box(values: Any) -> Box | None:
    if not isinstance(values, list) or len(values) != 4 or not all(type(value) is int for value in values):
        return None
    try:
        return check_box((values[0], values[1], values[2], values[3]))
    except ValueError:
        return None


def _make_points(call: ToolCall, number: int) -> list[Point]:
    points = call.arguments.get("points")
    if not isinstance(points, list):
        return []
    sound = [
        point
        for point in points
        if isinstance(point, list) and len(point) == 2 and all(type(v) is int and 0 <= v <= SCALE for v in point)
    ]
    return [
        Point(100 * point[0] / SCALE, 100 * point[1] / SCALE, f"{number}.{index}")  # type: ignore[operator]
        for index, point in enumerate(sound, 1)
    ]


def _make_patch_marks(row: IndusCot) -> list[Mark]:
    return [
        make_mark("patch", patch.box, f"P{number}", f"local patch {list(patch.box)}, score {patch.score:.1f}")
        for number, patch in enumerate(row.patch_pairs, 1)
    ]


def make_mark(kind: str, box: Box, badge: str, title: str, to_right: bool = False) -> Mark:
    """Make the mark of a box in 0-1000, with its badge on the left or ``to_right``."""
    x1, y1, x2, y2 = box
    style = f"left:{x1 / 10:g}%;top:{y1 / 10:g}%;width:{(x2 - x1) / 10:g}%;height:{(y2 - y1) / 10:g}%"
    near = {"at-top": y1 < 70, "low": y2 > 900, "to-right": to_right}
    return Mark(kind, style, badge, title, " ".join(name for name, holds in near.items() if holds))
