"""Tests of the agent loop: calls, observations, and the end of an episode."""

import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cot_builder.inspection.episode import CUT_MARK, MALFORMED, MAX_CALLS, Episode, GeneratedTurn, run_episodes
from cot_builder.inspection.rendering import prompt
from cot_builder.inspection.toolbox import Toolbox
from eval.parse import parse_agent
from tests.helpers.evaluated import CALL, NO


def episode(pixels: Any, tools: Any = ("crop", "enhance", "measure", "prior"), rounds: int = 2) -> Episode:
    return Episode(prompt("bolt", "C1"), Toolbox(pixels, {("bolt", "C1"): "A grey bolt."}), tools, rounds)


@pytest.fixture(scope="module")
def pixels() -> Any:
    import numpy as np

    return np.full((64, 64, 3), 128, np.uint8)


def test_finished_episode_frees_its_slot(pixels: Any) -> None:
    batches: list[int] = []

    def write(chats: Any) -> list[GeneratedTurn]:
        batches.append(len(chats))
        return [GeneratedTurn(NO if len(chat) > 2 or number == 0 else CALL) for number, chat in enumerate(chats)]

    done = list(run_episodes((episode(pixels) for _ in range(7)), write, 3))
    assert len(done) == 7 and all(item.done for item in done)
    assert batches[0] == 3 and max(batches) == 3 and sum(batches) == sum(len(item.steps) for item in done)


def test_number_of_calls_per_turn_is_limited(pixels: Any) -> None:
    one = episode(pixels)
    one.add_turn(GeneratedTurn(CALL + CALL.partition("</think>")[2] * 20))
    assert len(one.calls) == 21 and one.observed == MAX_CALLS
    assert one.completion[-1]["content"][0]["text"].startswith("error: more than")
    one.add_turn(GeneratedTurn(NO))
    assert one.done and "several calls" in parse_agent(one.completion).fault


def test_truncated_turns_and_control_tokens(pixels: Any) -> None:
    one = episode(pixels)
    one.add_turn(GeneratedTurn(NO, cut=True))
    assert one.done and parse_agent(one.completion).answer is None and one.steps[0].text.endswith(CUT_MARK)
    two = episode(pixels)
    two.add_turn(GeneratedTurn(f"<|image_pad|><|im_end|>{CALL}"))
    assert "<|" not in two.chat[2]["content"][0]["text"].replace("<| ", "")


XML_CALL = "<tool_call>\n<function=crop>\n<parameter=region>\n[0, 0, 500, 500]\n</parameter>\n</function>\n</tool_call>"
JSON_CALL = '{"name": "crop", "arguments": {"region": [0, 0, 500, 500]}}'


@pytest.mark.parametrize(
    "call",
    [
        XML_CALL,
        f"```xml\n{XML_CALL}\n```",
        f"```json\n<tool_call>\n{JSON_CALL}\n</tool_call>\n```",
        f"<tool_call>\n```json\n{JSON_CALL}\n```\n</tool_call>",
        '<tool_call>{"name": "crop", "arguments": "{\\"region\\": [0, 0, 500, 500]}"}</tool_call>',
    ],
    ids=["xml", "fenced xml", "fence around", "fence within", "arguments as text"],
)
def test_calls_in_other_forms_are_run(pixels: Any, call: str) -> None:
    exact, other = episode(pixels), episode(pixels)
    exact.add_turn(GeneratedTurn(CALL))
    other.add_turn(GeneratedTurn(f"<think>Closer.</think>\n{call}"))
    assert other.observed == 1 and other.calls == ["crop"]
    assert other.completion[1:] == exact.completion[1:]
    assert other.completion[0]["content"] == exact.completion[0]["content"]
    for one in (exact, other):
        one.add_turn(GeneratedTurn(NO))
    assert parse_agent(exact.completion)[:4] == ("No", [], None, "strict")
    assert parse_agent(other.completion)[:4] == ("No", [], None, "tolerant")
    assert "exact form" in parse_agent(other.completion).fault


def test_empty_arguments_as_text_are_run(pixels: Any) -> None:
    one = episode(pixels)
    one.add_turn(GeneratedTurn('<think>Closer.</think>\n<tool_call>{"name": "crop", "arguments": "{}"}</tool_call>'))
    assert one.calls == ["crop"] and one.observed == 1


@pytest.mark.parametrize(
    "call",
    [
        "<tool_call>crop</tool_call>",
        "<tool_call><function=crop>region</function></tool_call>",
        "<tool_call>[]</tool_call>",
    ],
)
def test_calls_without_meaning_are_malformed(pixels: Any, call: str) -> None:
    one = episode(pixels)
    one.add_turn(GeneratedTurn(f"<think>Closer.</think>\n{call}"))
    assert one.calls == [MALFORMED] and one.observed == 0


ANY_TEXT = st.text(st.characters(exclude_categories=()), max_size=8)
"""Includes lone surrogates, which JSON escapes can contain."""
JSON: Any = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | ANY_TEXT,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=8,
)
NAMES = st.sampled_from(["crop", "enhance", "measure", "prior", "run", "observe", "__init__"]) | ANY_TEXT
ARGUMENTS = st.dictionaries(
    st.sampled_from(["region", "operator", "points", "mm_per_px", "category", "view", "self"]) | st.text(max_size=5),
    JSON,
    max_size=4,
)


@settings(max_examples=60, deadline=None)
@given(
    st.text(max_size=30)
    | st.builds(lambda name, given: json.dumps({"name": name, "arguments": given}), NAMES, ARGUMENTS | JSON)
)
def test_every_call_gets_an_observation(pixels: Any, body: str) -> None:
    one = episode(pixels, rounds=1)
    one.add_turn(GeneratedTurn(f"<think>x</think><tool_call>{body}</tool_call>"))
    assert json.dumps(one.completion[1:], default=str, ensure_ascii=False).encode()
    if "</tool_call>" not in body and "<tool_call>" not in body:
        assert len(one.calls) == 1 and not one.done
        assert (one.calls[0] == MALFORMED) <= one.completion[-1]["content"][-1]["text"].startswith("error:")
