"""Tests of region proposals: ranking, overlap, and what they find."""

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cot_builder.inspection.proposals import propose
from schemas.geometry import check_box, from_pixels, intersection, to_pixels
from tests.helpers.pulled import picture


@st.composite
def images(draw: st.DrawFn) -> np.ndarray:
    width, height = draw(st.sampled_from([(1, 1), (3, 40), (64, 48), (300, 200), (700, 30), (40, 900)]))
    random = np.random.default_rng(draw(st.integers(0, 999)))
    kind = draw(st.sampled_from(["flat", "noise", "blobs", "structure"]))
    if kind == "noise":
        return random.integers(0, 256, (height, width, 3)).astype(np.uint8)
    if kind == "structure":
        return picture(str(random.integers(999)), width, height)
    image = np.full((height, width, 3), random.integers(0, 256, 3), np.uint8)
    for _ in range(random.integers(1, 9) if kind == "blobs" else 0):
        centre = (int(random.integers(width)), int(random.integers(height)))
        cv2.circle(image, centre, int(random.integers(1, 40)), random.integers(0, 256, 3).tolist(), -1)
    return image


@settings(max_examples=120, deadline=None)
@given(images(), st.integers(1, 6))
def test_proposals_are_disjoint_ranked_and_prefix_stable(image: np.ndarray, count: int) -> None:
    found = propose(image, count)
    assert 1 <= len(found) <= count
    for item in found:
        check_box(item.box)
        assert item.score >= 0
    assert all(
        intersection(first.box, second.box) is None for n, first in enumerate(found) for second in found[n + 1 :]
    )
    assert [item.score for item in found] == sorted((item.score for item in found), reverse=True)
    assert propose(image, count + 3)[:count] == found
    assert propose(image.copy(), count) == found
    assert propose(image, 0) == []


@settings(max_examples=60, deadline=None)
@given(
    st.integers(60, 900),
    st.integers(60, 600),
    st.floats(0.2, 0.8),
    st.floats(0.2, 0.8),
    st.floats(0.04, 0.12),
    st.booleans(),
)
def test_blob_on_plain_background_is_found(
    width: int, height: int, x: float, y: float, size: float, dark: bool
) -> None:
    image = np.full((height, width, 3), 200 if dark else 40, np.uint8)
    centre = round(x * width), round(y * height)
    radius = max(5, round(size * min(width, height)))
    cv2.circle(image, centre, radius, (20, 20, 20) if dark else (230, 230, 230), -1)
    first = propose(image, 3)[0]
    x1, y1, x2, y2 = to_pixels(first.box, width, height)
    assert x1 <= centre[0] < x2 and y1 <= centre[1] < y2
    # The box covers nearly the whole blob, but not the whole image.
    slack = 1 + max(width, height) // 200
    assert x1 <= centre[0] - radius + slack and x2 >= centre[0] + radius - slack
    assert y1 <= centre[1] - radius + slack and y2 >= centre[1] + radius - slack
    assert (x2 - x1) * (y2 - y1) < 0.35 * width * height
    assert first.method == "foreground"


@pytest.mark.parametrize("shape", [(1, 1, 3), (80, 60, 3), (400, 700, 3), (50, 50)])
def test_flat_image_gives_its_centre(shape: tuple[int, ...]) -> None:
    found = propose(np.full(shape, 90, np.uint8), 4)
    assert [(item.box, item.score, item.method) for item in found] == [((250, 250, 750, 750), 0.0, "centre")]


def test_scratch_within_a_part_is_found() -> None:
    image = np.full((400, 500, 3), 240, np.uint8)
    image[40:360, 50:450] = 120
    cv2.line(image, (180, 150), (260, 190), (60, 60, 60), 4)
    box = propose(image, 1)[0].box
    truth = from_pixels((178, 148, 263, 193), 500, 400)
    assert intersection(box, truth) == truth
    assert (box[2] - box[0]) * (box[3] - box[1]) < 100_000
