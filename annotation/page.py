"""The review page of a draft in Label Studio: its layout, its prefilled content, and parsing of annotations.

Rectangles are in percent of the image on the page, and integers 0-1000 everywhere else: the factor is ten.
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
HOTKEY_TAGS = ("Choice", "Label", "Rating")
"""Tags to which Label Studio assigns a letter or digit as hotkey unless they name one."""
UNREACHABLE_KEY = 0xE000
"""First private-use character; no keyboard sends it."""
INDEX_FLAG = "{{idx}}"
JUDGEMENT_CONTROLS = ("verdict", "reasons")
"""Controls of the expert's decision, as opposed to those of the trajectory."""
MAX_SHOWN_ERRORS = 3
MASK_OPACITY = 90
"""Opacity of a prefilled mask, 1 to 255: the defect must stay visible."""


@dataclass(frozen=True)
class Reading:
    """The content of one annotation."""

    draft_sha256: str | None
    """Hash of the draft that was on the page; None if the page was opened without its prediction."""
    verdict: str | None
    """``accept``, ``fixed`` or ``reject``."""
    reasons: list[str]
    evidence_rating: int | None
    logic_rating: int | None
    comment: str
    thoughts: list[str]
    """One for each turn; empty if the expert emptied it."""
    calls: list[str | ToolCall | None]
    """One for each turn: the call, its text if it does not parse as a call, None if there is none."""
    answer: str | None
    boxes: list[Box]
    """In 0-1000."""
    defect_type: str | None


@cache
def build_config(masks: bool = False) -> str:
    """Return the labelling configuration as XML; with ``masks`` it has a brush for defect masks."""
    root = ElementTree.fromstring(resources.files("annotation").joinpath("page.xml").read_text("utf-8"))
    for name, values in (("defect_type", leaves()), ("reasons", REASONS)):
        choices = _find_control(root, name)
        for value in values:
            ElementTree.SubElement(choices, "Choice", value=value)
    if not masks:
        parents = {child: parent for parent in root.iter() for child in parent}
        mask = _find_control(root, "mask")
        parents[mask].remove(mask)
    # With Label Studio's own hotkeys, typing while no text box has the focus would tick choices.
    for number, tag in enumerate(tag for tag in root.iter() if tag.tag in HOTKEY_TAGS):
        if "hotkey" not in tag.attrib:
            tag.set("hotkey", chr(UNREACHABLE_KEY + number))
    ElementTree.indent(root)
    return ElementTree.tostring(root, encoding="unicode")


def build_task(
    draft: Draft,
    trajectory: Trajectory,
    category: str,
    view: str,
    image_url: str,
    observation_urls: Mapping[str, str],
    reasons: Sequence[str],
    returned: Sequence[str] = (),
) -> dict[str, Any]:
    """Return the ``data`` of a task.

    Args:
        draft: The draft on the page.
        trajectory: Its trajectory.
        category: Category of the sample.
        view: View of the sample.
        image_url: Address of the inspected image.
        observation_urls: Addresses of the images that tools returned, by sha256.
        reasons: Why the draft is in the queue.
        returned: Why its last review was sent back.

    Raises:
        KeyError: an observation has no address.
    """
    return {
        "uid": draft.draft_id,
        "draft_sha256": draft.draft_sha256,
        "image": image_url,
        "question": render_question(category, view),
        "why": f"Reason for review: {'; '.join(reasons)}" if reasons else "",
        "returned": describe_return(returned),
        "steps": [
            {"title": _format_step_title(number, turn), "observation": _render_observation(turn, observation_urls)}
            for number, turn in enumerate(trajectory.turns)
        ],
    }


def describe_return(problems: Sequence[str]) -> str:
    """Return the page's message about a review that could not be applied; empty without problems."""
    return f"Sent back: {'; '.join(problems)}" if problems else ""


def build_prefill(
    draft_sha256: str, trajectory: Trajectory, width: int, height: int, mask: np.ndarray | None = None
) -> list[dict[str, Any]]:
    """Return the ``result`` of the prediction that prefills the page.

    Args:
        draft_sha256: Hash of the draft.
        trajectory: Trajectory of the draft.
        width: Width in pixels of the image on the page.
        height: Its height in pixels.
        mask: Defect mask, bool (height, width); needs the page with a brush.

    Raises:
        IndusCotError: the sizes of mask and image differ.
    """
    verdict = trajectory.verdict
    results = [_make_text("draft", IMAGE, draft_sha256), _make_choice("answer", verdict.answer)]
    if verdict.defect_type is not None:
        results.append(_make_choice("defect_type", verdict.defect_type))
    for number, turn in enumerate(trajectory.turns):
        if turn.thought:
            results.append(_make_text(f"think_{number}", f"observation_{number}", turn.thought))
        if turn.call is not None:
            results.append(_make_text(f"call_{number}", f"observation_{number}", _format_call(turn.call)))
    # Label Studio draws earlier results on top. Defects come first, so that a click on one selects it and not the
    # tool region around it.
    size = {"original_width": width, "original_height": height, "image_rotation": 0}
    for number, box in enumerate(verdict.boxes):
        results.append(_make_rectangle(f"box_{number}", "region", "defect", box) | size)
    for number, turn in enumerate(trajectory.turns):
        if region := _get_call_region(turn.call):
            results.append(_make_rectangle(f"call_{number}", "tool", "tool region", region) | size)
    if mask is not None and mask.any():
        if mask.shape != (height, width):
            raise IndusCotError(
                f"mask of {mask.shape[1]} x {mask.shape[0]} pixels for an image of {width} x {height} pixels; "
                "run `indus-cot repro`"
            )
        rle = brush.mask2rle(mask.astype(np.uint8) * MASK_OPACITY)
        painted = {"format": "rle", "rle": rle, "brushlabels": ["defect mask"]}
        results.append(_make_result("mask_0", "mask", IMAGE, "brushlabels", painted) | size)
    return results


def check_prefill(results: Sequence[Mapping[str, Any]], trajectory: Trajectory, masks: bool = False) -> None:
    """Check that prefilled results fit the page; Label Studio itself does not check this.

    Raises:
        IndusCotError: they do not fit.
    """
    errors = _build_interface(len(trajectory.turns), masks).validate_prediction(
        {"result": [dict(item) for item in results]}, return_errors=True
    )
    # PostgreSQL cannot store NUL characters.
    if "\\u0000" in json.dumps(results):
        errors += [
            f"{item.get('from_name')} holds a NUL character" for item in results if "\\u0000" in json.dumps(item)
        ]
    if errors:
        more = f" and {len(errors) - MAX_SHOWN_ERRORS} more" if len(errors) > MAX_SHOWN_ERRORS else ""
        raise IndusCotError(
            f"the prefilled content does not fit the review page: {'; '.join(errors[:MAX_SHOWN_ERRORS])}{more}"
        )


def read_annotation(results: Sequence[Mapping[str, Any]], trajectory: Trajectory) -> Reading:
    """Parse the ``result`` of an annotation of ``trajectory``.

    An expert edits the region of a call by moving its rectangle or in its JSON. If both were edited, the JSON counts.
    """
    values: dict[str, Any] = {
        item["from_name"]: item["value"] for item in results if item.get("from_name") and "value" in item
    }
    turns = range(len(trajectory.turns))
    regions = [item for item in results if item.get("type") == "rectanglelabels"]
    moved = {
        item.get("id"): _parse_box(item["value"])
        for item in regions
        if "tool region" in item["value"]["rectanglelabels"]
    }
    defects = [item for item in regions if "defect" in item["value"]["rectanglelabels"]]
    # Keep the draft's order, which the page may have changed; new boxes come last.
    prefilled = {f"box_{number}": number for number in range(len(trajectory.verdict.boxes))}
    defects.sort(key=lambda item: prefilled.get(item.get("id", ""), len(prefilled)))
    return Reading(
        draft_sha256=_get_text(values, "draft") or None,
        verdict=_get_choice(values, "verdict"),
        reasons=list(values.get("reasons", {}).get("choices", [])),
        evidence_rating=_get_rating(values, "evidence"),
        logic_rating=_get_rating(values, "logic"),
        comment=_get_text(values, "comment"),
        thoughts=[_get_text(values, f"think_{number}") for number in turns],
        calls=[
            _parse_call(_get_text(values, f"call_{number}"), trajectory.turns[number].call, moved.get(f"call_{number}"))
            for number in turns
        ],
        answer=_get_choice(values, "answer"),
        boxes=[_parse_box(item["value"]) for item in defects],
        defect_type=_get_choice(values, "defect_type"),
    )


def _find_control(root: ElementTree.Element, name: str) -> ElementTree.Element:
    control = root.find(f".//*[@name='{name}']")
    assert control is not None
    return control


@cache
def _build_interface(turns: int, masks: bool) -> LabelInterface:
    """Return the page with one card for each turn: the SDK does not support ``Repeater``."""
    root = ElementTree.fromstring(build_config(masks))
    for parent in list(root.iter()):
        for repeater in parent.findall("Repeater"):
            parent.remove(repeater)
            for number in range(turns):
                for card in copy.deepcopy(list(repeater)):
                    for tag in card.iter():
                        tag.attrib.update(
                            {key: text.replace(INDEX_FLAG, str(number)) for key, text in tag.attrib.items()}
                        )
                    parent.append(card)
    return LabelInterface(ElementTree.tostring(root, encoding="unicode"))


def _format_step_title(number: int, turn: Turn) -> str:
    return f"{number + 1} · {turn.call.tool if turn.call else 'conclusion'}"


def _render_observation(turn: Turn, urls: Mapping[str, str]) -> str:
    """Return the observation as HTML; text from tools and teachers is escaped."""
    if turn.observation is None:
        return '<p class="review-conclusion"></p>'
    digest = turn.observation.image_sha256
    shown = f'<img src="{escape(urls[digest])}" alt="">' if digest else ""
    return f"{shown}<p>{escape(turn.observation.text)}</p>"


def _make_result(result_id: str, name: str, to_name: str, kind: str, value: dict[str, Any]) -> dict[str, Any]:
    return {"id": result_id, "from_name": name, "to_name": to_name, "type": kind, "value": value}


def _make_text(name: str, to_name: str, text: str) -> dict[str, Any]:
    return _make_result(f"{name}_text", name, to_name, "textarea", {"text": [text]})


def _make_choice(name: str, value: str) -> dict[str, Any]:
    return _make_result(name, name, IMAGE, "choices", {"choices": [value]})


def _make_rectangle(result_id: str, name: str, label: str, box: Box) -> dict[str, Any]:
    x1, y1, x2, y2 = box
    sides = {"x": x1 / 10, "y": y1 / 10, "width": (x2 - x1) / 10, "height": (y2 - y1) / 10}
    value = sides | {"rotation": 0, "rectanglelabels": [label]}
    return _make_result(result_id, name, IMAGE, "rectanglelabels", value)


def _parse_box(value: Mapping[str, Any]) -> Box:
    """Return the nearest box in 0-1000."""
    left, right = _parse_span(value["x"], value["width"])
    top, bottom = _parse_span(value["y"], value["height"])
    return left, top, right, bottom


def _parse_span(start: float, length: float) -> tuple[int, int]:
    low = min(max(round(start * 10), 0), SCALE - 1)
    return low, min(max(round((start + length) * 10), low + 1), SCALE)


def _format_call(call: ToolCall) -> str:
    return json.dumps(call.model_dump(), ensure_ascii=False)


def _get_call_region(call: ToolCall | None) -> Box | None:
    """Return the region of a call; None if the call names no valid box in 0-1000."""
    region = call.arguments.get("region") if call else None
    if not (isinstance(region, list) and len(region) == 4 and all(type(side) is int for side in region)):
        return None
    x1, y1, x2, y2 = region
    try:
        return check_box((x1, y1, x2, y2))  # type: ignore[arg-type]
    except ValueError:
        return None


def _parse_call(text: str, before: ToolCall | None, rectangle: Box | None) -> str | ToolCall | None:
    if not text.strip():
        return None
    if before is not None and text == _format_call(before):
        call = before
    else:
        try:
            call = ToolCall.model_validate_json(text)
        except ValidationError:
            return text
        if call.tool not in TOOLS:
            return text
    if call == before and rectangle is not None and rectangle != _get_call_region(before):
        return call.model_copy(update={"arguments": call.arguments | {"region": list(rectangle)}})
    return call


def _get_text(values: Mapping[str, Any], name: str) -> str:
    text = values.get(name, {}).get("text", "")
    return text if isinstance(text, str) else "\n".join(text)


def _get_choice(values: Mapping[str, Any], name: str) -> str | None:
    return next(iter(values.get(name, {}).get("choices", [])), None)


def _get_rating(values: Mapping[str, Any], name: str) -> int | None:
    rating = values.get(name, {}).get("rating")
    return int(rating) if rating else None


def hash_mask(results: Sequence[Mapping[str, Any]], painted: np.ndarray | None = None) -> dict[str, str]:
    """Return sha256 digests that detect a changed mask: ``runs`` of the run lengths and ``pixels`` of the pixels.

    Equal run lengths identify an unchanged mask without decoding it. Both digests are empty if nothing is painted.

    Args:
        results: Results of an annotation or a prediction.
        painted: The mask they were made from, bool (height, width); decoded from them by default.
    """
    painted = decode_mask(results) if painted is None else painted
    if painted is None or not painted.any():
        return {"runs": "", "pixels": ""}
    return {"runs": _hash_runs(results), "pixels": hashlib.sha256(np.packbits(painted).tobytes()).hexdigest()}


def is_mask_changed(results: Sequence[Mapping[str, Any]], before: Mapping[str, str]) -> bool:
    """Return whether the mask in an annotation's ``result`` differs from the one with the digests ``before``."""
    return _hash_runs(results) != before.get("runs") and hash_mask(results)["pixels"] != before.get("pixels", "")


def _hash_runs(results: Sequence[Mapping[str, Any]]) -> str:
    runs = [item["value"].get("rle") for item in results if item.get("type") == "brushlabels"]
    return hashlib.sha256(json.dumps(runs).encode()).hexdigest()


def decode_mask(results: Sequence[Mapping[str, Any]]) -> np.ndarray | None:
    """Return the union of all masks in an annotation's ``result``, bool (height, width); None if nothing is painted."""
    masks = [
        brush.decode_rle(item["value"]["rle"]).reshape(item["original_height"], item["original_width"], 4)[..., 3] > 0
        for item in results
        if item.get("type") == "brushlabels" and item["value"].get("rle")
    ]
    painted = np.logical_or.reduce(masks) if masks else None
    return painted if painted is not None and painted.any() else None
