"""Measurements on image regions: tone, colour, shape, sharpness, contrast.

Lightness and colour are CIE L*a*b*; differences are CIE76 (about 2 is just noticeable).
"""

import math
from dataclasses import dataclass
from functools import cached_property

import cv2
import numpy as np

from schemas.geometry import SCALE, Box, expand, from_pixels, to_pixels

GLOBAL_SIDE = 448
"""Longest side in pixels of the downscaled image that a model is assumed to see at first glance."""
NOTICEABLE = 5.0
"""Difference in L*, a* or b* from which a shift is described."""
PLAIN = 0.85
"""Share of the border that must have one colour to count as background."""
BACKGROUND_TOLERANCE = 20.0
"""Colour difference up to which a pixel counts as background."""


@dataclass(frozen=True)
class Spot:
    """A region compared with its immediate surroundings."""

    contrast: float
    """Mean colour difference between the conspicuous pixels of the region and the surroundings."""
    noise: float
    """Median colour difference within the surroundings."""
    lightness: float
    """Difference in L* (0-100) to the surroundings, positive if the region is lighter."""
    green_red: float
    blue_yellow: float
    """``green_red`` and ``blue_yellow`` are the differences in a* and b* to the surroundings."""
    surrounding_hue: tuple[float, float]
    """a* and b* of the surroundings."""
    elongation: float
    """Length over width of the conspicuous region, at least 1."""
    angle: float
    """Angle of the long axis to the horizontal in degrees, counter-clockwise, in [0, 180)."""
    sharpness: float
    """Steepness of the border relative to the contrast, in [0, 1]."""
    roughness: float
    """Ratio of fine detail in the region to fine detail around it."""

    @property
    def visibility(self) -> float:
        """Contrast relative to the variation of the surroundings."""
        return self.contrast / (self.noise + 2.0)

    @property
    def tone(self) -> str:
        """'darker', 'lighter', or '' if the difference in lightness is too small to notice."""
        return "" if abs(self.lightness) < NOTICEABLE else "lighter" if self.lightness > 0 else "darker"

    @property
    def hue(self) -> str:
        """Direction of the colour shift in words, or '' if the shift is too weak."""
        strength = math.hypot(self.green_red, self.blue_yellow)
        if strength < 2 * NOTICEABLE or strength < 0.4 * abs(self.lightness):
            return ""
        red, yellow = self.surrounding_hue
        if abs(self.blue_yellow) >= abs(self.green_red):
            if self.blue_yellow > 0:
                return "more yellowish"
            return "more bluish" if yellow + self.blue_yellow < -4 else "less yellow"
        if self.green_red > 0:
            return "more reddish"
        return "more greenish" if red + self.green_red < -4 else "less red"

    @property
    def direction(self) -> str:
        """Direction of the long axis in words."""
        if self.angle < 20 or self.angle >= 160:
            return "horizontal"
        if 70 <= self.angle < 110:
            return "vertical"
        return "rising to the right" if self.angle < 90 else "falling to the right"


@dataclass(frozen=True)
class Scene:
    """Facts about the whole image."""

    background_spread: float
    """Standard deviation of L* in the background, or in the whole image if there is no background."""
    background: str
    """Name of the colour of the border."""
    colour: str
    """Name of the dominant colour outside the background."""
    fills_frame: bool
    """Whether the surface reaches from edge to edge. It and ``on_background`` are both False in unclear cases."""
    on_background: bool
    """Whether the object lies on a plain background."""
    detail: float
    """Share of pixels that lie on an edge, in [0, 1]."""


class MeasuredImage:
    """An image with cached intermediate results, for repeated measurements.

    Args:
        image: uint8 (height, width, 3) BGR.
    """

    def __init__(self, image: np.ndarray) -> None:
        self.image = image

    @cached_property
    def _lab(self) -> np.ndarray:
        lab = cv2.cvtColor(cv2.GaussianBlur(self.image, (3, 3), 0), cv2.COLOR_BGR2LAB).astype(np.float32)
        lab[..., 0] *= 100 / 255
        lab[..., 1:] -= 128
        return lab

    @cached_property
    def _small(self) -> "MeasuredImage":
        scale = GLOBAL_SIDE / max(self.image.shape[:2])
        if scale >= 1:
            return self
        height, width = self.image.shape[:2]
        size = (max(1, round(width * scale)), max(1, round(height * scale)))
        return MeasuredImage(cv2.resize(self.image, size, interpolation=cv2.INTER_AREA))

    @cached_property
    def _edges(self) -> np.ndarray:
        grey = cv2.GaussianBlur(cv2.cvtColor(self.image, cv2.COLOR_BGR2GRAY), (0, 0), 1.2)
        return cv2.Canny(grey, 30, 90)

    def measure_downscaled(self, box: Box) -> Spot:
        """Measure a box of 0-1000 on the downscaled image."""
        return self._small.measure_spot(box)

    def measure_spot(self, box: Box) -> Spot:
        """Measure a box of 0-1000 in comparison with the ring around it."""
        height, width = self.image.shape[:2]
        x1, y1, x2, y2 = to_pixels(box, width, height)
        margin = max(6, round(0.35 * max(x2 - x1, y2 - y1)))
        left, top, right, bottom = (
            max(x1 - margin, 0),
            max(y1 - margin, 0),
            min(x2 + margin, width),
            min(y2 + margin, height),
        )
        around = self._lab[top:bottom, left:right]
        inside = np.zeros(around.shape[:2], bool)
        inside[y1 - top : y2 - top, x1 - left : x2 - left] = True
        ring = around[~inside] if (~inside).any() else around.reshape(-1, 3)
        centre = np.median(ring, axis=0)
        distance = np.linalg.norm(around - centre, axis=2)
        noise = float(np.median(np.linalg.norm(ring - centre, axis=1)))
        threshold = max(float(np.percentile(distance[inside], 60)), noise + 1.0)
        core = inside & (distance >= threshold)
        if not core.any():
            core = inside
        shift = around[core].mean(axis=0) - centre
        elongation, angle = _measure_shape(core)
        return Spot(
            contrast=float(distance[core].mean()),
            noise=noise,
            lightness=float(shift[0]),
            green_red=float(shift[1]),
            blue_yellow=float(shift[2]),
            surrounding_hue=(float(centre[1]), float(centre[2])),
            elongation=elongation,
            angle=angle,
            sharpness=_measure_sharpness(distance, core),
            roughness=_measure_roughness(around[..., 0], inside),
        )

    @cached_property
    def _border_colour(self) -> tuple[np.ndarray, float]:
        """Colour of the border in L*a*b*, and the share of the border that has this colour."""
        lab = self._lab
        edge = np.concatenate([side.reshape(-1, 3) for side in (lab[:4], lab[-4:], lab[:, :4], lab[:, -4:])])
        colour = np.median(edge, axis=0)
        return colour, float((np.linalg.norm(edge - colour, axis=1) < BACKGROUND_TOLERANCE).mean())

    @cached_property
    def _object_pixels(self) -> np.ndarray | None:
        """Pixels that differ from the background, bool (h, w); None if there is no background."""
        colour, kept = self._border_colour
        mask = np.linalg.norm(self._lab - colour, axis=2) > BACKGROUND_TOLERANCE
        return mask if kept > PLAIN and 0.03 < mask.mean() < 0.9 else None

    def find_core(self, box: Box) -> Box:
        """Shrink a box to the part that stands out from its surroundings, with sides of at least 10 units."""
        height, width = self.image.shape[:2]
        x1, y1, x2, y2 = to_pixels(box, width, height)
        inside = self._lab[y1:y2, x1:x2]
        distance = np.linalg.norm(inside - np.median(inside.reshape(-1, 3), axis=0), axis=2)
        marked = (distance > max(float(np.percentile(distance, 85)), NOTICEABLE)).astype(np.uint8)
        count, _, stats, _ = cv2.connectedComponentsWithStats(marked, connectivity=8)
        if count < 2:
            return box
        x, y, w, h = stats[1 + int(stats[1:, cv2.CC_STAT_AREA].argmax()), :4].tolist()
        return expand(from_pixels((x1 + x, y1 + y, x1 + x + w, y1 + y + h), width, height), 1.0, 10)

    def scene(self) -> Scene:
        """Return facts about the whole image."""
        return self._scene

    @cached_property
    def _scene(self) -> Scene:
        small = self._small
        colour, kept = small._border_colour
        mask = small._object_pixels
        shown = small._lab.reshape(-1, 3) if mask is None else small._lab[mask]
        spread = small._lab[..., 0].std() if mask is None else small._lab[..., 0][~mask].std()
        return Scene(
            background_spread=float(spread),
            background=colour_name(*colour),
            colour=colour_name(*np.median(shown, axis=0)),
            fills_frame=mask is None and not 0.5 < kept <= PLAIN,
            on_background=mask is not None,
            detail=float(cv2.countNonZero(small._edges) / small._edges.size),
        )

    def object_mask(self) -> np.ndarray | None:
        """Return the pixels of the object in the downscaled image, bool (h, w); None if there is no background."""
        return self._small._object_pixels

    def downscaled(self) -> np.ndarray:
        """Return the image scaled down to a longest side of at most 448, uint8 (h, w, 3) BGR."""
        return self._small.image

    def is_on_object(self, box: Box) -> bool:
        """Return whether a box lies on the object rather than on the background or the image border."""
        if min(box[:2]) <= 8 or max(box[2:]) >= SCALE - 8:
            return False
        mask = self._small._object_pixels
        if mask is None:
            return True
        x1, y1, x2, y2 = to_pixels(box, mask.shape[1], mask.shape[0])
        around = expand(box, 1.6)
        left, top, right, bottom = to_pixels(around, mask.shape[1], mask.shape[0])
        return bool(mask[y1:y2, x1:x2].mean() > 0.5 or mask[top:bottom, left:right].mean() > 0.7)

    def measure_detail(self, box: Box) -> float:
        """Return the share of pixels of a box that lie on an edge, in [0, 1]."""
        x1, y1, x2, y2 = to_pixels(box, self.image.shape[1], self.image.shape[0])
        part = self._edges[y1:y2, x1:x2]
        return float(cv2.countNonZero(part) / part.size)

    def find_recurrence(self, box: Box) -> tuple[float, Box | None]:
        """Find where the pattern of a box recurs: the best normalised correlation in [0, 1], and its box or None."""
        small = self._small
        height, width = small.image.shape[:2]
        x1, y1, x2, y2 = to_pixels(expand(box, 1.2, 40), width, height)
        grey = cv2.cvtColor(small.image, cv2.COLOR_BGR2GRAY)
        template = grey[y1:y2, x1:x2]
        if template.shape[0] * 2 > height or template.shape[1] * 2 > width or template.std() < 2:
            return 0.0, None
        best, place = 0.0, None
        for flip in (None, 1, 0):
            pattern = template if flip is None else cv2.flip(template, flip)
            scores = cv2.matchTemplate(grey, np.ascontiguousarray(pattern), cv2.TM_CCOEFF_NORMED)
            h, w = template.shape
            scores[max(y1 - h, 0) : y1 + h, max(x1 - w, 0) : x1 + w] = -1
            _, score, _, (x, y) = cv2.minMaxLoc(scores)
            if score > best:
                best = float(score)
                place = (
                    x * SCALE // width,
                    y * SCALE // height,
                    min((x + w) * SCALE // width, SCALE),
                    min((y + h) * SCALE // height, SCALE),
                )
        return best, place


def colour_name(lightness: float, green_red: float, blue_yellow: float) -> str:
    """Return a common name of a CIE L*a*b* colour (L* 0-100, a* and b* about -100 to 100)."""
    chroma = math.hypot(green_red, blue_yellow)
    if chroma < 10:
        return _pick_step(lightness, (20, "black"), (40, "dark grey"), (65, "grey"), (85, "light grey"), (999, "white"))
    hue = math.degrees(math.atan2(blue_yellow, green_red)) % 360
    if 30 <= hue < 115 and chroma < 38:
        return _pick_step(lightness, (28, "dark brown"), (48, "brown"), (68, "tan"), (999, "beige"))
    if 45 <= hue < 80:
        return _pick_step(lightness, (30, "dark brown"), (55, "brown"), (999, "orange"))
    if 80 <= hue < 115:
        return _pick_step(lightness, (55, "olive"), (999, "yellow"))
    named = _pick_step(hue, (45, "red"), (170, "green"), (230, "teal"), (305, "blue"), (345, "purple"), (361, "red"))
    return f"dark {named}" if lightness < 25 else f"light {named}" if lightness > 78 else named


def _pick_step(value: float, *steps: tuple[float, str]) -> str:
    return next(name for limit, name in steps if value < limit)


def _measure_shape(core: np.ndarray) -> tuple[float, float]:
    count, labels, stats, _ = cv2.connectedComponentsWithStats(core.astype(np.uint8), connectivity=8)
    if count > 1:
        core = labels == 1 + int(stats[1:, cv2.CC_STAT_AREA].argmax())
    ys, xs = np.nonzero(core)
    if len(xs) < 5:
        return 1.0, 0.0
    values, vectors = np.linalg.eigh(np.cov(np.stack([xs, -ys]).astype(float)))
    x, y = vectors[:, 1]
    return math.sqrt((values[1] + 0.1) / (max(values[0], 0.0) + 0.1)), math.degrees(math.atan2(y, x)) % 180


def _measure_sharpness(distance: np.ndarray, core: np.ndarray) -> float:
    step = cv2.morphologyEx(distance, cv2.MORPH_GRADIENT, np.ones((3, 3)))
    border = core & ~cv2.erode(core.astype(np.uint8), np.ones((3, 3))).astype(bool)
    return float(min(step[border].mean() / (distance[core].mean() + 1e-6), 1.0)) if border.any() else 0.0


def _measure_roughness(lightness: np.ndarray, inside: np.ndarray) -> float:
    fine = np.abs(cv2.Laplacian(lightness, cv2.CV_32F))
    around = fine[~inside].mean() if (~inside).any() else fine.mean()
    return float((fine[inside].mean() + 0.1) / (around + 0.1))
