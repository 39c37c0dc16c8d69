"""Each gate refuses drafts that break its rule, and passes a valid draft."""

from dataclasses import replace

import numpy as np
import pytest

from cot_builder.inspection.names import category_name, choose_article
from cot_builder.inspection.toolbox import Toolbox
from cot_builder.params import Draft as DraftParams
from cot_builder.teacher.gates import GATES, Case, duplicates, run_gates
from schemas.sample import Sample
from schemas.supervision import Supervision
from schemas.trajectory import Observation, ToolCall, Trajectory, Turn, Verdict

PARAMS = DraftParams(candidates=1, blind=False, max_calls=2, min_iou=0.5, max_words=60, min_words=4)
SAMPLE = Sample(
    sample_id="real_iad/nut/0123456789abcdef", source_set="real_iad", category="nut", view="C1", part_id="p",
    split="test", width=300, height=200, channels=3, image_format="PNG", image_sha256="0" * 64, shard="s", row=0,
    region=None, licence="x",
)  # fmt: skip
TRUTH = Supervision(
    sample_id=SAMPLE.sample_id, source_path="x", label="anomalous", raw_type="HS", defect_type="scratch",
    boxes=[(100, 100, 300, 300)], area_fraction=0.04, mask_shard=None, mask_row=None,
)  # fmt: skip
NORMAL = TRUTH.model_copy(update={"label": "normal", "raw_type": None, "defect_type": None, "boxes": []})
TOOLBOX = Toolbox(np.random.default_rng(0).integers(0, 256, (200, 300, 3), dtype=np.uint8), {("nut", "C1"): "A nut."})
YES = Verdict(answer="Yes", boxes=[(100, 100, 300, 300)], defect_type="scratch")
MEASURE = ToolCall(tool="measure", arguments={"points": [[100, 100], [300, 300]]})
CROP = ToolCall(tool="crop", arguments={"region": [50, 50, 350, 350]})


def case(*thoughts: str, calls: tuple[ToolCall, ...] = (), verdict: Verdict = YES, truth: Supervision = TRUTH) -> Case:
    turns = [
        Turn(thought=thought, call=call, observation=TOOLBOX.observe(call)[0])
        for thought, call in zip(thoughts, calls, strict=False)
    ]
    turns.append(Turn(thought=thoughts[-1]))
    return Case(Trajectory(turns=turns, verdict=verdict), SAMPLE, truth, PARAMS)


GOOD = ("A nut with a line on it; I enlarge it.", "The crop shows a thin line. The nut has a defect.")


def refused(case: Case) -> set[str]:
    return {violation.gate for violation in run_gates(case)}


def test_valid_draft_passes_all_gates():
    assert run_gates(case(*GOOD, calls=(CROP,))) == []
    assert (
        run_gates(case("The nut is even all over. I find no defect.", verdict=Verdict(answer="No"), truth=NORMAL)) == []
    )


@pytest.mark.parametrize(
    "gate, draft",
    [
        ("grammar", case("A line here </think> shows the defect.")),
        ("grammar", case("The nut has a defect without a stop")),
        ("grammar", case("The nut has\na defect on it.")),
        (
            "grammar",
            case(
                "I ask for the prior of it.",
                "The nut has a defect.",
                calls=(ToolCall(tool="prior", arguments={"category": "<|image_pad|>"}),),
            ),
        ),
        ("verdict", case("The nut has a clear defect.", truth=NORMAL)),
        ("verdict", case("The nut shows no defect.", verdict=Verdict(answer="No"))),
        (
            "location",
            case("The nut has a clear defect.", verdict=YES.model_copy(update={"boxes": [(600, 600, 900, 900)]})),
        ),
        ("defect_type", case("The nut has a clear defect.", verdict=YES.model_copy(update={"defect_type": "stain"}))),
        ("defect_type", case("The nut has a clear defect.", verdict=YES.model_copy(update={"defect_type": "gremlin"}))),
        ("coordinates", case("A defect lies at [100, 100, 1300, 300] here.")),
        ("coordinates", case("A defect lies at [300, 100, 100, 300] here.")),
        ("coordinates", case("A defect lies at (0.5, 100) on it.")),
        ("evidence", case("The crop shows a line; the nut has a defect.")),
        (
            "evidence",
            case("I enlarge the nut: the crop shows a long scratch there.", "So the nut has a defect.", calls=(CROP,)),
        ),
        (
            "evidence",
            case("I measure it; it extends over the whole nut.", "So the nut has a defect.", calls=(MEASURE,)),
        ),
        ("evidence", case("The residual peaks on it, so the nut has a defect.")),
        ("evidence", case("The prior describes a smooth nut; this is a defect.")),
        ("evidence", case("I enlarge the nut there.", 'The crop says: "a scratch of 3 mm". A defect.', calls=(CROP,))),
        ("evidence", case("The defect is 12.5 px long on the nut.")),
        ("evidence", case("I measure the line on it.", "It is 77.7 px long, so this is a defect.", calls=(MEASURE,))),
        (
            "evidence",
            case(
                "I enlarge the nut there.",
                "The nut has a defect.",
                calls=(ToolCall(tool="crop", arguments={"region": [1]}),),
            ),
        ),
        ("polarity", case("The nut is intact and shows no defect.")),
        ("polarity", case("The nut is clearly defective here.", verdict=Verdict(answer="No"), truth=NORMAL)),
        ("leak", case("According to the ground truth this is a defect.")),
        ("leak", case("The mask covers the line, so it is a defect.")),
        ("leak", case("The annotated region on the nut is a defect.")),
        ("leak", case("I was told that the nut has a defect.")),
        ("leak", case("The part is labelled as a defect here.")),
        ("emptiness", case("A defect here.")),
        ("length", case("The nut has a defect " + "and again " * 40 + "here.")),
        (
            "length",
            case("One.", "Two.", "Three.", "A defect.", calls=(CROP, MEASURE, ToolCall(tool="crop", arguments={}))),
        ),
        (
            "repetition",
            case("I enlarge the nut there.", "I enlarge the nut there.", "A defect.", calls=(CROP, MEASURE)),
        ),
        ("repetition", case("I enlarge the nut there.", "Once more, enlarged.", "A defect.", calls=(CROP, CROP))),
    ],
)
def test_each_gate_refuses_its_case(gate, draft):
    assert gate in refused(draft)


@pytest.mark.parametrize(
    "category",
    ["555_timer", "2024-05-12", "10_mm_bolt", "mask", "Mask_02", "fault_indicator", "defect-free_part", "grey_levels",
     "prior", "crop", "label", "12.5", "ground_truth"],
)  # fmt: skip
def test_gates_ignore_category_name(category):
    name = category_name(category)
    no = Verdict(answer="No")
    drafts = [
        (f"The {name} has a line on it. The {name} has a defect.", YES, TRUTH),
        (f"I see {choose_article(name)} {name} of even tone. This {name} passes: no defect.", no, NORMAL),
        (f"The {category} is even all over. There is no defect on the {category}.", no, NORMAL),
    ]
    for thought, verdict, truth in drafts:
        tried = case(thought, verdict=verdict, truth=truth)
        assert run_gates(replace(tried, sample=SAMPLE.model_copy(update={"category": category}))) == []


def test_gates_check_words_resembling_category_name():
    for category, gate, thought in [
        ("mask", "leak", "The masked mask has a defect by the annotation."),
        ("timer_5", "evidence", "The timer is 5 px off, a defect."),
        ("5", "evidence", "The line is 5.25 px long, a defect."),
        ("nut", "evidence", "The crop of the nut shows a defect."),
    ]:
        assert gate in refused(replace(case(thought), sample=SAMPLE.model_copy(update={"category": category})))


def test_every_gate_has_a_refused_case():
    tried = {
        mark.args[1][i][0] for mark in test_each_gate_refuses_its_case.pytestmark for i in range(len(mark.args[1]))
    }
    assert tried | {"image_count"} == set(GATES)


def test_returned_numbers_may_be_stated():
    length = TOOLBOX.observe(MEASURE)[0].text.split("P1-P2: ")[1].split(" px")[0]
    assert (
        refused(
            case(
                "I measure the line on it.",
                f"It is {length} px long at [100, 100, 300, 300]: a defect.",
                calls=(MEASURE,),
            )
        )
        == set()
    )


def test_image_count_refuses_missing_image():
    turn = Turn(thought="I enlarge the nut there.", call=CROP, observation=Observation(text="Crop."))
    draft = Trajectory(turns=[turn, Turn(thought="The nut has a defect.")], verdict=YES)
    assert "image_count" in refused(Case(draft, SAMPLE, TRUTH, PARAMS))


def test_location_gate_uses_min_iou():
    near = YES.model_copy(update={"boxes": [(100, 100, 300, 210)]})
    assert refused(case("The nut has a clear defect.", verdict=near)) == set()
    far = YES.model_copy(update={"boxes": [(100, 100, 300, 190)]})
    assert refused(case("The nut has a clear defect.", verdict=far)) == {"location"}


def test_evidence_allows_announced_call():
    draft = case(
        "A crop should show what it is, so I enlarge it.", "The crop shows a line. The nut has a defect.", calls=(CROP,)
    )
    assert refused(draft) == set()


def test_duplicates_ignore_case_punctuation_and_numbers():
    assert duplicates(["A line at 3 px.", "another", "a LINE, at 5 px!"]) == [None, None, "says what draft 0 says"]


@pytest.mark.parametrize(
    "thought",
    [
        "This nut is free of defects.",
        "There is no sign of a defect here.",
        "No defect: the nut is intact.",
        "The nut is defect-free.",
    ],
)
def test_polarity_accepts_negated_defect(thought):
    assert refused(case(thought, verdict=Verdict(answer="No"), truth=NORMAL)) == set()


def test_gate_order_is_fixed():
    assert list(GATES) == [
        "grammar", "verdict", "location", "defect_type", "coordinates", "evidence",
        "polarity", "leak", "emptiness", "length", "image_count", "repetition",
    ]  # fmt: skip


@pytest.mark.parametrize("tool", ["enhance", "prior"])
def test_image_count_follows_tool_table(tool):
    call = ToolCall(tool=tool, arguments={"operator": "canny"} if tool == "enhance" else {"category": "nut"})
    turn = Turn(thought="I look there.", call=call, observation=Observation(text="Looked."))
    draft = Trajectory(turns=[turn, Turn(thought="The nut has a defect.")], verdict=YES)
    assert ("image_count" in refused(Case(draft, SAMPLE, TRUTH, PARAMS))) == (tool == "enhance")


def test_unknown_tool_is_refused():
    draft = case("I hammer the nut there.", "The nut has a defect.", calls=(ToolCall(tool="hammer", arguments={}),))
    found = run_gates(draft)
    assert [item.gate for item in found] == ["evidence"]
    assert found[0].reason == "call 1 failed: error: no tool 'hammer'; there are crop, enhance, measure, prior"
