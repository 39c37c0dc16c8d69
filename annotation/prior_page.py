"""The review page of a normalcy prior in Label Studio: its layout, prefilled content, and parsing of annotations."""

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

IMAGES_TAG = "images"
JUDGEMENT_CONTROLS = ("verdict", "reason")
"""Controls of the expert's decision, as opposed to that of the prior's text."""
MAX_SHOWN_IMAGES = 8
MAX_SHOWN_ERRORS = 3
PERCENT_FACTS = ("share", "centre_x", "centre_y", "detail")
"""Facts that are fractions of 1 and shown in percent."""
FACT_LABELS = {
    "share": "share of the image covered",
    "aspect": "width to height",
    "centre_x": "centre, from the left",
    "centre_y": "centre, from the top",
    "symmetry_x": "left-right symmetry, correlation",
    "symmetry_y": "top-bottom symmetry, correlation",
    "brightness": "mean grey level, 0 to 255",
    "contrast": "standard deviation of grey levels",
    "detail": "share of edge pixels",
    "coherence": "directional structure, 0 to 1",
    "direction": "its direction, degrees",
    "period": "period of the pattern, pixels",
    "repeats": "repeated features of similar size",
    "colours": "colour",
    "backgrounds": "background",
}
"""Labels for the facts of `measure_normalcy`."""
INSTRUCTION = (
    "This text tells a student what a defect-free part looks like. Compare it with the normal images it was made from: "
    "click an image to enlarge it, and again to close it. Edit the text if it is wrong or incomplete, then choose "
    "accept, fixed or reject. If you reject a text written by a model, the measured text replaces it."
)


class PageImage(NamedTuple):
    """A normal image on the page."""

    url: str
    width: int
    height: int


@dataclass(frozen=True)
class Reading:
    """The content of one annotation."""

    text_sha256: str | None
    """Hash of the text that was on the page; None if the page was opened without its prediction."""
    text: str
    """The text exactly as the expert left it; empty if they emptied it."""
    verdict: str | None
    """``accept``, ``fixed`` or ``reject``."""
    reason: str
    comment: str


@cache
def build_config() -> str:
    """Return the labelling configuration as XML."""
    # Label Studio strips surrounding whitespace; without `strip` every push would find a changed configuration.
    return resources.files("annotation").joinpath("prior_page.xml").read_text("utf-8").strip()


def build_task(
    prior: NormalcyPrior, text_sha256: str, role: str, images: Sequence[PageImage], returned: str = ""
) -> dict[str, Any]:
    """Return the ``data`` of a task.

    Args:
        prior: The prior with its text before the experts' edits.
        text_sha256: Hash of its text.
        role: Description of the role of its data set.
        images: Normal images it was measured on, at most :data:`MAX_SHOWN_IMAGES`.
        returned: The page's message about a review that could not be applied.
    """
    view = "" if prior.view == "default" else f", view {prior.view}"
    return {
        "uid": prior.prior_id,
        "prior_sha256": text_sha256,
        "text": prior.text,
        "title": f"Defect-free {category_name(prior.category)}{view}",
        "returned": returned,
        "provenance": _render_provenance(prior, role),
        "images": _render_images(images, prior.image_count),
    }


def build_prefill(text_sha256: str, text: str) -> list[dict[str, Any]]:
    """Return the ``result`` of the prediction that prefills the page."""
    return [_make_text("prior", text_sha256), _make_text("text", text)]


def check_prefill(results: Sequence[Mapping[str, Any]]) -> None:
    """Check that prefilled results fit the page; Label Studio itself does not check this.

    Raises:
        IndusCotError: they do not fit.
    """
    errors = _build_interface().validate_prediction({"result": [dict(item) for item in results]}, return_errors=True)
    # PostgreSQL cannot store NUL characters.
    errors += [f"{item.get('from_name')} holds a NUL character" for item in results if "\\u0000" in json.dumps(item)]
    if errors:
        raise IndusCotError(
            "the prefilled content does not fit the review page of a prior: "
            f"{'; '.join(map(str, errors[:MAX_SHOWN_ERRORS]))}"
        )


def read_annotation(results: Sequence[Mapping[str, Any]]) -> Reading:
    """Parse the ``result`` of an annotation."""
    values = {item["from_name"]: item["value"] for item in results if item.get("from_name") and "value" in item}

    def get_text(name: str) -> str:
        text = values.get(name, {}).get("text", "")
        return text if isinstance(text, str) else "\n".join(text)

    return Reading(
        text_sha256=get_text("prior") or None,
        text=get_text("text"),
        verdict=next(iter(values.get("verdict", {}).get("choices", [])), None),
        reason=get_text("reason"),
        comment=get_text("comment"),
    )


@cache
def _build_interface() -> LabelInterface:
    return LabelInterface(build_config())


def _make_text(name: str, text: str) -> dict[str, Any]:
    return {
        "id": f"{name}_text",
        "from_name": name,
        "to_name": IMAGES_TAG,
        "type": "textarea",
        "value": {"text": [text]},
    }


def _render_provenance(prior: NormalcyPrior, role: str) -> str:
    """Return facts and origin of the prior as HTML; all text is escaped."""
    facts = json.loads(prior.facts)
    measured = {
        FACT_LABELS.get(name, name): _format_fact(name, value, prior.image_count) for name, value in facts.items()
    }
    lines = [
        ("set", f"{prior.source_set}, {role}"),
        ("written by", f"{prior.author}, version {prior.version}"),
        ("made from", f"{prior.image_count} normal image{'s' if prior.image_count != 1 else ''} of a training split"),
        *((name, text) for name, text in measured.items() if text),
    ]
    rows = "".join(f"<li><b>{escape(name)}</b><span>{escape(value)}</span></li>" for name, value in lines)
    measured_text = describe_normalcy(prior.category, prior.view, facts) if facts else prior.text
    other = f"<p>{escape(f'Measured text: {measured_text}')}</p>" if measured_text != prior.text else ""
    return f"<ul>{rows}</ul>{other}"


def _format_fact(name: str, value: Any, count: int) -> str:
    """Return a fact as text; empty if it has no value, or for the number of images, which another line shows."""
    if name == "images" or not value:
        return ""
    if not isinstance(value, dict):
        return json.dumps(value, ensure_ascii=False)
    if "median" not in value:
        return ", ".join(f"{key} {100 * share:.0f} %" for key, share in value.items())
    least, median, greatest = (_format_number(name, value[key]) for key in ("least", "median", "greatest"))
    spread = f" ({least} to {greatest})" if least != greatest else ""
    few = f", on {value['images']} of the images" if value["images"] < count else ""
    return f"{median}{' %' if name in PERCENT_FACTS else ''}{spread}{few}"


def _format_number(name: str, value: float) -> str:
    return f"{100 * value:.0f}" if name in PERCENT_FACTS else f"{value:.3g}"


def _render_images(images: Sequence[PageImage], count: int) -> str:
    # `details` opens and closes on a click without a script, which the page would not run.
    parts = [f"<p>{escape(f'{len(images)} of the {count} normal images it was measured on')}</p>"]
    parts += [
        f'<details><summary><img src="{escape(url)}" alt=""></summary>'
        f'<a href="{escape(url)}" target="_blank" rel="noopener">original file, {width} × {height} pixels</a>'
        "</details>"
        for url, width, height in images
    ]
    return "".join(parts)
