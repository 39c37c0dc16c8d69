"""The review page without a server: prefilled content survives the way to the server and back."""

import json
from typing import Any
from xml.etree import ElementTree

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from label_studio_sdk.converter import brush

from annotation import page
from schemas.errors import IndusCotError
from schemas.review import REASONS
from schemas.taxonomy import leaves
from schemas.trajectory import Draft, Observation, ToolCall, Trajectory, Turn, Verdict

SHA = "a" * 64
SIZE = (640, 480)
TEXT = st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]), max_size=200) | st.sampled_from(
    [
        "<script>alert(1)</script>",
        '<img src=x onerror="alert(1)">',
        "\"quoted\" 'single' & &amp; \\ \\n",
        "😀 👩‍🔬",
        "\u202eעברית\u202c العربية",
        "a\nb\r\nc\t",
        "x" * 10_000,
        "{{idx}} $steps",
        "  padded  ",
    ]
)


@st.composite
def boxes(draw: st.DrawFn) -> tuple[int, int, int, int]:
    x1, y1 = draw(st.integers(0, 999)), draw(st.integers(0, 999))
    return x1, y1, draw(st.integers(x1 + 1, 1000)), draw(st.integers(y1 + 1, 1000))


def calls() -> st.SearchStrategy[ToolCall]:
    point = st.lists(st.integers(0, 1000), min_size=2, max_size=2)
    region = boxes().map(list)
    return st.one_of(
        st.just(ToolCall(tool="crop", arguments={})),
        region.map(lambda box: ToolCall(tool="crop", arguments={"region": box})),
        region.map(lambda box: ToolCall(tool="enhance", arguments={"operator": "clahe", "region": box})),
        st.lists(point, min_size=2, max_size=2).map(
            lambda points: ToolCall(tool="measure", arguments={"points": points})
        ),
        TEXT.map(lambda text: ToolCall(tool="prior", arguments={"category": text, "view": "default"})),
    )


@st.composite
def trajectories(draw: st.DrawFn) -> Trajectory:
    turns = [
        Turn(thought=draw(TEXT), call=call, observation=Observation(text=draw(TEXT)))
        for call in draw(st.lists(calls(), max_size=3))
    ]
    found = draw(st.lists(boxes(), max_size=3))
    verdict = (
        Verdict(answer="Yes", boxes=found, defect_type=draw(st.sampled_from(leaves())))
        if found
        else Verdict(answer="No")
    )
    return Trajectory(turns=[*turns, Turn(thought=draw(TEXT))], verdict=verdict)


def simulate_server(results: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return the results as a server does: through JSON, with rounding noise in the rectangles."""
    again: list[dict[str, Any]] = json.loads(json.dumps(results))
    for item in again:
        for side in ("x", "y", "width", "height"):
            if side in item["value"]:
                item["value"][side] = item["value"][side] / 100 * 739.3 / 739.3 * 100 + 1e-9
    return again


def build_trajectory() -> Trajectory:
    return Trajectory(
        turns=[
            Turn(
                thought="A close-up will tell.",
                call=ToolCall(tool="crop", arguments={"region": [100, 200, 300, 400]}),
                observation=Observation(text="A crop.", image_sha256="b" * 64),
            ),
            Turn(thought="It is a scratch."),
        ],
        verdict=Verdict(answer="Yes", boxes=[(120, 220, 180, 260), (500, 500, 600, 600)], defect_type="scratch"),
    )


def prefill_by_id() -> dict[str, dict[str, Any]]:
    return {item["id"]: item for item in page.build_prefill(SHA, build_trajectory(), *SIZE)}


def read_results(results: dict[str, dict[str, Any]]) -> page.Reading:
    return page.read_annotation(list(results.values()), build_trajectory())


@settings(max_examples=80, deadline=None)
@given(trajectories())
def test_unchanged_page_round_trips(trajectory: Trajectory) -> None:
    results = page.build_prefill(SHA, trajectory, *SIZE)
    page.check_prefill(results, trajectory)
    found = page.read_annotation(simulate_server(results), trajectory)
    assert found.draft_sha256 == SHA
    assert found.thoughts == [turn.thought for turn in trajectory.turns]
    assert found.calls == [turn.call for turn in trajectory.turns]
    assert (found.answer, found.boxes, found.defect_type) == (
        trajectory.verdict.answer,
        trajectory.verdict.boxes,
        trajectory.verdict.defect_type,
    )
    assert found.verdict is None


@settings(max_examples=40, deadline=None)
@given(st.integers(1, 40), st.integers(1, 40), st.randoms(use_true_random=False))
def test_mask_round_trips_run_lengths(width: int, height: int, random: Any) -> None:
    mask = np.array([[random.random() < 0.4 for _ in range(width)] for _ in range(height)])
    results = page.build_prefill(SHA, build_trajectory(), width, height, mask)
    page.check_prefill(results, build_trajectory(), masks=True)
    found = page.decode_mask(simulate_server(results))
    assert np.array_equal(mask, np.zeros_like(mask) if found is None else found)
    before = page.hash_mask(results)
    assert not page.is_mask_changed(simulate_server(results), before)
    more = page.build_prefill(SHA, build_trajectory(), width, height, ~mask)
    assert page.is_mask_changed(more, before)
    # The same mask in another encoding.
    again = [
        item | {"value": item["value"] | {"rle": brush.mask2rle(mask.astype(np.uint8) * 7)}}
        if "rle" in item["value"]
        else item
        for item in results
    ]
    assert not page.is_mask_changed(again, before)


def test_mask_size_must_match() -> None:
    with pytest.raises(IndusCotError, match="mask of 3 x 2 pixels for an image of 640 x 480"):
        page.build_prefill(SHA, build_trajectory(), *SIZE, np.ones((2, 3), dtype=bool))


def test_moved_rectangle_moves_call() -> None:
    results = prefill_by_id()
    results["call_0"]["value"] |= {"x": 5.04, "y": 6.0}
    assert read_results(results).calls[0] == ToolCall(tool="crop", arguments={"region": [50, 60, 250, 260]})


def test_edited_json_overrides_rectangle() -> None:
    results = prefill_by_id()
    results["call_0"]["value"] |= {"x": 5.0}
    edited = ToolCall(tool="crop", arguments={"region": [1, 2, 3, 4]})
    results["call_0_text"]["value"] = {"text": [edited.model_dump_json()]}
    assert read_results(results).calls[0] == edited


def test_deleted_rectangle_changes_no_call() -> None:
    results = prefill_by_id()
    del results["call_0"]
    assert read_results(results).calls == [turn.call for turn in build_trajectory().turns]


@pytest.mark.parametrize("text", ["{", "crop [1, 2, 3, 4]", '{"tool": "look", "arguments": {}}'])
def test_invalid_call_stays_text(text: str) -> None:
    results = prefill_by_id()
    results["call_0_text"]["value"] = {"text": [text]}
    assert read_results(results).calls[0] == text


def test_emptied_fields_are_empty() -> None:
    results = prefill_by_id()
    del results["call_0_text"], results["think_1_text"], results["draft_text"], results["defect_type"]
    found = read_results(results)
    assert found.calls[0] is None
    assert found.thoughts == ["A close-up will tell.", ""]
    assert (found.draft_sha256, found.defect_type) == (None, None)
    nothing = page.read_annotation([], build_trajectory())
    assert (nothing.answer, nothing.boxes, nothing.thoughts) == (None, [], ["", ""])


def test_boxes_keep_order_of_draft() -> None:
    results = prefill_by_id()
    new = results["box_0"] | {"id": "drawn", "value": results["box_0"]["value"] | {"x": -3.0, "width": 200.0}}
    del results["call_0"]
    shuffled = [new, results["box_1"], results["box_0"]]
    assert page.read_annotation(shuffled, build_trajectory()).boxes == [
        *build_trajectory().verdict.boxes,
        (0, 220, 1000, 260),
    ]


def test_verdict_ratings_and_comment() -> None:
    results = [
        {"from_name": "verdict", "to_name": "image", "type": "choices", "value": {"choices": ["reject"]}},
        {"from_name": "reasons", "to_name": "image", "type": "choices", "value": {"choices": list(REASONS[:2])}},
        {"from_name": "evidence", "to_name": "image", "type": "rating", "value": {"rating": 4}},
        {"from_name": "comment", "to_name": "image", "type": "textarea", "value": {"text": ["not there"]}},
    ]
    page.check_prefill(results, build_trajectory())
    found = page.read_annotation(results, build_trajectory())
    assert (found.verdict, found.reasons) == ("reject", list(REASONS[:2]))
    assert (found.evidence_rating, found.logic_rating, found.comment) == (4, None, "not there")


@pytest.mark.parametrize(
    "wrong",
    [
        {"from_name": "think_7", "to_name": "observation_7", "type": "textarea", "value": {"text": ["x"]}},
        {"from_name": "answer", "to_name": "image", "type": "choices", "value": {"choices": ["Maybe"]}},
        {"from_name": "think_0", "to_name": "observation_0", "type": "textarea", "value": {"text": ["a\0b"]}},
    ],
)
def test_results_must_fit_page(wrong: dict[str, Any]) -> None:
    with pytest.raises(IndusCotError, match="does not fit"):
        page.check_prefill([wrong], build_trajectory())


def test_tool_and_teacher_text_is_escaped() -> None:
    hostile = '<script>x</script><img src=x onerror="x">'
    turn = build_trajectory().turns[0]
    trajectory = build_trajectory().model_copy(
        update={
            "turns": [
                turn.model_copy(update={"observation": Observation(text=hostile, image_sha256="b" * 64)}),
                build_trajectory().turns[1],
            ]
        }
    )
    draft = Draft.model_construct(draft_id="a#0", draft_sha256=SHA)
    data = page.build_task(
        draft, trajectory, "bolt", "default", "/image.png", {"b" * 64: '/a.png?a="&b=1'}, ["few boxes"], ["y"]
    )
    html = ElementTree.fromstring(f"<div>{data['steps'][0]['observation']}</div>".replace('alt="">', 'alt=""/>'))
    assert [tag.tag for tag in html.iter()] == ["div", "img", "p"]
    assert html.find("p").text == hostile  # type: ignore[union-attr]
    assert html.find("img").get("src") == '/a.png?a="&b=1'  # type: ignore[union-attr]
    assert (data["uid"], data["draft_sha256"], len(data["steps"])) == ("a#0", SHA, 2)


@pytest.mark.parametrize("masks", [False, True])
def test_choices_have_no_typable_hotkey(masks: bool) -> None:
    root = ElementTree.fromstring(page.build_config(masks))
    keys = [tag.get("hotkey") for tag in root.iter() if tag.tag in {"Choice", "Label", "Rating"}]
    assert all(key and (key.startswith("ctrl+shift+") or ord(key) >= 0xE000) for key in keys)
    assert len(set(keys)) == len(keys)
    assert ("BrushLabels" in {tag.tag for tag in root.iter()}) == masks
