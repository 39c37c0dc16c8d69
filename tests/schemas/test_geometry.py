"""Tests of box conversions and measures."""

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from schemas.geometry import (
    SCALE,
    Box,
    area,
    check_box,
    describe_position,
    expand,
    from_pixels,
    hull,
    intersection,
    iou,
    to_pixels,
    union_iou,
)


def boxes(width: int = SCALE, height: int = SCALE) -> st.SearchStrategy[Box]:
    sides = [st.tuples(st.integers(0, size - 1), st.integers(1, size)) for size in (width, height)]
    return st.tuples(*sides).map(lambda s: (min(s[0][0], s[0][1] - 1), min(s[1][0], s[1][1] - 1), s[0][1], s[1][1]))


@st.composite
def pixel_boxes(draw: st.DrawFn, largest: int) -> tuple[Box, int, int]:
    width, height = draw(st.integers(1, largest)), draw(st.integers(1, largest))
    return draw(boxes(width, height)), width, height


@given(pixel_boxes(SCALE))
def test_pixel_boxes_survive_a_round_trip(case: tuple[Box, int, int]) -> None:
    box, width, height = case
    assert to_pixels(from_pixels(box, width, height), width, height) == box


@given(pixel_boxes(20_000))
def test_scaled_box_covers_pixels_tightly(case: tuple[Box, int, int]) -> None:
    box, width, height = case
    scaled = check_box(from_pixels(box, width, height))
    for low, high, start, end, size in zip(scaled[:2], scaled[2:], box[:2], box[2:], (width, height), strict=True):
        assert low * size <= start * SCALE < (low + 1) * size
        assert (high - 1) * size < end * SCALE <= high * size


@given(boxes(), st.integers(1, 20_000), st.integers(1, 20_000))
def test_pixel_box_is_inside_and_not_empty(box: Box, width: int, height: int) -> None:
    x1, y1, x2, y2 = to_pixels(box, width, height)
    assert 0 <= x1 < x2 <= width
    assert 0 <= y1 < y2 <= height


@pytest.mark.parametrize("box", [(0, 0, 0, 5), (5, 0, 2, 5), (-1, 0, 5, 5), (0, 0, 11, 5), (0, 0, 5, 6)])
def test_pixel_box_outside_image_is_rejected(box: Box) -> None:
    with pytest.raises(ValueError, match=r"does not fit an image of 10 x 5"):
        from_pixels(box, 10, 5)


@pytest.mark.parametrize("box", [(0, 0, 0, 5), (7, 0, 5, 5), (-1, 0, 5, 5), (0, 0, 1001, 5), (0, 9, 5, 9)])
def test_invalid_box_is_rejected(box: Box) -> None:
    for check in (check_box, lambda b: to_pixels(b, 10, 10)):
        with pytest.raises(ValueError, match="must satisfy"):
            check(box)


@given(boxes(), boxes())
def test_iou_is_a_symmetric_similarity(a: Box, b: Box) -> None:
    assert iou(a, b) == iou(b, a)
    assert 0.0 <= iou(a, b) <= 1.0
    assert (iou(a, b) == 1.0) == (a == b)
    assert (iou(a, b) == 0.0) == (intersection(a, b) is None)


def test_iou_of_known_boxes() -> None:
    assert iou((0, 0, 10, 10), (5, 0, 15, 10)) == pytest.approx(1 / 3)
    assert iou((0, 0, 10, 10), (10, 0, 20, 10)) == 0.0
    assert iou((0, 0, 10, 10), (0, 0, 5, 10)) == 0.5


@given(boxes(), boxes())
def test_intersection_is_inside_both_boxes(a: Box, b: Box) -> None:
    common = intersection(a, b)
    assume(common is not None)
    assert common is not None
    assert hull([common, a]) == a
    assert hull([common, b]) == b


@given(boxes(), boxes())
def test_union_iou_of_single_boxes(a: Box, b: Box) -> None:
    assert union_iou([a], [b]) == pytest.approx(iou(a, b))


@given(st.lists(boxes(), max_size=4), st.lists(boxes(), min_size=1, max_size=4))
def test_union_iou_ignores_order_and_repetition(first: list[Box], second: list[Box]) -> None:
    value = union_iou(first, second)
    assert 0.0 <= value <= 1.0
    assert union_iou(second, first) == value
    assert union_iou([*reversed(first), *first], second) == value
    assert union_iou(second, second) == 1.0
    if not first:
        assert value == 0.0


def test_union_iou_of_empty_sets_and_overlaps() -> None:
    assert union_iou([], []) == 1.0
    assert union_iou([(0, 0, 5, 10), (5, 0, 10, 10), (2, 2, 8, 8)], [(0, 0, 10, 10)]) == 1.0


@given(st.lists(boxes(), min_size=1, max_size=6))
def test_hull_is_the_smallest_enclosing_box(items: list[Box]) -> None:
    around = check_box(hull(items))
    assert all(intersection(item, around) == item for item in items)
    assert [around[0] in {i[0] for i in items}, around[1] in {i[1] for i in items}] == [True, True]
    assert [around[2] in {i[2] for i in items}, around[3] in {i[3] for i in items}] == [True, True]


def test_hull_of_no_boxes_is_rejected() -> None:
    with pytest.raises(ValueError, match="no boxes"):
        hull([])


@given(boxes(), st.floats(0.1, 20), st.integers(0, SCALE))
def test_expanded_box_has_requested_sides(box: Box, factor: float, minimum: int) -> None:
    grown = check_box(expand(box, factor, minimum))
    for low, high, start, end in zip(grown[:2], grown[2:], box[:2], box[2:], strict=True):
        assert high - low == min(SCALE, max(round((end - start) * factor), minimum, 1))
        # Without contact with the border, the centre stays in place.
        if low > 0 and high < SCALE:
            assert abs((low + high) - (start + end)) <= 2


@given(boxes(), st.floats(1, 20))
def test_expanded_box_contains_the_original(box: Box, factor: float) -> None:
    grown = expand(box, factor)
    assert grown[0] <= box[0] + 1
    assert grown[2] >= box[2] - 1
    assert area(grown) >= area(box)


@pytest.mark.parametrize(
    ("box", "words"),
    [
        ((0, 0, 100, 100), "upper left"),
        ((900, 900, 1000, 1000), "lower right"),
        ((450, 450, 550, 550), "centre"),
        ((450, 0, 550, 100), "upper middle"),
        ((0, 450, 100, 550), "left side"),
    ],
)
def test_positions_in_words(box: Box, words: str) -> None:
    assert describe_position(box) == words
