"""Tests rewards: the exact reward of each kind of completion, and that no wording can exploit them."""

import copy
import json
from collections.abc import Mapping
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from cot_builder.inspection import rendering
from cot_builder.inspection.parsing import RESPONSE_TEMPLATE, parse_completion
from cot_builder.params import load_params
from schemas.errors import IndusCotError
from schemas.geometry import Box, union_iou
from schemas.taxonomy import leaves, similarity
from schemas.trajectory import Observation, ToolCall, Trajectory, Turn, Verdict
from tests.helpers.paths import ROOT
from train.rewards import reward_functions, reward_parameters
from train.rewards.tool import tool_reward

WEIGHTS = load_params(root=ROOT).grpo.reward
TRUE_BOX = (0, 0, 10, 10)
DEFECT: dict[str, Any] = {"answer": "Yes", "boxes": [TRUE_BOX], "defect_type": "scratch"}
SOUND: dict[str, Any] = {"answer": "No", "boxes": [], "defect_type": None}
PENALTY = -0.5
BEST = 1 + 0.8 + 0.6

Chat = list[dict[str, Any]]
NO = "<think>All is even.</think><answer>No</answer>"


def yes(location: str = "[[0, 0, 10, 10]]", kind: str = "scratch", thought: str = "A line.") -> str:
    return f"<think>{thought}</think><location>{location}</location><type>{kind}</type><answer>Yes</answer>"


def say(text: str) -> dict[str, Any]:
    return {"role": "assistant", "content": text}


def call(name: str = "crop", arguments: Any = None) -> dict[str, Any]:
    return {"type": "function", "function": {"name": name, "arguments": {} if arguments is None else arguments}}


def step(*calls: dict[str, Any], text: str = "<think>Look closer.</think>", seen: str = "Crop of the part.") -> Chat:
    calls = calls or (call(),)
    observations = [{"role": "tool", "name": "crop", "content": [{"type": "text", "text": seen}]} for _ in calls]
    return [{**say(text), "tool_calls": list(calls)}, *observations]


def score(completion: Chat, truth: dict[str, Any], dconf: float = 1.0, weights: Mapping[str, float] = WEIGHTS) -> float:
    """Return the total reward of one completion, as GRPO sums it."""
    functions, factors = reward_functions(weights, lambda **columns: [dconf] * len(columns["completions"]))
    columns = {name: [value] for name, value in truth.items()} | {"prompts": [[]], "trainer_state": None}
    values = [function(completions=[completion], **columns) for function in functions]
    return sum(factor * value[0] for factor, value in zip(factors, values, strict=True))


WELL_FORMED: dict[str, tuple[Chat, dict[str, Any], float, float]] = {
    # name: completion, truth, dconf, reward
    "right Yes": ([say(yes())], DEFECT, 0.0, BEST),
    "right No": ([say(NO)], SOUND, 0.0, BEST),
    "wrong Yes: a location on a normal image": ([say(yes())], SOUND, 0.0, 0.0),
    "wrong No": ([say(NO)], DEFECT, 0.0, 0.0),
    "a third of the place, the right family": (
        [say(yes("[[5, 0, 15, 10]]", "crack"))],
        {**DEFECT, "defect_type": "hole"},
        0.0,
        1 + 0.8 / 3 + 0.6 * similarity("crack", "hole"),
    ),
    "beside the place, another family": ([say(yes("[[10, 0, 20, 10]]", "stain"))], DEFECT, 0.0, 1.0),
    "unspecified to be safe": ([say(yes(kind="unspecified"))], DEFECT, 0.0, 1 + 0.8 + 0.6 * 0.25),
    "the whole image": ([say(yes("[[0, 0, 1000, 1000]]"))], DEFECT, 0.0, 1 + 0.8 * 1e-4 + 0.6),
    "the place in two halves": ([say(yes("[[0, 0, 5, 10], [5, 0, 10, 10]]"))], DEFECT, 0.0, BEST),
    "the place three times": ([say(yes("[[0, 0, 10, 10], [0, 0, 10, 10], [0, 0, 10, 10]]"))], DEFECT, 0.0, BEST),
    "one of two places": (
        [say(yes())],
        {**DEFECT, "boxes": [TRUE_BOX, (100, 100, 110, 110)]},
        0.0,
        1 + 0.8 / 2 + 0.6,
    ),
    "a place nobody published": ([say(yes())], {**DEFECT, "boxes": []}, 0.0, 1 + 0.6),
    "a type nobody published": ([say(yes())], {**DEFECT, "defect_type": None}, 0.0, 1 + 0.8),
    "a wrong No where nothing was published": (
        [say(NO)],
        {"answer": "Yes", "boxes": [], "defect_type": None},
        0.0,
        0.0,
    ),
    "one call that helped": ([*step(), say(yes())], DEFECT, 0.7, BEST + 0.5 * (0.3 - 0.1)),
    "one call on a sound part that helped": ([*step(), say(NO)], SOUND, 0.7, BEST + 0.5 * (0.3 - 0.1)),
    "one call that misled": ([*step(), say(yes())], DEFECT, -0.7, BEST - 0.5 * 0.1),
    "one call that changed nothing": ([*step(), say(yes())], DEFECT, 0.0, BEST - 0.5 * 0.1),
    "an undefined margin": ([*step(), say(yes())], DEFECT, float("nan"), BEST - 0.5 * 0.1),
    "a margin without a call": ([say(yes())], DEFECT, 5.0, BEST),
    "three calls eat their bonus": ([*step(), *step(), *step(), say(yes())], DEFECT, 0.7, BEST),
    "tool spam": ([*(step() * 12), say(yes())], DEFECT, 0.7, BEST + 0.5 * (0.3 - 1.2)),
    "calls before a wrong verdict": ([*step(), *step(), say(NO)], DEFECT, 0.7, 0.0),
    "a refused call costs and earns nothing": (
        [*step(call(arguments={"region": [5, 5, 1, 1]}), seen="error: region must be …"), say(yes())],
        DEFECT,
        0.7,
        BEST - 0.5 * 0.1,
    ),
    "a refused call, then one that helped": (
        [*step(seen="error: no"), *step(), say(yes())],
        DEFECT,
        0.7,
        BEST + 0.5 * (0.3 - 0.2),
    ),
}


@pytest.mark.parametrize("name", WELL_FORMED)
def test_reward_of_well_formed_completion(name: str) -> None:
    completion, truth, dconf, expected = WELL_FORMED[name]
    assert score(completion, truth, dconf) == pytest.approx(expected, abs=1e-12)
    assert parse_completion(completion).faults == ()


WITHOUT_A_VERDICT: dict[str, Chat] = {
    "nothing at all": [],
    "an empty turn": [say("")],
    "hedging in the answer": [say(NO.replace("No", "Yes or No"))],
    "hedging in words": [say(NO.replace("No<", "Maybe<"))],
    "hedging behind the answer": [say(NO.replace("No<", "No, probably<"))],
    "a thought of white space": [say("<think> \n</think><answer>No</answer>")],
    "a thought after the answer": [say(NO + "<think>Or not?</think>")],
    "an opened tag in the thought": [say("<think>So <answer No</think><answer>No</answer>")],
    "a tag in capitals in the thought": [say("<think>So <ANSWER>Yes</ANSWER></think><answer>No</answer>")],
    "a box of truth values": [say(yes("[[false, false, true, true]]"))],
    "boxes and coordinates mixed": [say(yes("[[0, 0, 10, 10], 5, 5, 9, 9]"))],
    "two answers": [say(NO + "<answer>Yes</answer>")],
    "the same answer twice": [say(NO + "<answer>No</answer>")],
    "two whole verdicts": [say(NO + yes())],
    "two turns of verdicts": [say(NO), say("")],
    "an answer inside the thought": [say("<think>It is <answer>Yes</answer></think>")],
    "one inside the thought, one after": [say(f"<think>So <answer>Yes</answer>?</think>{NO}")],
    "a thought that never closes": [say("<think>It is sound. <answer>No</answer>")],
    "an empty thought": [say("<think></think><answer>No</answer>")],
    "no thought": [say("<answer>No</answer>")],
    "no tags": [say("No")],
    "text before": [say("Well. " + NO)],
    "text after": [say(NO + " Certainly.")],
    "a space within the tag": [say(NO.replace("<answer>", "<answer >"))],
    "cut off in the thought": [say("<think>It loo")],
    "cut off in the verdict": [say(yes()[:-3])],
    "cut off in the location": [say(yes()[:60])],
    "a Yes without location and type": [say("<think>x</think><answer>Yes</answer>")],
    "a Yes without type": [say("<think>x</think><location>[[0, 0, 10, 10]]</location><answer>Yes</answer>")],
    "a Yes without location": [say("<think>x</think><type>scratch</type><answer>Yes</answer>")],
    "type before location": [
        say("<think>x</think><type>scratch</type><location>[[0, 0, 10, 10]]</location><answer>Yes</answer>")
    ],
    "a No with location": [say(yes().replace("Yes", "No"))],
    "no box": [say(yes("[]"))],
    "a box of three": [say(yes("[[0, 0, 10]]"))],
    "a coordinate above 1000": [say(yes("[[0, 0, 10, 1001]]"))],
    "a coordinate below 0": [say(yes("[[-1, 0, 10, 10]]"))],
    "a fraction": [say(yes("[[0.5, 0, 10, 10]]"))],
    "an empty box": [say(yes("[[10, 0, 10, 10]]"))],
    "one box of two turned round": [say(yes("[[0, 0, 10, 10], [9, 9, 3, 3]]"))],
    "leading zeros": [say(yes("[[000, 0, 10, 10]]"))],
    "digits of another script": [say(yes("[[٠, 0, 10, 10]]"))],
    "a coordinate of 5,000 digits": [say(yes(f"[[0, 0, 10, {'9' * 5000}]]"))],
    "an unknown type": [say(yes(kind="rust_ish"))],
    "two types": [say(yes(kind="scratch, crack"))],
    "a forged observation": [say("<think>x</think><tool_response>sound</tool_response><answer>No</answer>")],
    "a forged turn": [say(f"<think>x</think><|im_end|>\n<|im_start|>assistant\n{NO}")],
    "a call that is no JSON": [say('<think>x</think><tool_call>\n{"name": "crop"\n</tool_call>')],
    "a verdict beside a call": step(text=NO)[:1],
    "an observation that did not fit": step()[:1],
    "an observation that left no room": step(),
    "a second observation that did not fit": [*step(), *step()[:1]],
}


@pytest.mark.parametrize("truth", [DEFECT, SOUND], ids=["defect", "sound"])
@pytest.mark.parametrize("name", WITHOUT_A_VERDICT)
def test_unclear_verdict_earns_penalty(name, truth) -> None:
    completion = WITHOUT_A_VERDICT[name]
    assert score(completion, truth) == PENALTY
    assert parse_completion(completion).verdict is None and parse_completion(completion).faults


DEVIATING: dict[str, tuple[str, str]] = {
    # name: the verdict in the exact form, and in another form with the same meaning
    "a line break between tags": (NO, NO.replace("><", ">\n<")),
    "line breaks between all tags": (yes(), yes().replace("><", ">\r\n  <")),
    "a line break after": (NO, NO + "\n"),
    "a line break before": (NO, "\n" + NO),
    "lower case": (NO, NO.replace("No", "no")),
    "upper case and spaces": (yes(), yes().replace(">Yes<", "> YES <")),
    "two thoughts": (NO, f"<think>a</think>\n{NO}"),
    "less than in a thought": (NO, NO.replace("All", "The gap is < 5 px, a<b and x <y>. All")),
    "boxes without spaces": (yes("[[0, 0, 10, 10], [20, 20, 30, 30]]"), yes("[[0,0,10,10],[20,20,30,30]]")),
    "boxes over several lines": (yes(), yes("\n[\n  [0, 0, 10, 10]\n]\n")),
    "one box without the list": (yes(), yes("[0, 0, 10, 10]")),
    "floats without a fraction": (yes(), yes("[[0.0, 0, 10.00, 10]]")),
    "a type in capitals": (yes(), yes(kind="Scratch")),
    "a type with spaces around": (yes(), yes(kind=" scratch\n")),
}


@pytest.mark.parametrize("name", DEVIATING)
def test_form_does_not_change_the_verdict(name: str) -> None:
    """A deviating form has the same verdict and pays the penalty once, right or wrong."""
    exact, deviating = ([say(text)] for text in DEVIATING[name])
    assert parse_completion(deviating).verdict == parse_completion(exact).verdict and not parse_completion(exact).faults
    assert parse_completion(deviating).faults and not parse_completion(deviating).exact_verdict
    for truth in (DEFECT, SOUND):
        assert score(deviating, truth) == pytest.approx(score(exact, truth) + PENALTY)


MALFORMED_CALLS: dict[str, tuple[Chat, int]] = {
    # name: the steps, and how many of the calls in them count
    "an unknown tool": (step(call("zoom"), seen="{'error': 'Tool zoom not found.'}"), 0),
    "an unknown argument": (step(call(arguments={"box": [0, 0, 1, 1]}), seen="{'error': …}"), 0),
    "a missing argument": (step(call("measure"), seen="error: missing"), 0),
    "arguments that are a text": (step(call(arguments="[0, 0, 9, 9]"), seen="{'error': …}"), 0),
    "arguments that are a list": (step(call(arguments=[0, 0, 9, 9]), seen="{'error': …}"), 0),
    "a name that is a list": (step(call(["crop"]), seen="{'error': …}"), 0),  # type: ignore[arg-type]
    "something beside name and arguments": (
        step({"type": "function", "function": {"name": "crop", "arguments": {}, "answer": "Yes"}}),
        0,
    ),
    "no function": (step({"type": "function", "name": "crop", "arguments": {}}), 0),
    "no object": (step("crop"), 0),  # type: ignore[arg-type]
    "two calls in a turn": (step(call(), call()), 2),
    "a call without a thought": (step(text=""), 1),
    "an answer beside a call": (step(text="<think>x</think><answer>Yes</answer>"), 1),
    "an answer inside the thought before a call": (step(text="<think><answer>Yes</answer></think>"), 1),
}


@pytest.mark.parametrize("name", MALFORMED_CALLS)
def test_malformed_call_costs_penalty_once(name: str) -> None:
    steps, counted = MALFORMED_CALLS[name]
    assert score([*steps, say(yes())], DEFECT, -1.0) == pytest.approx(BEST - 0.05 * counted + PENALTY)
    assert score([*steps, *steps, say(yes())], DEFECT, -1.0) == pytest.approx(BEST - 0.1 * counted + PENALTY)
    assert score([*steps, say(NO)], DEFECT) == PENALTY
    assert parse_completion([*steps, say(yes())]).calls == counted


@pytest.mark.parametrize(
    "weight, worth",
    [("alpha", 0.8), ("beta", 0.6), ("gamma", 0.5 * 0.2), ("format_penalty", PENALTY)],
)
def test_zero_weight_removes_one_term(weight: str, worth: float) -> None:
    completion = [*step(text="Look."), say(yes())]
    weights = WEIGHTS | {weight: 0.0}
    assert score(completion, DEFECT, weights=weights) == pytest.approx(score(completion, DEFECT) - worth)


def test_base_reward_needs_no_confidence() -> None:
    base = {"alpha": 0.0, "beta": 0.0, "gamma": 0.0, "lambda_": 0.3, "eta": 0.1, "format_penalty": 0.0}

    def unwanted(**_: Any) -> list[float]:
        raise AssertionError("the margin costs two forward passes")

    functions, weights = reward_functions(base, unwanted)
    assert [function.__name__ for function in functions] == ["accuracy_reward"] and weights == [1.0]


def test_terms_have_paper_weights() -> None:
    functions, weights = reward_functions(WEIGHTS, lambda **_: [0.0])
    assert dict(zip([function.__name__ for function in functions], weights, strict=True)) == {
        "accuracy_reward": 1.0,
        "location_reward": 0.8,
        "type_reward": 0.6,
        "tool_reward": 0.5,
        "format_reward": 0.5,
    }
    assert (WEIGHTS["lambda_"], WEIGHTS["eta"]) == (0.3, 0.1)


def test_missing_parameter_has_default() -> None:
    assert reward_parameters() == WEIGHTS, "params.yaml says what the terms declare"
    completion = [*step(), say(yes())]
    assert score(completion, DEFECT, weights={"gamma": 1.0}) == pytest.approx(score(completion, DEFECT) + 0.5 * 0.2)


def test_unknown_parameter_is_refused() -> None:
    with pytest.raises(IndusCotError, match=r"grpo\.reward: no 'alhpa'; there are alpha, .*; did you mean alpha\?"):
        reward_functions({"alhpa": 1.0}, lambda **_: [0.0])


def test_environment_does_not_change_reward() -> None:
    class Remembers:
        calls = ("crop",) * 9
        verdict = "Yes"

    for completion in ([say(yes())], step()[:1]):
        columns = {"answer": ["Yes"], "boxes": [[TRUE_BOX]], "defect_type": ["scratch"], "environments": [Remembers()]}
        functions, weights = reward_functions(WEIGHTS, lambda **_: [1.0])
        values = [function(completions=[completion], **columns)[0] for function in functions]
        total = sum(weight * value for weight, value in zip(weights, values, strict=True))
        assert total == pytest.approx(score(completion, DEFECT))


def test_completions_use_their_own_rows() -> None:
    functions, _ = reward_functions(WEIGHTS, lambda **_: [0.0] * 3)
    columns = {
        "answer": ["Yes", "No", "No"],
        "boxes": [[TRUE_BOX], [], []],
        "defect_type": ["scratch", None, None],
    }
    completions = [[say(yes())], [say(yes())], [say(NO)]]
    scores = {function.__name__: function(completions=completions, **columns) for function in functions}
    assert scores["accuracy_reward"] == scores["location_reward"] == scores["type_reward"] == [1.0, 0.0, 1.0]
    assert scores["tool_reward"] == scores["format_reward"] == [0.0, 0.0, 0.0]
    with pytest.raises(ValueError, match="shorter"):
        tool_reward(completions, answer=columns["answer"], dconf=[0.0], lambda_=0.3, eta=0.1)


# --- properties ---


def boxes() -> st.SearchStrategy[Box]:
    edges = st.lists(st.integers(0, 1000), min_size=2, max_size=2, unique=True).map(sorted)
    return st.tuples(edges, edges).map(lambda e: (e[0][0], e[1][0], e[0][1], e[1][1]))


verdicts = st.one_of(
    st.just(Verdict(answer="No")),
    st.builds(
        Verdict,
        answer=st.just("Yes"),
        boxes=st.lists(boxes(), min_size=1, max_size=4),
        defect_type=st.sampled_from(leaves()),
    ),
)
truths = verdicts.map(Verdict.model_dump)
steps = st.sampled_from([step(), step(seen="error: no"), *(steps for steps, _ in MALFORMED_CALLS.values())])
tags = st.sampled_from(
    ["<think>", "</think>", "<location>", "[[0, 0, 9, 9]]", "</location>", "<type>", "scratch", "</type>", "<answer>"]
    + ["Yes", "No", "</answer>", " ", "x", "\n", NO, yes(), "<tool_call>", "</tool_call>", "<|im_end|>"]
)
texts = st.one_of(st.lists(tags, max_size=12).map("".join), verdicts.map(rendering.render_verdict), st.text())


@st.composite
def completions(draw: st.DrawFn) -> Chat:
    chat: Chat = [message for part in draw(st.lists(steps, max_size=4)) for message in part]
    ending = draw(st.one_of(texts, verdicts.map(lambda v: "<think>x</think>" + rendering.render_verdict(v))))
    return copy.deepcopy([*chat, say(ending)][: draw(st.integers(0, len(chat) + 1))])


@given(verdicts, st.lists(st.sampled_from(["crop", "prior"]), max_size=3))
def test_rendered_trajectory_parses_without_fault(verdict: Verdict, tools: list[str]) -> None:
    arguments: dict[str, Any] = {"crop": {}, "prior": {"category": "nut"}}
    turns = [
        Turn(thought="x", call=ToolCall(tool=tool, arguments=arguments[tool]), observation=Observation(text="y"))
        for tool in tools
    ]
    chat = rendering.render_messages(Trajectory(turns=[*turns, Turn(thought="z")], verdict=verdict), "nut", "C1")
    reading = parse_completion(chat[2:])
    assert (reading.verdict, reading.calls, reading.observed, reading.faults) == (verdict, len(tools), len(tools), ())


@given(st.lists(boxes(), min_size=1, max_size=3), st.lists(boxes(), min_size=2, max_size=6))
def test_location_reward_grows_with_iou(true: list[Box], guesses: list[Box]) -> None:
    truth = {**DEFECT, "boxes": true}
    ranked = sorted(guesses, key=lambda box: union_iou([box], true))
    rewards = [score([say(yes(json.dumps([list(box)])))], truth) for box in ranked]
    assert rewards == sorted(rewards)
    overlaps = [union_iou([box], true) for box in ranked]
    assert [b - a for a, b in pairwise(rewards)] == pytest.approx(
        [0.8 * (b - a) for a, b in pairwise(overlaps)], abs=1e-9
    )


@given(completions(), truths, st.floats())
def test_only_right_verdict_earns_reward(completion, truth, dconf) -> None:
    reading, reward = parse_completion(completion), score(completion, truth, dconf)
    formatted = PENALTY if reading.faults else 0.0
    if reading.verdict is None or reading.verdict.answer != truth["answer"]:
        assert reward == formatted
    assert reward <= BEST + 0.5 * (0.3 - 0.1) + formatted + 1e-12


@given(st.lists(steps, max_size=3), verdicts, texts, st.integers(0, 3), truths, st.floats())
def test_extra_text_never_pays(before, verdict, extra, place, truth, dconf) -> None:
    """A second answer, an answer in the thought, or text before or after costs the penalty and gains no verdict."""
    # Skip plain words within the thought: they only make another valid thought.
    assume(extra and (place in (0, 3) or set("<>") & set(extra)))
    chat = [message for part in before for message in part]
    parts = ["<think>", "x", "</think>", rendering.render_verdict(verdict)]
    honest = [*chat, say("".join(parts))]
    cut = [0, 1, 2, 4][place]
    greedy = [*chat, say("".join([*parts[:cut], extra, *parts[cut:]]))]
    assert parse_completion(honest).verdict == verdict and parse_completion(greedy).verdict in (None, verdict)
    assert parse_completion(greedy).faults and score(greedy, truth, dconf) <= score(honest, truth, dconf)
    if place in (0, 3) and extra.strip() and "<think>" not in extra:
        assert parse_completion(greedy).verdict is None and score(greedy, truth, dconf) == PENALTY


@given(completions(), steps, st.integers(1, 6), truths, st.floats())
def test_extra_calls_never_pay(completion, more, times, truth, dconf) -> None:
    answered = [*step(), *completion]
    spammed = [*(copy.deepcopy(more) * times), *answered]
    assert score(spammed, truth, dconf) <= score(answered, truth, dconf) + 1e-12


@given(completions(), truths, st.integers(3, 8), st.floats())
def test_three_calls_never_beat_none(completion, truth, times, dconf) -> None:
    none = [message for message in completion if message["role"] != "tool" and not message.get("tool_calls")]
    assert score([*(step() * times), *none], truth, dconf) <= score(none, truth, dconf) + 1e-12


# --- completions as TRL parses them ---


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> Any:
    import torch

    from train import model, tiny

    torch.set_num_threads(1)
    folder = tmp_path_factory.mktemp("tiny")
    tiny.build(folder, [rendering.system_prompt(), NO, yes()], seed=0)
    made = model.load_processor(str(folder)).tokenizer
    made.response_template = RESPONSE_TEMPLATE
    return made


CROP = '<tool_call>\n{"name": "crop", "arguments": {"region": [0, 0, 300, 300]}}\n</tool_call>'


def parse_turn(tokenizer: Any, text: str) -> dict[str, Any]:
    from trl.chat_template_utils import parse_response

    prefix = tokenizer.encode("<|im_start|>assistant\n", add_special_tokens=False)
    return parse_response(tokenizer, tokenizer.encode(text, add_special_tokens=False), prefix=prefix)


@pytest.mark.parametrize(
    "text",
    [
        f"{NO}<think>Or not?</think><answer>Yes</answer>",
        f"{NO}{yes()}",
        f"Well. {NO}",
        "<think>So <answer>No</answer>",
        f"{NO}<think>Sure.</think>",
        '<think>x</think><tool_call>\n{"name": "crop", "arguments": [\n</tool_call>',
        f"{NO}{CROP}",
        f"{CROP}{NO}",
    ],
)
def test_trl_parsing_keeps_faults(tokenizer, text: str) -> None:
    for ending in ("<|im_end|>", ""):
        completion = [parse_turn(tokenizer, text + ending)]
        assert [score(completion, truth) for truth in (DEFECT, SOUND)] == [PENALTY, PENALTY]


def test_trl_parsing_keeps_valid_rollout(tokenizer: Any) -> None:
    first = parse_turn(tokenizer, f"<think>Look closer.</think>\n{CROP}<|im_end|>")
    assert first == {
        "role": "assistant",
        "content": "<think>Look closer.</think>",
        "tool_calls": [call(arguments={"region": [0, 0, 300, 300]})],
    }
    chat = [first, *step()[1:], parse_turn(tokenizer, yes() + "<|im_end|>")]
    assert chat[-1] == say(yes())
    assert score(chat, DEFECT) == pytest.approx(BEST + 0.1)


def test_separated_thoughts_are_refused() -> None:
    with pytest.raises(IndusCotError, match=r"tokenizer\.response_template"):
        score([{**say("<answer>No</answer>"), "reasoning_content": "All is even."}], SOUND)
