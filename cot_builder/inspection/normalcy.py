"""Measures what defect-free parts have in common, and describes it in a text."""

import math
from collections import Counter
from collections.abc import Iterable
from typing import Any

import cv2
import numpy as np

from cot_builder.inspection.appearance import MeasuredImage
from cot_builder.inspection.names import category_name, choose_article

NORMALCY_VERSION = "2"
SYMMETRIC = 0.8
"""Minimum correlation with the mirror image of a symmetric part."""
DIRECTED = 0.35
"""Minimum coherence of the structure tensor of a directed texture, in [0, 1]."""
PERIODIC = 0.55
"""Minimum height of the second peak of the autocorrelation of a repeating texture."""


def measure_normalcy(images: Iterable[np.ndarray]) -> dict[str, Any]:
    """Measure normal images of one category and view.

    Args:
        images: Each uint8 (height, width, 3) BGR.

    Returns:
        ``images``: their number. For each measured fact: median, least and greatest value, and the number of images
        that have it. ``colours`` and ``backgrounds``: the share of images by colour name.

    Raises:
        ValueError: ``images`` is empty.
    """
    found = [_measure(image) for image in images]
    if not found:
        raise ValueError("normalcy needs at least one image; got no images")
    facts: dict[str, Any] = {"images": len(found)}
    for name in ("share", "aspect", "centre_x", "centre_y", "symmetry_x", "symmetry_y", "brightness", "contrast",
                 "detail", "coherence", "direction", "period", "repeats"):  # fmt: skip
        values = [item[name] for item in found if item[name] is not None]
        if values:
            facts[name] = {
                "median": round(float(np.median(values)), 3),
                "least": round(min(values), 3),
                "greatest": round(max(values), 3),
                "images": len(values),
            }
    for name, key in (("colours", "colour"), ("backgrounds", "background")):
        counted = Counter(item[key] for item in found if item[key])
        facts[name] = {colour: round(number / len(found), 3) for colour, number in counted.most_common(4)}
    return facts


def describe_normalcy(category: str, view: str, facts: dict[str, Any]) -> str:
    """Describe the facts in sentences that an expert can edit. Every sentence states a measured fact.

    Args:
        category: Category as the benchmark writes it.
        view: View as the benchmark writes it.
        facts: From :func:`measure_normalcy`.
    """
    name = category_name(category)
    sentences = [
        _describe_place(name, facts),
        _describe_colour(facts),
        _describe_symmetry(facts),
        _describe_texture(facts),
        _describe_repeats(facts),
        _describe_spread(facts),
    ]
    seen = f" from view {view}" if view != "default" else ""
    count = facts["images"]
    basis = f"Measured on {count} defect-free image{'s' if count != 1 else ''}{seen}."
    return " ".join([*filter(None, sentences), basis])


def _measure(image: np.ndarray) -> dict[str, Any]:
    look = MeasuredImage(image)
    scene, mask, small = look.scene(), look.object_mask(), look.downscaled()
    grey = cv2.cvtColor(small, cv2.COLOR_BGR2GRAY).astype(np.float32)
    part, inside, levels = grey, np.ones(grey.shape, np.uint8), grey
    share = aspect = centre_x = centre_y = None
    if mask is not None:
        largest = _keep_largest(mask)
        ys, xs = np.nonzero(largest)
        x1, x2, y1, y2 = int(xs.min()), int(xs.max()) + 1, int(ys.min()), int(ys.max()) + 1
        share, aspect = len(xs) / mask.size, (x2 - x1) / (y2 - y1)
        centre_x, centre_y = (x1 + x2) / 2 / mask.shape[1], (y1 + y2) / 2 / mask.shape[0]
        part, inside, levels = grey[y1:y2, x1:x2], _fill_holes(largest[y1:y2, x1:x2]), grey[largest]
    coherence, direction = _find_direction(part)
    return {
        "share": share,
        "aspect": aspect,
        "centre_x": centre_x,
        "centre_y": centre_y,
        "symmetry_x": _correlation(part, part[:, ::-1]),
        "symmetry_y": _correlation(part, part[::-1]),
        "brightness": float(levels.mean()),
        "contrast": float(levels.std()),
        "detail": scene.detail,
        "coherence": coherence,
        "direction": direction if coherence > DIRECTED else None,
        "period": _find_period(part),
        "repeats": _count_repeats(part, inside),
        "colour": scene.colour,
        "background": scene.background if scene.on_background else None,
    }


def _keep_largest(mask: np.ndarray) -> np.ndarray:
    _, labels, stats, _ = cv2.connectedComponentsWithStats(mask.astype(np.uint8), connectivity=8)
    return labels == 1 + int(stats[1:, cv2.CC_STAT_AREA].argmax())


def _fill_holes(mask: np.ndarray) -> np.ndarray:
    """Fill the holes of the mask; uint8 0 or 1."""
    outlines, _ = cv2.findContours(mask.astype(np.uint8), cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_SIMPLE)
    return cv2.drawContours(np.zeros(mask.shape, np.uint8), outlines, -1, 1, cv2.FILLED)


def _correlation(a: np.ndarray, b: np.ndarray) -> float:
    a, b = a - a.mean(), b - b.mean()
    return float((a * b).sum() / (math.sqrt(float((a * a).sum() * (b * b).sum())) + 1e-6))


def _find_direction(grey: np.ndarray) -> tuple[float, float]:
    """Coherence of the structure tensor in [0, 1], and its direction in degrees to the horizontal, in [0, 180)."""
    gx, gy = cv2.Sobel(grey, cv2.CV_32F, 1, 0), cv2.Sobel(grey, cv2.CV_32F, 0, 1)
    xx, yy, xy = float((gx * gx).mean()), float((gy * gy).mean()), float((gx * gy).mean())
    coherence = math.hypot(xx - yy, 2 * xy) / (xx + yy + 1e-6)
    # The texture runs perpendicular to its gradient. Image rows grow downwards.
    return coherence, (90 - math.degrees(math.atan2(2 * xy, xx - yy)) / 2) % 180


def _find_period(grey: np.ndarray) -> float | None:
    """Distance in pixels of the downscaled image after which the pattern repeats along rows or columns."""
    best: tuple[float, float] | None = None
    for profile in (grey.mean(axis=0), grey.mean(axis=1)):
        line = profile - np.convolve(np.pad(profile, 20, mode="edge"), np.ones(41) / 41, "valid")
        size = len(line)
        if size < 24 or float(line.std()) < 1.5:
            continue
        correlation = np.correlate(line, line, "full")[size - 1 :] / (float((line * line).sum()) + 1e-6)
        lags = np.arange(4, size // 3)
        peaks = [lag for lag in lags if correlation[lag] > max(correlation[lag - 1], correlation[lag + 1], PERIODIC)]
        if peaks and (best is None or correlation[peaks[0]] > best[0]):
            best = float(correlation[peaks[0]]), float(peaks[0])
    return best[1] if best else None


def _count_repeats(grey: np.ndarray, inside: np.ndarray) -> float | None:
    """Count small regions of similar size that stand out in a part. None if fewer than three or of different sizes.

    Args:
        grey: float32 (height, width), the bounding box of the part.
        inside: uint8 (height, width), 1 within the outline of the part, to exclude the corners of the bounding box.
    """
    grey = np.where(inside > 0, grey, np.median(grey[inside > 0])).astype(np.float32)
    local = cv2.absdiff(grey, cv2.GaussianBlur(grey, (0, 0), max(4.0, min(grey.shape) / 12)))
    level, mask = cv2.threshold(cv2.convertScaleAbs(local), 0, 1, cv2.THRESH_BINARY | cv2.THRESH_OTSU)
    if level < 8:
        return None
    mask = cv2.morphologyEx(mask, cv2.MORPH_OPEN, np.ones((3, 3), np.uint8))
    _, _, stats, _ = cv2.connectedComponentsWithStats(mask, connectivity=8)
    areas = stats[1:, cv2.CC_STAT_AREA].astype(float)
    areas = areas[areas > 0.0008 * grey.size]
    alike = areas[np.abs(areas - np.median(areas)) < 0.35 * np.median(areas)] if len(areas) else areas
    return float(len(alike)) if len(alike) >= 3 and len(alike) >= 0.7 * len(areas) else None


def _describe_place(name: str, facts: dict[str, Any]) -> str:
    named = f"{choose_article(name).capitalize()} {name}"
    framed = facts.get("share", {}).get("images", 0) / facts["images"]
    if framed < 0.6:
        if framed < 0.1:
            return f"{named} is seen close, without a plain background around it."
        return f"{named} does not always stand out from what lies around it."
    share, aspect = facts["share"], facts["aspect"]["median"]
    low, high = round(100 * share["least"]), round(100 * share["greatest"])
    much = f"about {round(100 * share['median'])} %" if high - low < 6 else f"{low} to {high} %"
    form = "wider than high" if aspect > 1.15 else "higher than wide" if aspect < 0.87 else "about as wide as high"
    varied = facts["aspect"]["greatest"] > 1.3 * facts["aspect"]["least"]
    dx, dy = facts["centre_x"]["median"] - 0.5, facts["centre_y"]["median"] - 0.5
    place = "in the middle" if max(abs(dx), abs(dy)) < 0.08 else "off the middle"
    if varied:
        return f"{named} takes {much} of the image and lies {place}; its outline changes with its pose."
    ratio = f", {aspect:.1f} to 1" if aspect > 1.15 else f", 1 to {1 / aspect:.1f}" if aspect < 0.87 else ""
    return f"{named} takes {much} of the image, lies {place} and is {form}{ratio}."


def _describe_colour(facts: dict[str, Any]) -> str:
    colours, backgrounds = list(facts["colours"]), [k for k, share in facts["backgrounds"].items() if share > 0.6]
    tones = colours[0] if len(colours) == 1 or facts["colours"][colours[0]] > 0.8 else " or ".join(colours[:2])
    level = facts["brightness"]["median"]
    light = "dark" if level < 70 else "bright" if level > 175 else "of middle brightness"
    is_redundant = light == "dark" and ("dark" in tones or "black" in tones)
    ground = f" on a background that is {backgrounds[0]}" if backgrounds else ""
    return f"Its colour is {tones}{'' if is_redundant else f', {light}'} (mean grey {level:.0f}){ground}."


def _describe_symmetry(facts: dict[str, Any]) -> str:
    across, down = facts["symmetry_x"]["median"], facts["symmetry_y"]["median"]
    if across > SYMMETRIC and down > SYMMETRIC:
        return "Left and right mirror each other, and so do top and bottom."
    if across > SYMMETRIC:
        return "Left and right mirror each other."
    if down > SYMMETRIC:
        return "Top and bottom mirror each other."
    return ""


def _describe_texture(facts: dict[str, Any]) -> str:
    detail = facts["detail"]["median"]
    amount = (
        "smooth, with hardly an edge"
        if detail < 0.02
        else "rich in edges"
        if detail > 0.12
        else "moderately structured"
    )
    share = f" (edges on {100 * detail:.0f} % of the pixels)" if detail >= 0.01 else ""
    text = f"Its surface is {amount}{share}"
    directed = facts.get("direction")
    if directed and directed["images"] > 0.6 * facts["images"] and directed["greatest"] - directed["least"] < 40:
        angle = directed["median"]
        course = "horizontally" if angle < 20 or angle > 160 else "vertically" if 70 < angle < 110 else "diagonally"
        text += f"; its structure runs {course}"
    period = facts.get("period")
    if period and period["images"] > 0.6 * facts["images"] and period["greatest"] < 1.5 * period["least"]:
        text += "; a pattern repeats in it at an even distance"
    return text + "."


def _describe_repeats(facts: dict[str, Any]) -> str:
    repeats = facts.get("repeats")
    if not repeats or repeats["images"] < 0.6 * facts["images"]:
        return ""
    low, high = int(repeats["least"]), int(repeats["greatest"])
    if high - low > max(2, 0.3 * repeats["median"]):
        return ""
    number = str(low) if low == high else f"{low} to {high}"
    return f"It shows {number} features of like size."


def _describe_spread(facts: dict[str, Any]) -> str:
    if facts["images"] < 3:
        return ""
    low, high = facts["brightness"]["least"], facts["brightness"]["greatest"]
    if high - low > 45:
        return f"Brightness varies from part to part (mean grey {low:.0f} to {high:.0f}) without being a fault."
    span = f"{low:.0f} to {high:.0f}" if round(low) < round(high) else f"{low:.0f}"
    return f"Its mean brightness hardly varies from part to part (mean grey {span})."
