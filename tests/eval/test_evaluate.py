"""`indus-cot evaluate`: known figures, invalid input, progress."""

import re
import shutil
from pathlib import Path
from typing import Any

import pytest
import yaml

from indus_cot import app as cli
from schemas.metrics import Metrics
from tests.helpers.evaluated import NO, endpoint_settings, read_held_out, read_rows
from tests.helpers.layouts import mpdd_files, write_tar
from tests.servers.chat_server import chat_server


@pytest.mark.parametrize(
    ("policy", "counts"), [("oracle", (8, 8, 0, 0)), ("always-yes", (8, 0, 8, 0)), ("always-no", (0, 8, 0, 8))]
)
def test_scripted_policies_have_known_figures(run: Any, policy: str, counts: tuple[int, ...]) -> None:
    printed = run(f"evaluate.policy={policy}")
    scores = read_held_out().overall
    assert (scores.tp, scores.tn, scores.fp, scores.fn) == counts
    assert scores.balanced_accuracy and scores.balanced_accuracy.value == (1.0 if policy == "oracle" else 0.5)
    assert any("exactly 50.0" in flag for flag in read_held_out().flags) == (policy != "oracle")
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
def test_official_mpdd_list_has_known_figures(run: Any, policy: str, counts: tuple[int, ...], told: list[str]) -> None:
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


def test_coin_and_heuristic_are_deterministic(run: Any) -> None:
    for policy in ("coin", "residual"):
        run(f"evaluate.policy={policy}")
        first = read_rows()
        assert policy == "residual" or set(first["answer"]) == {"Yes", "No"}
        shutil.rmtree(".indus-cot")
        run(f"evaluate.policy={policy}")
        assert read_rows().drop("seconds").equals(first.drop("seconds"))
    assert first["margin"].is_not_null().all()
    assert ((first["margin"] > 0) == (first["answer"] == "Yes")).all()


def test_limit_is_balanced_and_nested(run: Any) -> None:
    run("evaluate.policy=coin", "evaluate.limit=6")
    few = read_rows()
    assert few["true_answer"].value_counts()["count"].to_list() == [3, 3]
    assert any("6 of the 16" in flag for flag in read_held_out().flags)
    run("evaluate.policy=coin", "evaluate.limit=10")
    assert set(few["sample_id"]) < set(read_rows()["sample_id"])


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
def test_invalid_evaluation_gives_one_message(run: Any, settings: Any, name: str, told: str) -> None:
    with pytest.raises(AssertionError) as error:
        run(*settings, name=name)
    assert told in str(error.value) and "Traceback" not in str(error.value)
    assert not Path("results", name).exists()


def test_progress_line_content(run: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("cot_builder.endpoint.flow.LINE_INTERVAL_S", 0.05)
    monkeypatch.setattr("cot_builder.progress.LINE_INTERVAL_S", 0.0)
    with chat_server(lambda _: NO, latency_s=0.05) as server:
        printed = run(*endpoint_settings(server, "compute.endpoint.concurrency=2"))
    shown = r"evaluate held_out: \d+/16 images, \d+ answers \(\d+\.\d/s\).*, balanced accuracy 50\.0 so far, \d+ s left"
    assert re.search(shown, printed), printed
    printed = run("evaluate.policy=always-yes")
    assert re.search(r"evaluate held_out: \d+/16, \d+ s left, \d+\.\d/s, balanced accuracy 50\.0 so far", printed), (
        printed
    )
