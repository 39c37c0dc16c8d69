"""A model behind an endpoint: the requests it gets, and faulty servers and models."""

import json
import shutil
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from tests.helpers.evaluated import CALL, KEY, NO, endpoint_settings, look_twice, read_held_out, read_rows
from tests.servers.chat_server import CUT as CUT_OFF
from tests.servers.chat_server import (
    DROPPED,
    EMPTY,
    REFUSED,
    STALLED,
    TRUNCATED,
    Body,
    Fault,
    change_message,
    chat_server,
    faults_in_turn,
    get_text,
    status_fault,
)


def test_endpoint_sees_observations_once(run: Any) -> None:
    with chat_server(look_twice) as server:
        run(*endpoint_settings(server))
        asked = len(server.requests)
        run(*endpoint_settings(server))
        assert len(server.requests) == asked == 3 * 16
        shutil.rmtree(Path(".indus-cot/evaluate"))
        run(*endpoint_settings(server))
        assert len(server.requests) == asked, "cached answers do not depend on the journal"
        run(*endpoint_settings(server, "evaluate.max_tokens=99"))
        assert len(server.requests) == 2 * asked, "a run with other parameters reuses nothing"
        run(*endpoint_settings(server), more=("--refresh",))
        assert len(server.requests) == 3 * asked, "a model may have changed under its name"
    last = max(server.requests, key=lambda body: len(body["messages"]))
    assert "tools" not in last and "# Tools" in last["messages"][0]["content"]
    shown = [
        part["type"]
        for message in last["messages"]
        if isinstance(message["content"], list)
        for part in message["content"]
    ]
    assert shown.count("image_url") == 3
    assert read_rows()["tools"].to_list() == [["crop", "crop"]] * 16 and read_rows()["observed"].to_list() == [2] * 16
    assert read_held_out().tools.share["crop"] == 1.0
    assert read_held_out().run.priors == "of the training sets: mine"
    transcript = json.loads(read_rows()["transcript"][0])
    assert [len(turn["images_sha256"]) for turn in transcript["turns"]] == [1, 1, 0]


SCALE = CALL.replace("crop", "measure").replace(
    '"region": [0, 0, 500, 500]', f'"points": [[0, 0], [9, 9]], "mm_per_px": 1{"0" * 400}'
)
HALF = CALL.replace("crop", "prior").replace('"region": [0, 0, 500, 500]', '"category": "\\ud83d"')
MODES = {"agent-no-tools": 0, "agent-without-crop": 3, "direct": 0, "agent": 4}


@pytest.mark.parametrize("mode", MODES)
def test_mode_offers_its_tools(run: Any, mode: str) -> None:
    with chat_server(lambda _: CALL if mode == "agent-without-crop" else "Answer: No") as server:
        run(*endpoint_settings(server, f"evaluate.mode={mode}", "evaluate.limit=2", "evaluate.max_calls=1"))
    text = get_text(server.requests[0])
    assert sum(f'"name": "{tool}"' in text for tool in ("crop", "enhance", "measure", "prior")) == MODES[mode]
    assert ("tool" in text) == (MODES[mode] > 0)
    assert (read_held_out().run.priors != "none") == (MODES[mode] > 0)
    assert read_rows()["parse"][0] == ("rules" if mode == "direct" else "unparsed")
    if mode == "agent-without-crop":
        assert read_rows()["observed"][0] == 0
        assert "error: no tool 'crop'" in read_rows()["transcript"][0]


@pytest.mark.parametrize(
    ("fault", "told"),
    [
        (CUT_OFF, "cut off at 160 tokens"),
        (Fault(change=change_message("content_filter")), "stopped by the server (content_filter)"),
        (
            Fault(change=change_message("stop", content=None, refusal="No, I will not.")),
            "stopped by the server (refusal)",
        ),
        (REFUSED, "stopped by the server (refusal)"),
    ],
    ids=["cut", "filtered", "refused", "refused in other words"],
)
def test_truncated_plain_answer_is_unparsed(run: Any, fault: Fault, told: str) -> None:
    """It had not come to its conclusion, whatever it says so far."""
    cut = "No defect at the rim. At the lower left, however"
    with chat_server(lambda _: cut, lambda *_: fault) as server:
        run(*endpoint_settings(server, "evaluate.mode=direct", "evaluate.limit=2"))
    assert read_rows()["parse"].to_list() == ["unparsed"] * 2 and told in read_rows()["fault"][0]
    assert read_held_out().overall.box_iou is None, "a plain question asks for no place"


def test_reading_tolerates_form(run: Any) -> None:
    """A line break between thought and answer costs the exact form and not the verdict, unless exact form is asked."""
    with chat_server(lambda _: NO.replace("><", ">\n<")) as server:
        run(*endpoint_settings(server))
        assert set(read_rows()["answer"]) == {"No"} and set(read_rows()["parse"]) == {"tolerant"}
        assert read_held_out().overall.unparsed == 0 and read_held_out().overall.figure("exact_form").value == 0.0  # type: ignore[union-attr]
        assert read_held_out().run.parameters["reading"] == "tolerant"
        asked = len(server.requests)
        run(*endpoint_settings(server, "evaluate.reading=exact"))
        assert set(read_rows()["parse"]) == {"unparsed"} and len(server.requests) == asked, "answers are cached"
        run(*endpoint_settings(server, "evaluate.mode=direct"))
        assert read_held_out().overall.figure("exact_form") is None


def test_two_rounds_allow_one_turn_of_calls(run: Any) -> None:
    with chat_server(look_twice) as server:
        run(*endpoint_settings(server, "evaluate.rounds=two", "evaluate.limit=2"))
    assert len(server.requests) == 4
    assert read_rows()["tools"].to_list() == [["crop", "crop"]] * 2 and read_rows()["observed"].to_list() == [1, 1]
    assert set(read_rows()["parse"]) == {"unparsed"} and read_held_out().run.rounds == "two"


@pytest.mark.parametrize(
    ("said", "fault"),
    [
        (CALL, "ends without a verdict"),
        ('<think>x</think><tool_call>{"name": "zoom", "arguments": {}}</tool_call>', "a call of an unknown tool"),
        ("<think>x</think><tool_call>{oh</tool_call>", "a call of an unknown tool"),
        ("word " * 10_000, "not a thought and one verdict"),
        ("<think>Die Fläche ist gleichmäßig.</think><answer>Nein</answer>", "not a thought and one verdict"),
        ("", "not a thought and one verdict"),
        (SCALE, "ends without a verdict"),
        (HALF, "a call of an unknown tool"),
    ],
    ids=[
        "loops",
        "unknown tool",
        "malformed",
        "10,000 tokens",
        "another language",
        "nothing",
        "an absurd number",
        "half a character",
    ],
)
def test_erratic_model_counts_as_wrong(run: Any, said: str, fault: str) -> None:
    with chat_server(lambda _: said) as server:
        run(*endpoint_settings(server, "evaluate.limit=4", "evaluate.max_calls=2"))
    assert len(server.requests) == (12 if "<tool_call>" in said else 4)
    assert set(read_rows()["parse"]) == {"unparsed"} and read_held_out().overall.unparsed == 4
    assert fault in read_rows()["fault"][0]


@pytest.mark.parametrize(
    ("fault", "told"),
    [
        (status_fault(401, message="bad key"), "401"),
        (status_fault(404, message="no such model"), "check evaluate.base_url and evaluate.model"),
        (status_fault(429), "429"),
        (Fault(text="<html>"), "unreadable answer"),
    ],
    ids=["401", "404", "429", "garbage"],
)
def test_failing_endpoint_gives_one_message(run: Any, fault: Fault, told: str) -> None:
    with chat_server(lambda _: NO, lambda *_: fault) as server, pytest.raises(AssertionError) as error:
        run(*endpoint_settings(server))
    assert told in str(error.value) and "Traceback" not in str(error.value) and KEY not in str(error.value)
    with pytest.raises(AssertionError, match="check that the server runs"):
        run(*endpoint_settings(server.url))


def test_failed_request_is_retried_by_next_run(run: Any) -> None:
    broken, bad = [True], []

    def faults(body: Body, number: int) -> Fault | None:
        if number == 3:
            bad.append(body)
        return status_fault(400, message="too large") if broken[0] and body in bad else None

    with chat_server(lambda _: NO, faults) as server:
        with pytest.raises(AssertionError, match=r"run\.strict is true, so the stage stops here"):
            run(*endpoint_settings(server, "run.strict=true"))
        assert not Path("results/held_out").exists()
        run(*endpoint_settings(server))
        assert read_rows()["parse"].to_list().count("failed") == 1
        assert read_held_out().overall.unparsed == 1
        broken[0] = False
        run(*endpoint_settings(server))
    assert len(server.requests) == 18
    assert "failed" not in set(read_rows()["parse"])


def test_transient_faults_do_not_change_results(run: Any) -> None:
    figures = []
    for faults in (lambda *_: None, faults_in_turn(status_fault(429), status_fault(500)), faults_in_turn(DROPPED)):
        with chat_server(look_twice, faults) as server:
            run(*endpoint_settings(server), more=("--refresh",))
        figures.append(read_rows().drop("seconds"))
        assert len(server.requests) >= 48 * (1 if len(figures) == 1 else 2)
    assert figures[1].equals(figures[0]) and figures[2].equals(figures[0])
    worst = faults_in_turn(status_fault(502), status_fault(503, "0.05"), TRUNCATED, EMPTY, STALLED)
    pace = ("compute.endpoint.attempts=9", "compute.endpoint.timeout_s=1")
    with chat_server(look_twice, worst) as server:
        run(*endpoint_settings(server, "evaluate.limit=2", *pace), more=("--refresh",))
    assert len(server.requests) >= 2 * 3 * 6
    same = figures[0].filter(pl.col("sample_id").is_in(read_rows()["sample_id"].implode()))
    assert read_rows().drop("seconds").equals(same) and read_rows().height == 2


def test_control_arm_is_parsed_without_thought(run: Any) -> None:
    """The control arm learned the verdict without the thought that the agent's grammar requires."""
    Path("models/sft").mkdir(parents=True)
    trained = {"stage": "sft", "params": {"train": {"target": "labels"}}, "inputs": {}}
    Path("models/sft/manifest.json").write_text(json.dumps(trained))
    with chat_server(lambda _: "<answer>No</answer>") as server:
        arm = endpoint_settings(server, "evaluate.model=models/sft")
        with pytest.raises(AssertionError, match=r"learned the verdict alone .*evaluate\.mode=agent-no-tools"):
            run(*arm)
        assert not server.requests
        run(*arm, "evaluate.mode=agent-no-tools")
        assert set(read_rows()["parse"]) == {"strict"} and set(read_rows()["answer"]) == {"No"}
        # Other models must follow the full grammar.
        run(*endpoint_settings(server, "evaluate.mode=agent-no-tools"), results="other")
        assert set(read_rows("other")["parse"]) == {"unparsed"}
