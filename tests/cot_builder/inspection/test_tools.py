"""Tests of the four tools: geometry, limits, determinism, invalid arguments."""

import re
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cot_builder.inspection.toolbox import Toolbox
from cot_builder.inspection.tools import ToolError
from cot_builder.inspection.tools.crop import crop
from cot_builder.inspection.tools.enhance import enhance
from cot_builder.inspection.tools.measure import measure
from cot_builder.inspection.tools.prior import prior
from cot_builder.inspection.tools.regions import MAX_ZOOM, MIN_SIDE, TARGET_SIDE
from schemas.geometry import to_pixels
from schemas.trajectory import ToolCall

sizes = st.integers(8, 900)
spans = st.tuples(st.integers(0, 1000), st.integers(0, 1000)).filter(lambda s: s[0] != s[1]).map(sorted)


def picture(width: int, height: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


@settings(max_examples=60, deadline=None)
@given(sizes, sizes, spans, spans)
def test_crop_size_limits_and_text(width, height, xs, ys):
    image = picture(width, height)
    result = crop(image, [xs[0], ys[0], xs[1], ys[1]])
    assert min(result.image.shape[:2]) >= MIN_SIDE
    assert max(result.image.shape[:2]) <= max(
        TARGET_SIDE + 1, width, height, MIN_SIDE * max(width, height) / min(width, height) + 1
    )
    shown = tuple(int(v) for v in re.search(r"\[(\d+), (\d+), (\d+), (\d+)\]", result.text).groups())
    pixel = 1000 / min(width, 1000) + 1  # tolerance: a box is rounded inwards to whole pixels
    assert shown[0] <= xs[0] + pixel and shown[2] >= xs[1] - pixel
    x1, y1, x2, y2 = to_pixels(shown, width, height)
    assert f"{x2 - x1} x {y2 - y1} px" in result.text


def test_large_crop_has_original_pixels():
    image = picture(1000, 1000)
    result = crop(image, [100, 200, 700, 900])
    assert np.array_equal(result.image, image[200:900, 100:700])
    result.image[:] = 0
    assert image[200:900, 100:700].any(), "a tool must return a copy, not a view of the inspected image"


def test_widened_crop_states_its_pixel_size():
    """Above 1000 px a side, the stated box is wider than the pixels that are shown."""
    result = crop(picture(3648, 5472), [233, 428, 235, 429])
    found = re.fullmatch(r"Crop of \[.*\]: (\d+) x (\d+) px shown at 8\.0x\.", result.text)
    assert (int(found[1]) * 8, int(found[2]) * 8) == result.image.shape[1::-1]


def test_crop_enlarges_small_regions():
    image = picture(1000, 1000)
    assert crop(image, [0, 0, 224, 112]).image.shape[:2] == (224, 448)
    assert crop(image, [0, 0, 20, 20]).image.shape[:2] == (160, 160)
    assert f"shown at {MAX_ZOOM:.1f}x" in crop(image, [0, 0, 20, 20]).text


@pytest.mark.parametrize("call", [lambda image: crop(image, [0, 0, 900, 1000]), lambda image: enhance(image, "canny")])
def test_large_view_is_scaled_down(call):
    result = call(picture(2400, 1600))
    assert max(result.image.shape[:2]) == 1024 and min(result.image.shape[:2]) > 600
    assert re.search(r"shown at 0\.[45]x", result.text)


def test_crop_without_region_shows_foreground():
    image = np.full((300, 400, 3), 200, np.uint8)
    cv2.rectangle(image, (240, 60), (300, 120), (20, 20, 160), -1)
    result = crop(image)
    x1, y1, x2, y2 = (int(v) for v in re.search(r"\[(\d+), (\d+), (\d+), (\d+)\]", result.text).groups())
    assert x1 <= 600 and x2 >= 748 and y1 <= 200 and y2 >= 398
    assert "foreground proposal" in result.text
    assert "centre proposal" in crop(np.full((300, 400, 3), 128, np.uint8)).text


@pytest.mark.parametrize(
    "region",
    [
        [0, 0, 10],
        [0, 0, 0, 10],
        [10, 0, 5, 10],
        [0, 0, 1001, 10],
        [-1, 0, 10, 10],
        [0.5, 0, 1, 1],
        "0,0,1,1",
        [True, 0, 5, 5],
        7,
    ],
)
@pytest.mark.parametrize("call", [crop, lambda image, region: enhance(image, "clahe", region)])
def test_invalid_region_is_rejected(call, region):
    with pytest.raises(ToolError, match=r"\[x1, y1, x2, y2\], integers 0-1000.*got"):
        call(picture(50, 50), region)


def test_unknown_operator_is_rejected():
    with pytest.raises(ToolError, match=r"clahe, canny, residual; got 'sobel'"):
        enhance(picture(50, 50), "sobel")


def test_residual_peak_in_original_coordinates():
    image = np.full((500, 800, 3), 120, np.uint8)
    cv2.circle(image, (600, 100), 3, (30, 30, 30), -1)
    text = enhance(image, "residual", [600, 0, 1000, 400]).text
    x, y = (int(v) for v in re.search(r"strongest at \((\d+), (\d+)\)", text).groups())
    assert abs(x - 750) <= 8 and abs(y - 200) <= 8


def test_canny_and_clahe_results():
    image = np.full((400, 400, 3), 100, np.uint8)
    image[:, 200:] = 160
    edges = enhance(image, "canny")
    assert edges.image.ndim == 2 and set(np.unique(edges.image)) == {0, 255}
    assert 195 <= np.nonzero(edges.image)[1].mean() / edges.image.shape[1] * 400 <= 205
    faint = (picture(300, 300) // 16 + 120).astype(np.uint8)
    before, after = re.search(r"spread ([\d.]+) before, ([\d.]+) after", enhance(faint, "clahe").text).groups()
    assert float(after) > 1.5 * float(before)


@given(st.lists(st.tuples(st.integers(0, 1000), st.integers(0, 1000)), min_size=2, max_size=6))
@settings(max_examples=40, deadline=None)
def test_measured_distances_in_pixels(points):
    width, height = 641, 481
    text = measure(picture(width, height), [list(p) for p in points]).text
    stated = [float(v) for v in re.findall(r"P\d-P\d: ([\d.]+) px", text)]
    scale = np.array([(width - 1) / 1000, (height - 1) / 1000])
    true = [float(np.linalg.norm((np.array(b) - a) * scale)) for a, b in pairwise(np.array(points))]
    assert stated == pytest.approx(true, abs=0.051)


def test_measure_text():
    image = np.zeros((1001, 1001, 3), np.uint8)
    image[:, 500:] = 200
    text = measure(image, [[100, 100], [100, 500], [900, 500]], mm_per_px=0.05).text
    assert "angle at P2: 90.0 deg" in text
    assert "P1 (100, 100) grey 0" in text and "P3 (900, 500) grey 200" in text
    assert "end lies below of start" in text and "end lies right of start" in text
    assert "400.0 px = 20.00 mm" in text
    assert "grey levels along it 0 to 200" in text


@pytest.mark.parametrize(
    "points", [[[1, 1]], [[1, 1]] * 7, [[1, 1], [1001, 0]], [[1, 1], [1.5, 0]], "ab", [[1, 1], [2]], None]
)
def test_invalid_points_are_rejected(points):
    with pytest.raises(ToolError, match=r"two to six \[x, y\] pairs"):
        measure(picture(20, 20), points)


@pytest.mark.parametrize("scale", [0, -1, float("inf"), "1", float("nan")])
def test_invalid_scale_is_rejected(scale):
    with pytest.raises(ToolError, match="mm_per_px"):
        measure(picture(20, 20), [[0, 0], [5, 5]], scale)


PRIORS = {("ball_screw", "C1"): "first", ("ball_screw", "C2"): "second", ("plastic_nut", "C1"): "third"}


def test_prior_names_the_entry_used():
    assert prior(PRIORS, "ball_screw", "C2").text == "Normalcy prior for ball screw, view C2: second"
    assert prior(PRIORS, "Ball screw", "C9").text.startswith(
        "Normalcy prior for ball screw, view C1 (none for view C9): first"
    )
    text = prior(PRIORS, "plastic nuts", "C1").text
    assert (
        text == "Normalcy prior for plastic nut, view C1 (none for plastic nuts; the nearest category by name): third"
    )


NUMBERED = {("part_1", "C1"): "A", ("part_2", "C1"): "B", ("part_2", "C2"): "C", ("pcb1", "C1"): "D"}


@pytest.mark.parametrize(
    "category, view, text",
    [
        ("part_2", "C1", "part 2, view C1: B"),
        ("part_2", "C2", "part 2, view C2: C"),
        ("Part 2", "C2", "part 2, view C2: C"),
        ("part_1", "C2", "part 1, view C1 (none for view C2): A"),
        ("part", "C2", "part 2, view C2: C"),
        ("part", "C9", "part 1, view C1 (none for view C9): A"),
        ("part_3", "C1", "part 1, view C1 (none for part_3, of the same name): A"),
        ("part_3", "C7", "part 1, view C1 (none for part_3, of the same name; none for view C7): A"),
        ("pcb", "C1", "pcb1, view C1: D"),
    ],
)
def test_prior_of_numbered_categories(category, view, text):
    assert prior(NUMBERED, category, view).text == f"Normalcy prior for {text}"


@pytest.mark.parametrize(
    "call",
    [
        {"tool": "crop", "arguments": {"region": "<|image_pad|>"}},
        {"tool": "enhance", "arguments": {"operator": "<|im_end|>"}},
        {"tool": "measure", "arguments": {"points": [["<|video_pad|>", 1], [2, 3]]}},
        {"tool": "measure", "arguments": {"points": [[1, 1], [2, 3]], "mm_per_px": "<|vision_start|>"}},
        {"tool": "prior", "arguments": {"category": "<|image_pad|>"}},
        {"tool": "prior", "arguments": {"category": "ball_screw", "view": "<|image_pad|>"}},
        {"tool": "crop", "arguments": {"<|image_pad|>": 1}},
        {"tool": "<|image_pad|>", "arguments": {}},
    ],
)
def test_observations_contain_no_control_tokens(call):
    observation, _ = Toolbox(picture(40, 40), PRIORS).observe(ToolCall.model_construct(**call))
    assert "<| " in observation.text and "<|i" not in observation.text and "<|v" not in observation.text


def test_prior_rejects_missing_texts_and_category():
    with pytest.raises(ToolError, match="no normalcy prior"):
        prior({}, "nut")
    with pytest.raises(ToolError, match="must be texts"):
        prior(PRIORS, " ")


@pytest.mark.parametrize("operator", ["clahe", "canny", "residual"])
def test_tools_are_deterministic_and_pure(operator):
    image = picture(300, 200)
    before = image.copy()
    first, second = (
        enhance(image, operator, [10, 10, 500, 600]),
        enhance(image, operator, [10, 10, 500, 600]),
    )
    assert first.text == second.text and np.array_equal(first.image, second.image)
    assert np.array_equal(image, before)


def test_tools_are_thread_safe():
    images = [picture(300 + 40 * seed, 300, seed) for seed in range(8)] * 6

    def look(image):
        return enhance(image, "clahe").image

    alone = [look(image) for image in images]
    with ThreadPoolExecutor(8) as pool:
        together = list(pool.map(look, images))
    assert all(np.array_equal(*pair) for pair in zip(alone, together, strict=True))
