"""`indus-cot evaluate`: figures that must come out, runs that were killed, servers and models that misbehave."""

import hashlib
import json
import os
import random
import re
import shutil
import signal
import subprocess
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import polars as pl
import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from cot_builder.inspection.episode import CUT, MALFORMED, MOST_CALLS, Episode, Written, inspect, schemas_of
from cot_builder.inspection.rendering import for_endpoint, prompt
from cot_builder.inspection.toolbox import Toolbox, tool_schemas
from cot_builder.storage import code
from cot_builder.storage.workspace import Workspace
from eval.evaluate import ANSWERED_BY
from eval.parse import parse_strict
from indus_cot import app as cli
from schemas.metrics import Metrics
from tests.helpers.layouts import mpdd_files, write_tar
from tests.helpers.paths import ROOT
from tests.helpers.pipeline import ENVIRONMENT, command
from tests.helpers.small_policy import FITTED
from tests.servers.chat_server import CUT as CUT_OFF
from tests.servers.chat_server import (
    DROPPED,
    EMPTY,
    REFUSED,
    STALLED,
    TRUNCATED,
    Body,
    ChatServer,
    Fault,
    chat_server,
    finish,
    in_turn,
    status,
    text_of,
)
from tests.servers.transformers_server import transformers_server

KEY = "sk-not-a-real-key-0123456789"
YES = "<think>A mark.</think><location>[[10, 10, 90, 90]]</location><type>scratch</type><answer>Yes</answer>"
NO = "<think>All is even.</think><answer>No</answer>"
CALL = '<think>Closer.</think>\n<tool_call>\n{"name": "crop", "arguments": {"region": [0, 0, 500, 500]}}\n</tool_call>'


@pytest.fixture(scope="module")
def project(trainable: Workspace, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A project with a set to train on and one to evaluate, 8 sound and 8 defective images."""
    folder = tmp_path_factory.mktemp("evaluate") / "project"
    folder.mkdir()
    shutil.copytree(ROOT / "profiles", folder / "profiles")
    shutil.copy(ROOT / "prices.yaml", folder)
    values = yaml.safe_load((ROOT / "params.yaml").read_text())
    values["pull"] = {
        "mine": {"benchmark": "folder", "source": "mine", "role": "train"},
        "held_out": {"benchmark": "folder", "source": "held_out", "role": "evaluate"},
        "absent": {"benchmark": "folder", "source": "absent", "role": "evaluate"},
    }
    values["evaluate"] |= {"draws": 100, "limit": None}
    (folder / "params.yaml").write_text(yaml.safe_dump(values))
    (folder / "data" / "pull").mkdir(parents=True)
    for made in (*trainable.data.glob("[!p]*"), trainable.prior, *trainable.data.glob("pull/*")):
        (folder / made.relative_to(trainable.root)).symlink_to(made)
    return folder


@pytest.fixture
def run(project: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: Any) -> Callable[..., str]:
    """Runs `indus-cot evaluate` in this process; returns what it printed, and fails where it does."""
    shutil.copytree(project, tmp_path / "project", symlinks=True)
    monkeypatch.chdir(tmp_path / "project")
    monkeypatch.setenv("OPENAI_API_KEY", KEY)

    def evaluate(*settings: str, name: str = "held_out", results: str = "results", more: tuple[str, ...] = ()) -> str:
        flags = [part for setting in settings for part in ("--set", setting)]
        try:
            cli.main([*flags, "evaluate", name, "--results", results, "--allow-unpriced", *more])
        except SystemExit as ended:
            if ended.code:
                raise AssertionError(capfd.readouterr().err) from None
        printed = capfd.readouterr()
        return printed.out + printed.err

    return evaluate


def found(results: str = "results") -> Metrics:
    return Metrics.model_validate_json(Path(results, "held_out", "metrics.json").read_bytes())


def rows(results: str = "results", name: str = "held_out") -> pl.DataFrame:
    return pl.read_parquet(Path(results, name, "predictions.parquet"))


def served(server: ChatServer | str, *more: str) -> tuple[str, ...]:
    url = server if isinstance(server, str) else server.url
    return (
        "evaluate.policy=endpoint", "evaluate.model=some-model", f"evaluate.base_url={url}",
        "compute.endpoint.backoff_s=0.01", "compute.endpoint.attempts=3", *more,
    )  # fmt: skip


@pytest.mark.parametrize(
    ("policy", "counts"), [("oracle", (8, 8, 0, 0)), ("always-yes", (8, 0, 8, 0)), ("always-no", (0, 8, 0, 8))]
)
def test_scripted_policies_give_the_figures_they_must(run: Any, policy: str, counts: tuple[int, ...]) -> None:
    printed = run(f"evaluate.policy={policy}")
    scores = found().overall
    assert (scores.tp, scores.tn, scores.fp, scores.fn) == counts
    assert scores.balanced_accuracy and scores.balanced_accuracy.value == (1.0 if policy == "oracle" else 0.5)
    assert any("exactly 50.0" in flag for flag in found().flags) == (policy != "oracle")
    assert "on 16 of 16 test images" in printed
    if policy == "oracle":
        assert scores.box_iou and scores.box_iou.value == 1.0
        assert scores.type_exact and scores.type_exact.value == 1.0


@pytest.mark.parametrize(
    ("policy", "counts", "told"),
    [
        ("always-yes", (282, 0, 176, 0), ["balanced accuracy is exactly 50.0", "recall 100, specificity 0"]),
        ("oracle", (282, 176, 0, 0), []),
    ],
)
def test_the_official_list_of_mpdd_gives_the_figures_it_must(
    run: Any, policy: str, counts: tuple[int, ...], told: list[str]
) -> None:
    write_tar(Path("mpdd.tar"), mpdd_files())
    values = yaml.safe_load(Path("params.yaml").read_text())
    values["pull"]["mpdd"] = {"benchmark": "mpdd", "source": "mpdd.tar", "role": "evaluate"}
    Path("params.yaml").write_text(yaml.safe_dump(values))
    with pytest.raises(SystemExit, match=r"^0$"):
        cli.main(["pull", "mpdd"])
    assert "evaluate: 458 images, 458 parts, 0 unparsed" in run(f"evaluate.policy={policy}", name="mpdd")
    metrics = Metrics.model_validate_json(Path("results/mpdd/metrics.json").read_bytes())
    scores = metrics.overall
    assert (scores.tp, scores.tn, scores.fp, scores.fn) == counts
    assert metrics.listing.same_list
    assert len(metrics.flags) == len(told)
    assert all(any(words in flag for flag in metrics.flags) for words in told), metrics.flags


def test_coin_and_heuristic_depend_on_nothing_but_the_image(run: Any) -> None:
    for policy in ("coin", "residual"):
        run(f"evaluate.policy={policy}")
        first = rows()
        assert policy == "residual" or set(first["answer"]) == {"Yes", "No"}
        shutil.rmtree(".indus-cot")
        run(f"evaluate.policy={policy}")
        assert rows().drop("seconds").equals(first.drop("seconds"))
    assert first["margin"].is_not_null().all()
    assert ((first["margin"] > 0) == (first["answer"] == "Yes")).all()


def test_what_was_read_by_other_rules_is_read_again(run: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    run("evaluate.policy=coin")
    assert "finished already" in run("evaluate.policy=coin")
    for name in ("cot_builder", "eval", "schemas", "train"):
        shutil.copytree(ROOT / name, Path("changed", name), ignore=shutil.ignore_patterns("__pycache__"))
    monkeypatch.setattr(code, "BASE", Path("changed").resolve())
    for name, line, again in (
        ("eval/parse.yaml", "# another rule", True),
        ("cot_builder/inspection/rendering.py", "ANOTHER = 1", True),
        ("schemas/geometry.py", "ANOTHER = 1", True),
        ("eval/scripted.py", "ANOTHER = 1", True),
        ("eval/scripted.py", "# a comment shapes nothing", False),
        ("eval/metrics/__init__.py", "ANOTHER = 1", False),
        ("train/writing.py", "ANOTHER = 1", False),
    ):
        with Path("changed", name).open("a") as file:
            file.write(f"{line}\n")
        code.forget()
        printed = run("evaluate.policy=coin")
        assert ("finished already" not in printed) == again, name
        assert ("16 images were answered by other code" in printed) == again, name
    monkeypatch.undo()
    code.forget()


@pytest.mark.parametrize(
    ("policy", "module"), [("transformers", "local"), ("vllm", "local"), ("endpoint", "served"), ("coin", "scripted")]
)
def test_every_file_that_shapes_an_answer_is_known_to_the_journal(policy: str, module: str) -> None:
    """What the policy's module imports, directly or through others, of the folders that make answers."""
    known = {path.as_posix() for path in code.files_of("eval.policies", ANSWERED_BY[policy])}
    assert f"eval/{module}.py" in known and {"schemas/taxonomy.yaml", "eval/parse.yaml"} <= known
    assert {"cot_builder/inspection/toolbox.py", "cot_builder/inspection/rendering.py"} <= known
    assert not {name for name in known if name.startswith(("eval/metrics", "eval/report", "cot_builder/stages"))}


def test_kept_answers_of_the_former_key_are_taken_over_once(run: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """A journal of version 0.1 named files and their hashes; where they answer alike, nothing is asked again."""
    run("evaluate.policy=coin")
    (kept,) = Path(".indus-cot/evaluate").glob("held_out-*.jsonl")
    header, *lines = kept.read_text().splitlines()
    read_by = {"eval/parse.py": "0" * 64}
    former = {**json.loads(header), "read by": read_by}
    key = former.pop("code")
    kept.unlink()
    Path(".indus-cot/evaluate/held_out-0123456789abcdef.jsonl").write_text(
        "\n".join([json.dumps(former, sort_keys=True), *lines]) + "\n"
    )
    table = Path("former.yaml").absolute()
    monkeypatch.setattr("eval.journal.FORMER", table)
    table.write_text("{}\n")
    shutil.copytree(".indus-cot", "before")
    printed = run("evaluate.policy=coin")
    assert "16 images were answered by other code" in printed and "finished already" not in printed
    assert "0 tokens" in printed and "0.0000 USD" in printed
    shutil.rmtree(".indus-cot")
    shutil.copytree("before", ".indus-cot")
    digest = hashlib.sha256(json.dumps(read_by, sort_keys=True).encode()).hexdigest()[:16]
    table.write_text(f"{digest}: {key}\n")
    assert "16 of 16 images are finished already" in run("evaluate.policy=coin")
    assert kept.is_file()


def test_a_part_of_a_set_is_half_of_each_label_and_a_part_of_a_larger_one(run: Any) -> None:
    run("evaluate.policy=coin", "evaluate.limit=6")
    few = rows()
    assert few["true_answer"].value_counts()["count"].to_list() == [3, 3]
    assert any("6 of the 16" in flag for flag in found().flags)
    run("evaluate.policy=coin", "evaluate.limit=10")
    assert set(few["sample_id"]) < set(rows()["sample_id"])


@pytest.mark.parametrize(
    ("settings", "name", "told"),
    [
        ((), "nowhere", "not in the pull section"),
        ((), "mine", "its role is train"),
        ((), "absent", "indus-cot pull absent"),
        ((), "held_out", "models/grpo is not there; train it first"),
        (("evaluate.model=",), "held_out", "evaluate.model is empty"),
        (("evaluate.policy=vllm", "evaluate.model=some/model"), "held_out", "vllm is not installed"),
        (("evaluate.model=profiles",), "held_out", "no config.json"),
        (
            ("evaluate.policy=endpoint", "evaluate.model=gpt-4.1", "evaluate.api_key_env=NO_SUCH_KEY"),
            "held_out",
            "NO_SUCH_KEY (evaluate.api_key_env) is not set",
        ),
        (("evaluate.mode=agent-without-eyes",), "held_out", "evaluate.mode"),
    ],
)
def test_what_cannot_be_evaluated_is_told_in_one_message(run: Any, settings: Any, name: str, told: str) -> None:
    with pytest.raises(AssertionError) as error:
        run(*settings, name=name)
    assert told in str(error.value) and "Traceback" not in str(error.value)
    assert not Path("results", name).exists()


def by_kind(body: Body) -> str:
    """Looks twice, and then says Yes."""
    return (CALL, CALL, YES)[text_of(body).count("<tool_response>")]


def test_an_endpoint_is_shown_the_observations_and_nothing_is_asked_twice(run: Any) -> None:
    with chat_server(by_kind) as server:
        run(*served(server))
        asked = len(server.requests)
        run(*served(server))
        assert len(server.requests) == asked == 3 * 16
        shutil.rmtree(Path(".indus-cot/evaluate"))
        run(*served(server))
        assert len(server.requests) == asked, "kept answers do not depend on the journal"
        run(*served(server, "evaluate.max_tokens=99"))
        assert len(server.requests) == 2 * asked, "another run takes nothing of this one's"
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
def test_a_mode_tells_of_the_tools_it_has(run: Any, mode: str) -> None:
    with chat_server(lambda _: CALL if mode == "agent-without-crop" else "Answer: No") as server:
        run(*served(server, f"evaluate.mode={mode}", "evaluate.limit=2", "evaluate.max_calls=1"))
    text = text_of(server.requests[0])
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
        (Fault(change=finish("content_filter")), "stopped by the server (content_filter)"),
        (Fault(change=finish("stop", content=None, refusal="No, I will not.")), "stopped by the server (refusal)"),
        (REFUSED, "stopped by the server (refusal)"),
    ],
    ids=["cut", "filtered", "refused", "refused in other words"],
)
def test_a_plain_answer_that_was_cut_off_is_not_read(run: Any, fault: Fault, told: str) -> None:
    """It had not come to its conclusion, whatever it says so far."""
    cut = "No defect at the rim. At the lower left, however"
    with chat_server(lambda _: cut, lambda *_: fault) as server:
        run(*served(server, "evaluate.mode=direct", "evaluate.limit=2"))
    assert rows()["parse"].to_list() == ["unparsed"] * 2 and told in rows()["fault"][0]
    assert found().overall.box_iou is None, "a plain question asks for no place"


def test_another_seed_or_other_weights_are_asked_anew_and_nothing_else(run: Any) -> None:
    def asked(*settings: str) -> int:
        before = len(server.requests)
        run(*served(server, "evaluate.limit=2", *settings))
        # What is kept is kept by the door: the journal has nothing of another run.
        shutil.rmtree(".indus-cot/evaluate")
        return len(server.requests) - before

    with chat_server(lambda _: NO) as server:
        assert [asked("run.seed=7"), asked("run.seed=7", "evaluate.temperature=0.0")] == [2, 0]
        sampled = "evaluate.temperature=0.7"
        assert [asked(sampled), asked(sampled, "run.seed=8"), asked(sampled)] == [2, 2, 0]
        assert [asked("evaluate.temperature=null"), asked("evaluate.temperature=null", "run.seed=8")] == [2, 2]
        assert "temperature" not in server.requests[-1]
        weights = Path("models/mine")
        weights.mkdir(parents=True)
        (weights / "config.json").write_text("{}")
        hashes = []
        for training in (b"first", b"second"):
            (weights / "model.safetensors").write_bytes(training)
            assert [asked("evaluate.model=models/mine") for _ in range(2)] == [2, 0]
            hashes.append(found().run.model_sha256)
        assert None not in hashes and hashes[0] != hashes[1]
    with pytest.raises(AssertionError, match="null leaves it to a server"):
        run("evaluate.model=models/mine", "evaluate.temperature=null")


@pytest.mark.parametrize(
    ("settings", "called"),
    [(("evaluate.mode=direct",), 0), (("evaluate.mode=agent-no-tools",), 0), (("evaluate.rounds=two",), 1)],
    ids=["direct", "no tools", "two rounds"],
)
def test_a_model_in_this_process_is_asked_in_every_mode(run: Any, policy: Path, settings: Any, called: int) -> None:
    run(f"evaluate.model={policy / FITTED}", "evaluate.limit=2", "evaluate.max_tokens=60", *settings)
    assert rows().height == 2 and rows()["observed"].max() <= called
    assert rows()["margin"].is_null().all() == ("evaluate.mode=direct" in settings)


PLAIN = (
    "{% for message in messages %}<|im_start|>{{ message.role }}\n{% for part in message.content %}"
    "{% if part.type == 'image' %}<|vision_start|><|image_pad|><|vision_end|>{% else %}{{ part.text }}{% endif %}"
    "{% endfor %}<|im_end|>\n{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
"""A chat template that knows of no tools."""


def test_a_model_that_knows_no_tools_is_asked_where_it_is_told_of_none(run: Any, policy: Path) -> None:
    shutil.copytree(policy / FITTED, "plain")
    Path("plain/chat_template.jinja").write_text(PLAIN)
    few = ("evaluate.model=plain", "evaluate.limit=2", "evaluate.max_tokens=20")
    with pytest.raises(AssertionError, match="does not render tool calls"):
        run(*few)
    for mode in ("direct", "agent-no-tools"):
        run(*few, f"evaluate.mode={mode}")
        assert rows()["margin"].is_null().all() == (mode == "direct")


def test_in_this_process_each_item_is_kept_before_the_policy_is_asked_again(
    run: Any, policy: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What the journal's file holds whenever the model begins to write: what a kill there would leave."""
    kept: list[tuple[int, int]] = []
    ended = 0

    def writer(*_: Any) -> Any:
        def write(chats: Any) -> list[Written]:
            nonlocal ended
            (journal,) = Path(".indus-cot/evaluate").glob("*.jsonl")
            kept.append((len(journal.read_bytes().splitlines()) - 1, ended))
            said = [NO if len(chat) > 2 or number == 0 else CALL for number, chat in enumerate(chats)]
            ended += said.count(NO)
            return [Written(text) for text in said]

        return write

    monkeypatch.setattr("eval.local.writer", writer)
    run(f"evaluate.model={policy / FITTED}", "evaluate.limit=7", "evaluate.batch=3")
    assert len(kept) > 3 and any(0 < lines < 7 for lines, _ in kept)
    assert all(lines == finished for lines, finished in kept), kept
    assert rows().height == 7 and rows()["margin"].is_not_null().all()


def test_two_rounds_answer_one_turn_of_calls_and_then_want_the_verdict(run: Any) -> None:
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
def test_a_model_that_goes_astray_is_wrong_and_does_not_stop_the_run(run: Any, said: str, fault: str) -> None:
    with chat_server(lambda _: said) as server:
        run(*served(server, "evaluate.limit=4", "evaluate.max_calls=2"))
    assert len(server.requests) == (12 if "<tool_call>" in said else 4)
    assert set(rows()["parse"]) == {"unparsed"} and found().overall.unparsed == 4
    assert fault in rows()["fault"][0]


@pytest.mark.parametrize(
    ("fault", "told"),
    [
        (status(401, message="bad key"), "401"),
        (status(404, message="no such model"), "check evaluate.base_url and evaluate.model"),
        (status(429), "429"),
        (Fault(text="<html>"), "unreadable answer"),
    ],
    ids=["401", "404", "429", "garbage"],
)
def test_an_endpoint_that_answers_nobody_is_one_message(run: Any, fault: Fault, told: str) -> None:
    with chat_server(lambda _: NO, lambda *_: fault) as server, pytest.raises(AssertionError) as error:
        run(*served(server))
    assert told in str(error.value) and "Traceback" not in str(error.value) and KEY not in str(error.value)
    with pytest.raises(AssertionError, match="check that the server runs"):
        run(*served(server.url))


def test_one_request_that_fails_is_counted_and_asked_again_by_the_next_run(run: Any) -> None:
    broken, bad = [True], []

    def faults(body: Body, number: int) -> Fault | None:
        if number == 3:
            bad.append(body)
        return status(400, message="too large") if broken[0] and body in bad else None

    with chat_server(lambda _: NO, faults) as server:
        with pytest.raises(AssertionError, match="strict runs stop here"):
            run(*served(server, "run.strict=true"))
        assert not Path("results/held_out").exists()
        run(*served(server))
        assert rows()["parse"].to_list().count("failed") == 1
        assert found().overall.unparsed == 1
        broken[0] = False
        run(*served(server))
    assert len(server.requests) == 18
    assert "failed" not in set(rows()["parse"])


def test_faults_that_pass_change_nothing_but_the_time(run: Any) -> None:
    figures = []
    for faults in (lambda *_: None, in_turn(status(429), status(500)), in_turn(DROPPED)):
        with chat_server(by_kind, faults) as server:
            run(*served(server), more=("--refresh",))
        figures.append(rows().drop("seconds"))
        assert len(server.requests) >= 48 * (1 if len(figures) == 1 else 2)
    assert figures[1].equals(figures[0]) and figures[2].equals(figures[0])
    worst = in_turn(status(502), status(503, "0.05"), TRUNCATED, EMPTY, STALLED)
    pace = ("compute.endpoint.attempts=9", "compute.endpoint.timeout_s=1")
    with chat_server(by_kind, worst) as server:
        run(*served(server, "evaluate.limit=2", *pace), more=("--refresh",))
    assert len(server.requests) >= 2 * 3 * 6
    same = figures[0].filter(pl.col("sample_id").is_in(rows()["sample_id"].implode()))
    assert rows().drop("seconds").equals(same) and rows().height == 2


@pytest.mark.parametrize("end", ["budget", "disk"])
def test_what_ends_a_run_keeps_what_is_finished(run: Any, monkeypatch: pytest.MonkeyPatch, end: str) -> None:
    one = "compute.endpoint.concurrency=1"
    usage = shutil.disk_usage(".")
    with chat_server(lambda _: NO) as server:
        with monkeypatch.context() as patch:
            if end == "disk":
                patch.setattr(
                    shutil, "disk_usage", lambda _: usage._replace(free=1000 if len(server.requests) > 4 else 2**40)
                )
            with pytest.raises(AssertionError, match="the budget ends here" if end == "budget" else "disk is full"):
                run(*served(server, one, *(["budget.tokens=9000"] if end == "budget" else [])))
        (journal,) = Path(".indus-cot/evaluate").glob("*.jsonl")
        kept = len(journal.read_bytes().splitlines()) - 1
        assert 0 < kept == len(server.requests) < 16
        assert not Path("results/held_out").exists()
        assert f"{kept} of 16 images are finished already" in run(*served(server))
    assert len(server.requests) == 16 and set(rows()["answer"]) == {"No"}


def test_progress_tells_rate_time_left_and_balanced_accuracy(run: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("cot_builder.endpoint.flow.LINE_EVERY_S", 0.05)
    monkeypatch.setattr("cot_builder.progress.LINE_EVERY_S", 0.0)
    with chat_server(lambda _: NO, latency_s=0.05) as server:
        printed = run(*served(server, "compute.endpoint.concurrency=2"))
    shown = r"evaluate held_out: \d+/16 images, \d+ answers \(\d+\.\d/s\).*, balanced accuracy 50\.0 so far, \d+ s left"
    assert re.search(shown, printed), printed
    printed = run("evaluate.policy=always-yes")
    assert re.search(r"evaluate held_out: \d+/16, \d+ s left, \d+\.\d/s, balanced accuracy 50\.0 so far", printed), (
        printed
    )


def test_a_killed_run_loses_no_finished_item(run: Any) -> None:
    """SIGKILL at random moments, early and late; what was finished then is not asked again, half a line included.

    One inspection goes on at a time: whoever asks a second question has finished the first item. Who is about to be
    killed gets no further answer, so that no machine is fast enough to finish before.
    """
    chance = random.Random(6)
    after = [chance.randint(1, 2), chance.randint(3, 5), chance.randint(4, 6)]
    asked: list[int] = []
    process: list[Any] = []

    def answer(_: Body) -> str:
        if asked:
            asked[-1] += 1
            if len(process) == len(asked) and asked[-1] == after[len(asked) - 1]:
                threading.Timer(chance.uniform(0, 0.05), process[-1].kill).start()
            elif asked[-1] > after[len(asked) - 1]:
                process[-1].wait()
        return NO

    one = ("compute.endpoint.concurrency=1", "compute.endpoint.backoff_s=0.01")
    kept: list[set[str]] = [set()]
    with chat_server(answer) as server:
        settings = served(server, *one)
        for _ in after:
            asked.append(0)
            process.append(
                subprocess.Popen(
                    command("evaluate", "held_out", "--allow-unpriced", settings=settings),
                    env=os.environ | ENVIRONMENT | {"PYTHONPATH": str(ROOT)},
                    stderr=subprocess.DEVNULL,
                    stdout=subprocess.DEVNULL,
                )
            )
            assert process[-1].wait() == -signal.SIGKILL
            (journal,) = Path(".indus-cot/evaluate").glob("*.jsonl")
            lines = [line for line in journal.read_bytes().splitlines(keepends=True)[1:] if line.endswith(b"\n")]
            kept.append({json.loads(line)[0] for line in lines})
            assert kept[-2] <= kept[-1] and len(kept[-1]) >= sum(asked) - len(asked)
            assert len(kept[-1]) - len(kept[-2]) >= asked[-1] - 1
            with journal.open("ab") as file:
                file.write(b'["half a li')
        assert 1 <= len(kept[-1]) < 16
        asked.clear()
        # Answers that the door has kept could hide what the journal lost.
        for path in Path(".indus-cot").glob("answers.sqlite*"):
            path.unlink()
        before = len(server.requests)
        run(*settings)
        assert len(server.requests) - before == 16 - len(kept[-1])
    assert rows().height == 16 and set(rows()["answer"]) == {"No"}


def test_the_control_arm_is_read_as_it_was_taught_and_asked_nothing_else(run: Any) -> None:
    """It learned the verdict without a thought, which the grammar of an agent's verdict has."""
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
        # What a model was not taught, it is not forgiven.
        run(*served(server, "evaluate.mode=agent-no-tools"), results="other")
        assert set(rows("other")["parse"]) == {"unparsed"}


def test_a_server_of_transformers_says_the_same_as_transformers_here(
    run: Any, policy: Path, trainable: Workspace
) -> None:
    """Item by item at temperature 0, with a tool whose image is looked at."""
    # Images that the policy was fitted to, so that it knows what to do.
    shutil.copytree(trainable.root / "mine", "seen")
    pl.read_csv("seen/parts.csv").with_columns(split=pl.lit("test")).write_csv("seen/parts.csv")
    values = yaml.safe_load(Path("params.yaml").read_text())
    values["pull"]["seen"] = {"benchmark": "folder", "source": "seen/parts.csv", "role": "evaluate"}
    Path("params.yaml").write_text(yaml.safe_dump(values))
    cli.app(["pull", "seen"], standalone_mode=False)
    own = (f"evaluate.model={policy / FITTED}", "evaluate.max_tokens=200", "evaluate.limit=4")
    run(*own, name="seen", results="local")
    local = rows("local", "seen")
    assert local["observed"].sum() > 0 and local["margin"].is_not_null().all()
    looked = local.filter(pl.col("observed") > 0)
    assert looked["answer_before"].is_not_null().all()
    pytest.importorskip("fastapi", reason="transformers serve needs transformers[serving]")
    with transformers_server(policy / FITTED) as url:
        run(*served(url, *own), name="seen", results="served")
    there = rows("served", "seen")
    columns = ["sample_id", "transcript", "answer", "boxes", "tools", "observed", "input_tokens", "output_tokens"]
    # Half a call, its opening a token that decoding hides: the server strips the space around it, and we do not.
    whole = pl.col("transcript").str.count_matches("<tool_call>") == pl.col("transcript").str.count_matches(
        "</tool_call>"
    )
    same = local.filter(whole)["sample_id"].implode()
    assert local.filter(whole).height >= 3
    assert local.filter(whole).select(columns).equals(there.filter(pl.col("sample_id").is_in(same)).select(columns))


def episode(pixels: Any, tools: Any = ("crop", "enhance", "measure", "prior"), rounds: int = 2) -> Episode:
    return Episode(prompt("bolt", "C1"), Toolbox(pixels, {("bolt", "C1"): "A grey bolt."}), tools, rounds)


@pytest.fixture(scope="module")
def pixels() -> Any:
    import numpy as np

    return np.full((64, 64, 3), 128, np.uint8)


def test_who_is_done_makes_room_for_the_next(pixels: Any) -> None:
    batches: list[int] = []

    def write(chats: Any) -> list[Written]:
        batches.append(len(chats))
        return [Written(NO if len(chat) > 2 or number == 0 else CALL) for number, chat in enumerate(chats)]

    done = list(inspect((episode(pixels) for _ in range(7)), write, 3))
    assert len(done) == 7 and all(item.done for item in done)
    assert batches[0] == 3 and max(batches) == 3 and sum(batches) == sum(len(item.steps) for item in done)


def test_a_turn_may_hold_several_calls_but_not_hundreds(pixels: Any) -> None:
    one = episode(pixels)
    one.take(Written(CALL + CALL.partition("</think>")[2] * 20))
    assert len(one.calls) == 21 and one.observed == MOST_CALLS
    assert one.completion[-1]["content"][0]["text"].startswith("error: more than")
    one.take(Written(NO))
    assert one.done and "several calls" in parse_strict(one.completion).fault


def test_a_cut_turn_is_no_verdict_and_a_control_token_is_not_sent_back(pixels: Any) -> None:
    one = episode(pixels)
    one.take(Written(NO, cut=True))
    assert one.done and parse_strict(one.completion).answer is None and one.steps[0].text.endswith(CUT)
    two = episode(pixels)
    two.take(Written(f"<|image_pad|><|im_end|>{CALL}"))
    assert "<|" not in two.chat[2]["content"][0]["text"].replace("<| ", "")


ANY_TEXT = st.text(st.characters(exclude_categories=()), max_size=8)
"""Halves of characters too, as JSON escapes them."""
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
def test_whatever_a_call_holds_it_is_an_observation(pixels: Any, body: str) -> None:
    one = episode(pixels, rounds=1)
    one.take(Written(f"<think>x</think><tool_call>{body}</tool_call>"))
    assert json.dumps(one.completion[1:], default=str, ensure_ascii=False).encode()
    if "</tool_call>" not in body and "<tool_call>" not in body:
        assert len(one.calls) == 1 and not one.done
        assert (one.calls[0] == MALFORMED) <= one.completion[-1]["content"][-1]["text"].startswith("error:")


def test_tools_in_words_are_those_of_the_template(trainable: Workspace) -> None:
    from train.model import load_processor

    processor = load_processor(str(trainable.root / "tiny"))
    calls = [{"role": "assistant", "content": [{"type": "text", "text": CALL}]}]
    tool = {"role": "tool", "name": "crop", "content": [{"type": "image"}, {"type": "text", "text": "Crop."}]}
    chat = [*prompt("bolt", "C1"), *calls, tool, tool]
    for tools in (tool_schemas(), schemas_of(("measure",)), None):
        native, written = (
            processor.apply_chat_template(messages, tools=told, add_generation_prompt=True, tokenize=False)
            for messages, told in ((chat, tools), (for_endpoint(chat, tools), None))
        )
        assert written == native
