"""A model behind an endpoint: the requests it gets, and faulty servers and models."""

import json
import shutil
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from tests.helpers.evaluated import CALL, KEY, NO, by_kind, found, rows, served
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
    with chat_server(by_kind) as server:
        run(*served(server))
        asked = len(server.requests)
        run(*served(server))
        assert len(server.requests) == asked == 3 * 16
        shutil.rmtree(Path(".indus-cot/evaluate"))
        run(*served(server))
        assert len(server.requests) == asked, "cached answers do not depend on the journal"
        run(*served(server, "evaluate.max_tokens=99"))
        assert len(server.requests) == 2 * asked, "a run with other parameters reuses nothing"
        run(*served(server), more=("--refresh",))
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
    assert rows()["tools"].to_list() == [["crop", "crop"]] * 16 and rows()["observed"].to_list() == [2] * 16
    assert found().tools.share["crop"] == 1.0
    assert found().run.priors == "of the training sets: mine"
    transcript = json.loads(rows()["transcript"][0])
    assert [len(turn["images_sha256"]) for turn in transcript["turns"]] == [1, 1, 0]


SCALE = CALL.replace("crop", "measure").replace(
    '"region": [0, 0, 500, 500]', f'"points": [[0, 0], [9, 9]], "mm_per_px": 1{"0" * 400}'
)
HALF = CALL.replace("crop", "prior").replace('"region": [0, 0, 500, 500]', '"category": "\\ud83d"')
MODES = {"agent-no-tools": 0, "agent-without-crop": 3, "direct": 0, "agent": 4}


@pytest.mark.parametrize("mode", MODES)
def test_mode_offers_its_tools(run: Any, mode: str) -> None:
    with chat_server(lambda _: CALL if mode == "agent-without-crop" else "Answer: No") as server:
        run(*served(server, f"evaluate.mode={mode}", "evaluate.limit=2", "evaluate.max_calls=1"))
    text = get_text(server.requests[0])
    assert sum(f'"name": "{tool}"' in text for tool in ("crop", "enhance", "measure", "prior")) == MODES[mode]
    assert ("tool" in text) == (MODES[mode] > 0)
    assert (found().run.priors != "none") == (MODES[mode] > 0)
    assert rows()["parse"][0] == ("rules" if mode == "direct" else "unparsed")
    if mode == "agent-without-crop":
        assert rows()["observed"][0] == 0
        assert "error: no tool 'crop'" in rows()["transcript"][0]


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
        run(*served(server, "evaluate.mode=direct", "evaluate.limit=2"))
    assert rows()["parse"].to_list() == ["unparsed"] * 2 and told in rows()["fault"][0]
    assert found().overall.box_iou is None, "a plain question asks for no place"


def test_reading_tolerates_form(run: Any) -> None:
    """A line break between thought and answer costs the exact form and not the verdict, unless exact form is asked."""
    with chat_server(lambda _: NO.replace("><", ">\n<")) as server:
        run(*served(server))
        assert set(rows()["answer"]) == {"No"} and set(rows()["parse"]) == {"tolerant"}
        assert found().overall.unparsed == 0 and found().overall.figure("exact_form").value == 0.0  # type: ignore[union-attr]
        assert found().run.parameters["reading"] == "tolerant"
        asked = len(server.requests)
        run(*served(server, "evaluate.reading=exact"))
        assert set(rows()["parse"]) == {"unparsed"} and len(server.requests) == asked, "answers are cached"
        run(*served(server, "evaluate.mode=direct"))
        assert found().overall.figure("exact_form") is None


def test_two_rounds_allow_one_turn_of_calls(run: Any) -> None:
    with chat_server(by_kind) as server:
        run(*served(server, "evaluate.rounds=two", "evaluate.limit=2"))
    assert len(server.requests) == 4
    assert rows()["tools"].to_list() == [["crop", "crop"]] * 2 and rows()["observed"].to_list() == [1, 1]
    assert set(rows()["parse"]) == {"unparsed"} and found().run.rounds == "two"


@pytest.mark.parametrize(
    ("said", "fault"),
    [
        (CALL, "ends without a verdict"),
        ('<think>x</think><tool_call>{"name": "zoom", "arguments": {}}</tool_call>', "no tool there is"),
        ("<think>x</think><tool_call>{oh</tool_call>", "no tool there is"),
        ("word " * 10_000, "not a thought and one verdict"),
        ("<think>Die Fläche ist gleichmäßig.</think><answer>Nein</answer>", "not a thought and one verdict"),
        ("", "not a thought and one verdict"),
        (SCALE, "ends without a verdict"),
        (HALF, "no tool there is"),
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
        run(*served(server, "evaluate.limit=4", "evaluate.max_calls=2"))
    assert len(server.requests) == (12 if "<tool_call>" in said else 4)
    assert set(rows()["parse"]) == {"unparsed"} and found().overall.unparsed == 4
    assert fault in rows()["fault"][0]


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
        run(*served(server))
    assert told in str(error.value) and "Traceback" not in str(error.value) and KEY not in str(error.value)
    with pytest.raises(AssertionError, match="check that the server runs"):
        run(*served(server.url))


def test_failed_request_is_retried_by_next_run(run: Any) -> None:
    broken, bad = [True], []

    def faults(body: Body, number: int) -> Fault | None:
        if number == 3:
            bad.append(body)
        return status_fault(400, message="too large") if broken[0] and body in bad else None

    with chat_server(lambda _: NO, faults) as server:
        with pytest.raises(AssertionError, match=r"run\.strict is true, so the stage stops here"):
            run(*served(server, "run.strict=true"))
        assert not Path("results/held_out").exists()
        run(*served(server))
        assert rows()["parse"].to_list().count("failed") == 1
        assert found().overall.unparsed == 1
        broken[0] = False
        run(*served(server))
    assert len(server.requests) == 18
    assert "failed" not in set(rows()["parse"])


def test_transient_faults_do_not_change_results(run: Any) -> None:
    figures = []
    for faults in (lambda *_: None, faults_in_turn(status_fault(429), status_fault(500)), faults_in_turn(DROPPED)):
        with chat_server(by_kind, faults) as server:
            run(*served(server), more=("--refresh",))
        figures.append(rows().drop("seconds"))
        assert len(server.requests) >= 48 * (1 if len(figures) == 1 else 2)
    assert figures[1].equals(figures[0]) and figures[2].equals(figures[0])
    worst = faults_in_turn(status_fault(502), status_fault(503, "0.05"), TRUNCATED, EMPTY, STALLED)
    pace = ("compute.endpoint.attempts=9", "compute.endpoint.timeout_s=1")
    with chat_server(by_kind, worst) as server:
        run(*served(server, "evaluate.limit=2", *pace), more=("--refresh",))
    assert len(server.requests) >= 2 * 3 * 6
    same = figures[0].filter(pl.col("sample_id").is_in(rows()["sample_id"].implode()))
    assert rows().drop("seconds").equals(same) and rows().height == 2


def test_control_arm_is_parsed_without_thought(run: Any) -> None:
    """The control arm learned the verdict without the thought that the agent's grammar requires."""
    Path("models/sft").mkdir(parents=True)
    trained = {"stage": "sft", "params": {"train": {"target": "labels"}}, "inputs": {}}
    Path("models/sft/manifest.json").write_text(json.dumps(trained))
    with chat_server(lambda _: "<answer>No</answer>") as server:
        arm = served(server, "evaluate.model=models/sft")
        with pytest.raises(AssertionError, match=r"learned the verdict alone .*evaluate\.mode=agent-no-tools"):
            run(*arm)
        assert not server.requests
        run(*arm, "evaluate.mode=agent-no-tools")
        assert set(rows()["parse"]) == {"strict"} and set(rows()["answer"]) == {"No"}
        # Other models must follow the full grammar.
        run(*served(server, "evaluate.mode=agent-no-tools"), results="other")
        assert set(rows("other")["parse"]) == {"unparsed"}
