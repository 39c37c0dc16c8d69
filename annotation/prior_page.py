"""The page of a normalcy prior in Label Studio: its layout, what prefills it, and what comes back."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from html import escape
from importlib import resources
from typing import Any, NamedTuple

from label_studio_sdk.label_interface import LabelInterface

from cot_builder.inspection.names import category_name
from cot_builder.inspection.normalcy import describe_normalcy
from schemas.errors import IndusCotError
from schemas.prior import NormalcyPrior

IMAGES = "images"
JUDGEMENT = ("verdict", "reason")
"""Controls that say what the expert decided, rather than what the prior says."""
SHOWN_IMAGES = 8
SHOWN_ERRORS = 3
PERCENT = ("share", "centre_x", "centre_y", "detail")
"""Facts that are shares of one."""
TOLD = {
    "share": "part of the image it takes",
    "aspect": "width to height",
    "centre_x": "centre, from the left",
    "centre_y": "centre, from the top",
    "symmetry_x": "left like right, correlation",
    "symmetry_y": "top like bottom, correlation",
    "brightness": "mean grey, 0 to 255",
    "contrast": "deviation of grey",
    "detail": "pixels on an edge",
    "coherence": "directed structure, 0 to 1",
    "direction": "its course, degrees",
    "period": "pattern repeats after pixels",
    "repeats": "features of like size",
    "colours": "colour",
    "backgrounds": "background",
}
"""The facts of `measure_normalcy` in words."""
INSTRUCTION = (
    "This text tells a student what a sound part looks like. Hold it against the normal images it came from: a click "
    "makes one large, another closes it. Edit the text where it is wrong or says too little, then say accept, fixed or "
    "reject. A rejected text of a model gives way to the measured one."
)


class Shown(NamedTuple):
    """A normal image on the page."""

    url: str
    width: int
    height: int


@dataclass(frozen=True)
class Reading:
    """What one annotation says."""

    text_sha256: str | None
    """Of the text that was on the page; None where the page was opened without its prediction."""
    text: str
    """As it was left, to the character; empty where it was emptied."""
    verdict: str | None
    """``accept``, ``fixed`` or ``reject``."""
    reason: str
    comment: str


@cache
def config() -> str:
    """The labelling configuration, XML."""
    # Label Studio keeps no space around it, and it would look changed at every push.
    return resources.files("annotation").joinpath("prior_page.xml").read_text("utf-8").strip()


def task(
    prior: NormalcyPrior, text_sha256: str, role: str, images: Sequence[Shown], returned: str = ""
) -> dict[str, Any]:
    """A task's ``data``.

    Args:
        prior: The prior, its text made by the machine.
        text_sha256: Of its text.
        role: What its set is for, in words.
        images: Normal images it was measured on, at most :data:`SHOWN_IMAGES`.
        returned: What the page says of a review that could not be applied.
    """
    view = "" if prior.view == "default" else f", view {prior.view}"
    return {
        "uid": prior.prior_id,
        "prior_sha256": text_sha256,
        "text": prior.text,
        "title": f"A sound {category_name(prior.category)}{view}",
        "returned": returned,
        "provenance": _provenance(prior, role),
        "images": _images(images, prior.image_count),
    }


def prefill(text_sha256: str, text: str) -> list[dict[str, Any]]:
    """The prediction's ``result`` that fills the page."""
    return [_text("prior", text_sha256), _text("text", text)]


def check(results: Sequence[Mapping[str, Any]]) -> None:
    """Check what Label Studio does not: that results fit the page.

    Raises:
        IndusCotError: they do not.
    """
    errors = _interface().validate_prediction({"result": [dict(item) for item in results]}, return_errors=True)
    # PostgreSQL stores no NUL.
    errors += [f"{item.get('from_name')} holds a NUL character" for item in results if "\\u0000" in json.dumps(item)]
    if errors:
        raise IndusCotError(
            f"what would fill the page of a prior does not fit it: {'; '.join(map(str, errors[:SHOWN_ERRORS]))}"
        )


def read(results: Sequence[Mapping[str, Any]]) -> Reading:
    """What an annotation's ``result`` says."""
    values = {item["from_name"]: item["value"] for item in results if item.get("from_name") and "value" in item}

    def written(name: str) -> str:
        text = values.get(name, {}).get("text", "")
        return text if isinstance(text, str) else "\n".join(text)

    return Reading(
        text_sha256=written("prior") or None,
        text=written("text"),
        verdict=next(iter(values.get("verdict", {}).get("choices", [])), None),
        reason=written("reason"),
        comment=written("comment"),
    )


@cache
def _interface() -> LabelInterface:
    return LabelInterface(config())


def _text(name: str, text: str) -> dict[str, Any]:
    return {"id": f"{name}_text", "from_name": name, "to_name": IMAGES, "type": "textarea", "value": {"text": [text]}}


def _provenance(prior: NormalcyPrior, role: str) -> str:
    """HTML of our own making, as in :func:`_images`: whatever somebody wrote is escaped."""
    facts = json.loads(prior.facts)
    measured = {TOLD.get(name, name): _told(name, value, prior.image_count) for name, value in facts.items()}
    lines = [
        ("set", f"{prior.source_set}, {role}"),
        ("written by", f"{prior.author}, version {prior.version}"),
        ("from", f"{prior.image_count} normal image{'s' if prior.image_count != 1 else ''} of a training split"),
        *((name, told) for name, told in measured.items() if told),
    ]
    listed = "".join(f"<li><b>{escape(name)}</b><span>{escape(value)}</span></li>" for name, value in lines)
    text = describe_normalcy(prior.category, prior.view, facts) if facts else prior.text
    other = f"<p>{escape(f'The measured text: {text}')}</p>" if text != prior.text else ""
    return f"<ul>{listed}</ul>{other}"


def _told(name: str, value: Any, count: int) -> str:
    """A fact in words; empty where there is nothing to tell or another line tells it."""
    if name == "images" or not value:
        return ""
    if not isinstance(value, dict):
        return json.dumps(value, ensure_ascii=False)
    if "median" not in value:
        return ", ".join(f"{key} {100 * share:.0f} %" for key, share in value.items())
    least, median, greatest = (_number(name, value[key]) for key in ("least", "median", "greatest"))
    spread = f" ({least} to {greatest})" if least != greatest else ""
    few = f", on {value['images']} of the images" if value["images"] < count else ""
    return f"{median}{' %' if name in PERCENT else ''}{spread}{few}"


def _number(name: str, value: float) -> str:
    return f"{100 * value:.0f}" if name in PERCENT else f"{value:.3g}"


def _images(images: Sequence[Shown], count: int) -> str:
    # A disclosure opens and closes with a click and needs no script, which the page would not run.
    parts = [f"<p>{escape(f'{len(images)} of the {count} normal images it was measured on')}</p>"]
    parts += [
        f'<details><summary><img src="{escape(url)}" alt=""></summary>'
        f'<a href="{escape(url)}" target="_blank" rel="noopener">the file itself, {width} × {height} pixels</a>'
        "</details>"
        for url, width, height in images
    ]
    return "".join(parts)
