"""The page an expert sees in Label Studio: its layout, what prefills it, and what comes back.

Rectangles are percent of the image on the page and integers 0-1000 everywhere else, so one is ten times the other.
"""

import copy
import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from html import escape
from importlib import resources
from typing import Any
from xml.etree import ElementTree

import numpy as np
from label_studio_sdk.converter import brush
from label_studio_sdk.label_interface import LabelInterface
from pydantic import ValidationError

from cot_builder.inspection.rendering import render_question
from cot_builder.inspection.tools import TOOLS
from schemas.errors import IndusCotError
from schemas.geometry import SCALE, Box, check_box
from schemas.review import REASONS
from schemas.taxonomy import leaves
from schemas.trajectory import Draft, ToolCall, Trajectory, Turn

IMAGE = "image"
WITH_HOTKEY = ("Choice", "Label", "Rating")
"""Tags to which Label Studio gives a letter or digit of its own unless they name a key."""
NO_KEY = 0xE000
"""First private-use character: no keyboard sends it."""
INDEX = "{{idx}}"
JUDGEMENT = ("verdict", "reasons")
"""Controls that say what the expert decided, rather than what the trajectory holds."""
SHOWN_ERRORS = 3
VEIL = 90
"""Opacity of a prefilled mask, 1 to 255: the defect must show through."""


@dataclass(frozen=True)
class Reading:
    """What one annotation says."""

    draft_sha256: str | None
    """Of the draft that was on the page; None where the page was opened without its prediction."""
    verdict: str | None
    """``accept``, ``fixed`` or ``reject``."""
    reasons: list[str]
    evidence_rating: int | None
    logic_rating: int | None
    comment: str
    thoughts: list[str]
    """One a turn; empty where it was emptied."""
    calls: list[str | ToolCall | None]
    """One a turn; text where it does not parse as a call, None where there is none."""
    answer: str | None
    boxes: list[Box]
    """0-1000."""
    defect_type: str | None


@cache
def config(masks: bool = False) -> str:
    """The labelling configuration, XML; with a brush where the set has masks."""
    root = ElementTree.fromstring(resources.files("annotation").joinpath("page.xml").read_text("utf-8"))
    for name, values in (("defect_type", leaves()), ("reasons", REASONS)):
        choices = _named(root, name)
        for value in values:
            ElementTree.SubElement(choices, "Choice", value=value)
    if not masks:
        parents = {child: parent for parent in root.iter() for child in parent}
        mask = _named(root, "mask")
        parents[mask].remove(mask)
    # A letter that ticks a choice ticks it too when somebody types and no text box has the focus.
    for number, tag in enumerate(tag for tag in root.iter() if tag.tag in WITH_HOTKEY):
        if "hotkey" not in tag.attrib:
            tag.set("hotkey", chr(NO_KEY + number))
    ElementTree.indent(root)
    return ElementTree.tostring(root, encoding="unicode")


def task(
    draft: Draft,
    trajectory: Trajectory,
    category: str,
    view: str,
    image_url: str,
    observation_urls: Mapping[str, str],
    why: Sequence[str],
    returned: Sequence[str] = (),
) -> dict[str, Any]:
    """A task's ``data``.

    Args:
        draft: The draft on the page.
        trajectory: Its trajectory.
        category: Of the sample.
        view: Of the sample.
        image_url: Address of the inspected image.
        observation_urls: Addresses of the images that tools returned, by sha256.
        why: Why the draft is in the queue.
        returned: Why it came back from a review.

    Raises:
        KeyError: an observation has no address.
    """
    return {
        "uid": draft.draft_id,
        "draft_sha256": draft.draft_sha256,
        "image": image_url,
        "question": render_question(category, view),
        "why": f"In the queue: {'; '.join(why)}" if why else "",
        "returned": came_back(returned),
        "steps": [
            {"title": _title(number, turn), "observation": _observation(turn, observation_urls)}
            for number, turn in enumerate(trajectory.turns)
        ],
    }


def came_back(why: Sequence[str]) -> str:
    """What the page says of a review that could not be applied; nothing where there was none."""
    return f"Came back: {'; '.join(why)}" if why else ""


def prefill(
    draft_sha256: str, trajectory: Trajectory, width: int, height: int, mask: np.ndarray | None = None
) -> list[dict[str, Any]]:
    """The prediction's ``result`` that fills the page.

    Args:
        draft_sha256: Of the draft.
        trajectory: Of the draft.
        width: Pixels of the image on the page.
        height: Likewise.
        mask: bool (height, width); needs the page with a brush.

    Raises:
        IndusCotError: the mask has another size than the image.
    """
    verdict = trajectory.verdict
    found = [_text("draft", IMAGE, draft_sha256), _choice("answer", verdict.answer)]
    if verdict.defect_type is not None:
        found.append(_choice("defect_type", verdict.defect_type))
    for number, turn in enumerate(trajectory.turns):
        if turn.thought:
            found.append(_text(f"think_{number}", f"observation_{number}", turn.thought))
        if turn.call is not None:
            found.append(_text(f"call_{number}", f"observation_{number}", _call_text(turn.call)))
    # Label Studio lays what comes first on top: a click on a defect must not take the tool's region around it.
    size = {"original_width": width, "original_height": height, "image_rotation": 0}
    for number, box in enumerate(verdict.boxes):
        found.append(_rectangle(f"box_{number}", "region", "defect", box) | size)
    for number, turn in enumerate(trajectory.turns):
        if region := _call_region(turn.call):
            found.append(_rectangle(f"call_{number}", "tool", "tool region", region) | size)
    if mask is not None and mask.any():
        if mask.shape != (height, width):
            raise IndusCotError(f"mask of {mask.shape[1]} x {mask.shape[0]} for an image of {width} x {height} pixels")
        rle = brush.mask2rle(mask.astype(np.uint8) * VEIL)
        painted = {"format": "rle", "rle": rle, "brushlabels": ["defect mask"]}
        found.append(_result("mask_0", "mask", IMAGE, "brushlabels", painted) | size)
    return found


def check(results: Sequence[Mapping[str, Any]], trajectory: Trajectory, masks: bool = False) -> None:
    """Check what Label Studio does not: that results fit the page.

    Raises:
        IndusCotError: they do not.
    """
    errors = _interface(len(trajectory.turns), masks).validate_prediction(
        {"result": [dict(item) for item in results]}, return_errors=True
    )
    # PostgreSQL stores no NUL.
    if "\\u0000" in json.dumps(results):
        errors += [
            f"{item.get('from_name')} holds a NUL character" for item in results if "\\u0000" in json.dumps(item)
        ]
    if errors:
        more = f" and {len(errors) - SHOWN_ERRORS} more" if len(errors) > SHOWN_ERRORS else ""
        raise IndusCotError(
            f"what would fill the review page does not fit it: {'; '.join(errors[:SHOWN_ERRORS])}{more}"
        )


def read(results: Sequence[Mapping[str, Any]], trajectory: Trajectory) -> Reading:
    """What an annotation's ``result`` says of the ``trajectory`` that was on its page.

    A call's region is edited by moving its rectangle or in its JSON, and where both were, the JSON counts.
    """
    values: dict[str, Any] = {
        item["from_name"]: item["value"] for item in results if item.get("from_name") and "value" in item
    }
    turns = range(len(trajectory.turns))
    regions = [item for item in results if item.get("type") == "rectanglelabels"]
    moved = {
        item.get("id"): _box(item["value"]) for item in regions if "tool region" in item["value"]["rectanglelabels"]
    }
    defects = [item for item in regions if "defect" in item["value"]["rectanglelabels"]]
    # In the draft's order, whatever order the page keeps; new ones after them.
    prefilled = {f"box_{number}": number for number in range(len(trajectory.verdict.boxes))}
    defects.sort(key=lambda item: prefilled.get(item.get("id", ""), len(prefilled)))
    return Reading(
        draft_sha256=_written(values, "draft") or None,
        verdict=_chosen(values, "verdict"),
        reasons=list(values.get("reasons", {}).get("choices", [])),
        evidence_rating=_rated(values, "evidence"),
        logic_rating=_rated(values, "logic"),
        comment=_written(values, "comment"),
        thoughts=[_written(values, f"think_{number}") for number in turns],
        calls=[
            _call(_written(values, f"call_{number}"), trajectory.turns[number].call, moved.get(f"call_{number}"))
            for number in turns
        ],
        answer=_chosen(values, "answer"),
        boxes=[_box(item["value"]) for item in defects],
        defect_type=_chosen(values, "defect_type"),
    )


def _named(root: ElementTree.Element, name: str) -> ElementTree.Element:
    found = root.find(f".//*[@name='{name}']")
    assert found is not None
    return found


@cache
def _interface(turns: int, masks: bool) -> LabelInterface:
    """The page with one card a turn: the SDK knows no ``Repeater``."""
    root = ElementTree.fromstring(config(masks))
    for parent in list(root.iter()):
        for repeater in parent.findall("Repeater"):
            parent.remove(repeater)
            for number in range(turns):
                for card in copy.deepcopy(list(repeater)):
                    for tag in card.iter():
                        tag.attrib.update({key: text.replace(INDEX, str(number)) for key, text in tag.attrib.items()})
                    parent.append(card)
    return LabelInterface(ElementTree.tostring(root, encoding="unicode"))


def _title(number: int, turn: Turn) -> str:
    return f"{number + 1} · {turn.call.tool if turn.call else 'conclusion'}"


def _observation(turn: Turn, urls: Mapping[str, str]) -> str:
    """HTML of our own making: whatever a tool or a teacher wrote is escaped."""
    if turn.observation is None:
        return '<p class="review-conclusion"></p>'
    digest = turn.observation.image_sha256
    shown = f'<img src="{escape(urls[digest])}" alt="">' if digest else ""
    return f"{shown}<p>{escape(turn.observation.text)}</p>"


def _result(number: str, name: str, to_name: str, kind: str, value: dict[str, Any]) -> dict[str, Any]:
    return {"id": number, "from_name": name, "to_name": to_name, "type": kind, "value": value}


def _text(name: str, to_name: str, text: str) -> dict[str, Any]:
    return _result(f"{name}_text", name, to_name, "textarea", {"text": [text]})


def _choice(name: str, value: str) -> dict[str, Any]:
    return _result(name, name, IMAGE, "choices", {"choices": [value]})


def _rectangle(number: str, name: str, label: str, box: Box) -> dict[str, Any]:
    x1, y1, x2, y2 = box
    sides = {"x": x1 / 10, "y": y1 / 10, "width": (x2 - x1) / 10, "height": (y2 - y1) / 10}
    value = sides | {"rotation": 0, "rectanglelabels": [label]}
    return _result(number, name, IMAGE, "rectanglelabels", value)


def _box(value: Mapping[str, Any]) -> Box:
    """The nearest box in 0-1000."""
    left, right = _span(value["x"], value["width"])
    top, bottom = _span(value["y"], value["height"])
    return left, top, right, bottom


def _span(start: float, length: float) -> tuple[int, int]:
    low = min(max(round(start * 10), 0), SCALE - 1)
    return low, min(max(round((start + length) * 10), low + 1), SCALE)


def _call_text(call: ToolCall) -> str:
    return json.dumps(call.model_dump(), ensure_ascii=False)


def _call_region(call: ToolCall | None) -> Box | None:
    """The region a call looks at, where it names one that is a box in 0-1000."""
    region = call.arguments.get("region") if call else None
    if not (isinstance(region, list) and len(region) == 4 and all(type(side) is int for side in region)):
        return None
    x1, y1, x2, y2 = region
    try:
        return check_box((x1, y1, x2, y2))  # type: ignore[arg-type]
    except ValueError:
        return None


def _call(text: str, before: ToolCall | None, rectangle: Box | None) -> str | ToolCall | None:
    if not text.strip():
        return None
    if before is not None and text == _call_text(before):
        call = before
    else:
        try:
            call = ToolCall.model_validate_json(text)
        except ValidationError:
            return text
        if call.tool not in TOOLS:
            return text
    if call == before and rectangle is not None and rectangle != _call_region(before):
        return call.model_copy(update={"arguments": call.arguments | {"region": list(rectangle)}})
    return call


def _written(values: Mapping[str, Any], name: str) -> str:
    text = values.get(name, {}).get("text", "")
    return text if isinstance(text, str) else "\n".join(text)


def _chosen(values: Mapping[str, Any], name: str) -> str | None:
    return next(iter(values.get(name, {}).get("choices", [])), None)


def _rated(values: Mapping[str, Any], name: str) -> int | None:
    rating = values.get(name, {}).get("rating")
    return int(rating) if rating else None


def mask_digests(results: Sequence[Mapping[str, Any]], painted: np.ndarray | None = None) -> dict[str, str]:
    """sha256 of what is painted, by which a changed mask is told: of its run lengths, and of its pixels.

    The run lengths tell an untouched one without decoding it; both are empty where nothing is painted.

    Args:
        results: Of an annotation or a prediction.
        painted: bool (height, width), the mask they were made of; decoded from them where it is not given.
    """
    painted = mask(results) if painted is None else painted
    if painted is None or not painted.any():
        return {"runs": "", "pixels": ""}
    return {"runs": _runs_digest(results), "pixels": hashlib.sha256(np.packbits(painted).tobytes()).hexdigest()}


def is_mask_changed(results: Sequence[Mapping[str, Any]], before: Mapping[str, str]) -> bool:
    """Whether an annotation's ``result`` has another mask than the one whose :func:`mask_digests` are ``before``."""
    return _runs_digest(results) != before.get("runs") and mask_digests(results)["pixels"] != before.get("pixels", "")


def _runs_digest(results: Sequence[Mapping[str, Any]]) -> str:
    runs = [item["value"].get("rle") for item in results if item.get("type") == "brushlabels"]
    return hashlib.sha256(json.dumps(runs).encode()).hexdigest()


def mask(results: Sequence[Mapping[str, Any]]) -> np.ndarray | None:
    """All that is painted in an annotation's ``result``, as one bool (height, width); None where nothing is."""
    masks = [
        brush.decode_rle(item["value"]["rle"]).reshape(item["original_height"], item["original_width"], 4)[..., 3] > 0
        for item in results
        if item.get("type") == "brushlabels" and item["value"].get("rle")
    ]
    painted = np.logical_or.reduce(masks) if masks else None
    return painted if painted is not None and painted.any() else None
