"""Tests of `indus-cot draft` with an endpoint teacher: the real command against a server on loopback."""

import hashlib
import json
import re
import shutil
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from cot_builder.endpoint.store import AnswerStore, answer_store_path
from cot_builder.teacher.endpoint import join_reasons
from tests.helpers.drafting import (
    KEY,
    decode_images,
    endpoint_settings,
    get_form_name,
    parse_request_count,
    read_drafts,
    read_failures,
    run_draft,
)
from tests.helpers.pipeline import run
from tests.helpers.scripted_teacher import answer_form, parse_finding
from tests.servers.chat_server import (
    CUT,
    DROPPED,
    EMPTY,
    FILTERED,
    MALFORMED,
    REFUSED,
    TRUNCATED,
    Fault,
    chat_server,
    get_text,
    status_fault,
)


def test_estimate_matches_the_run(project: Path) -> None:
    with chat_server(answer_form) as server:
        before = run_draft(project, server, "--dry-run", more=("draft.candidates=2",), key="")
        assert before.returncode == 0, before.stderr
        assert server.requests == []
        ran = run_draft(project, server, more=("draft.candidates=2",))
        assert ran.returncode == 0, ran.stderr
        assert len(server.requests) == parse_request_count(before)
        after = run_draft(project, server, "--dry-run", more=("draft.candidates=2",))
        assert parse_request_count(after) == 0
        assert "100 % of them cached" in after.stdout
        kept = read_drafts(project)
        again = run_draft(project, server, more=("draft.candidates=2",))
        assert again.returncode == 0, again.stderr
        assert len(server.requests) == parse_request_count(before)
    assert read_drafts(project).equals(kept)
    with chat_server(answer_form) as server:
        anew = run_draft(project, server, "--dry-run", "--refresh", more=("draft.candidates=2",))
        assert (parse_request_count(anew), server.requests) == (parse_request_count(before), [])
    assert "24 trajectories, 0 rejected, 24 not the best candidate" in ran.stderr
    assert re.search(r"cost of these answers, including earlier runs: 0\.\d{4} USD", ran.stderr)
    assert "have no trajectory" not in ran.stderr + after.stdout
    assert (kept["judge_scores"].list.len() == 2).all()
    rejected = pl.read_parquet(project / "data/draft/rejected.parquet")
    assert rejected.height == kept.height == 24
    assert {reason["gate"] for reasons in rejected["violations"] for reason in reasons} == {"judge"}
    gates = json.loads((project / "reports/gates.json").read_text())
    assert (gates["passed"], gates["rejected"], gates["not_the_best_candidate"]) == (24, 0, 24)
    assert "24 trajectories, 0 rejected, 24 not the best candidate" in (project / "reports/gates.md").read_text()
    figures = gates["teacher"]
    answers = AnswerStore(answer_store_path(project))
    assert figures["usd"] == pytest.approx(answers.spent()[0], abs=1e-5)
    answers.close()


def test_only_the_writer_sees_the_truth(project: Path) -> None:
    with chat_server(answer_form) as server:
        ran = run_draft(project, server, more=("draft.blind=true",))
        assert ran.returncode == 0, ran.stderr
        requests = server.requests
    sent = {
        name: [body for body in requests if get_form_name(body) == name]
        for name in {get_form_name(body) for body in requests}
    }
    assert set(sent) == {"blind", "description", "composition", "audit", "scores"}
    for name, bodies in sent.items():
        private = [bool(re.search("[Ff]inding", get_text(body))) for body in bodies]
        assert all(private) if name in ("description", "composition") else not any(private), name
    assert all("defect of type" not in get_text(body) for body in sent["blind"])
    # No overlay: every image sent is a published file or was returned by a tool.
    samples = pl.read_parquet(project / "data/select/sample.parquet")
    observed = pl.read_parquet(project / "data/draft/observation.parquet")
    known = {*samples["image_sha256"], *observed["sha256"]}
    assert {hashlib.sha256(data).hexdigest() for body in requests for data in decode_images(body)} <= known
    assert read_drafts(project)["blind_answer"].null_count() == 0


def make_fault_schedule(share: float, *faults: Fault) -> Callable[[dict[str, Any], int], Fault | None]:
    """Make a function that returns one of ``faults`` at the first arrival of a share of the requests.

    The fault is chosen by the hash of the request.
    """
    seen: Counter[str] = Counter()

    def choose(body: dict[str, Any], _number: int) -> Fault | None:
        digest = hashlib.sha256(json.dumps(body, sort_keys=True).encode()).digest()
        seen[digest.hex()] += 1
        bad = seen[digest.hex()] == 1 and digest[0] < 256 * share
        return faults[digest[1] % len(faults)] if bad else None

    return choose


def test_server_faults_do_not_change_results(project: Path, tmp_path: Path) -> None:
    calm = Path(shutil.copytree(project, tmp_path / "calm", symlinks=True))
    with chat_server(answer_form) as server:
        assert run_draft(calm, server).returncode == 0
    weather = (
        status_fault(429), status_fault(429, "0.05"), status_fault(500), status_fault(502), status_fault(503),
        DROPPED, TRUNCATED, MALFORMED, EMPTY, REFUSED, FILTERED, CUT,
    )  # fmt: skip
    with chat_server(answer_form, make_fault_schedule(0.5, *weather)) as server:
        ran = run_draft(project, server)
        assert ran.returncode == 0, ran.stderr
        assert len(server.requests) > len(server.answered)
    assert read_drafts(project).drop("cost_usd").equals(read_drafts(calm).drop("cost_usd"))
    assert read_failures(project) == {}


def answer_with_mistakes(body: dict[str, Any]) -> dict[str, Any]:
    """Answer first drafts with different mistakes, and corrections without mistakes."""
    right = answer_form(body)
    if "A check of the example found" in get_text(body) or "could not be read" in get_text(body):
        return right
    way = hashlib.sha256(json.dumps(body["messages"][1], sort_keys=True).encode()).digest()[0] % 6
    if get_form_name(body) == "description":
        extra = {**dict.fromkeys(("operator", "points", "mm_per_px", "category", "view")), "why": "to see"}
        calls = [
            {"tool": "microscope", "region": None, **extra},
            {"tool": "crop", "region": [900, 900, 4000, 4000], **extra},
        ]
        return right | {"calls": [calls[way % 2]]} if way < 2 and "were refused" not in get_text(body) else right
    if get_form_name(body) != "composition":
        return right
    flipped = {"answer": "No", "boxes": [], "type": None} if right["answer"] == "Yes" else right
    last = right["thoughts"][-1]
    leaked = {"thoughts": [*right["thoughts"][:-1], f"As the annotation says, {last[0].lower()}{last[1:]}"]}
    return right | (flipped, leaked, {"thoughts": []}, {"type": "rust"}, {"boxes": [[5, 5, 2, 2]]}, {})[way]


def test_violations_are_corrected(project: Path) -> None:
    with chat_server(answer_with_mistakes) as server:
        ran = run_draft(project, server)
    assert ran.returncode == 0, ran.stderr
    kept = read_drafts(project)
    assert kept.height == 24
    assert read_failures(project) == {}
    assert kept["corrections"].max() >= 1
    assert not any("annotation" in text for text in kept["trajectory"])


def test_only_failed_samples_are_retried(project: Path) -> None:
    samples = pl.read_parquet(project / "data/select/sample.parquet")
    stubborn = set(samples["image_sha256"].sort().head(3))
    mended = False

    def teacher(body: dict[str, Any]) -> dict[str, Any] | str:
        bad = hashlib.sha256(decode_images(body)[0]).hexdigest() in stubborn and not mended
        if bad and get_form_name(body) == "composition":
            return answer_form(body) | {"thoughts": ["I was told that there is a defect, so there is one."] * 9}
        return answer_form(body)

    with chat_server(teacher) as server:
        ran = run_draft(project, server)
        assert ran.returncode == 0, ran.stderr
        failed = read_failures(project)
        assert len(failed) == 3
        assert all("3 drafts had no valid form: 9 thoughts" in why for why in failed.values())
        expected = (
            "3 of 24 samples have no trajectory; see reports/failures.csv; `indus-cot draft --only-failed` retries them"
        )
        assert ran.stderr.splitlines()[-1] == expected
        examined = run(project, "doctor", settings=endpoint_settings(server), OPENAI_API_KEY=KEY).stdout
        assert server.url in examined
        assert "3 samples have no trajectory" in examined
        sent = len(server.requests)
        mended = True
        assert run_draft(project, server).returncode == 0
        plain = run_draft(project, server, "--dry-run")
        assert parse_request_count(plain) == 0
        assert "3 samples of the last run have no trajectory; only --only-failed retries" in plain.stdout
        estimate = run_draft(project, server, "--dry-run", "--only-failed")
        assert len(server.requests) == sent
        again = run_draft(project, server, "--only-failed")
        assert again.returncode == 0, again.stderr
        redone = server.requests[sent:]
    assert len(redone) == parse_request_count(estimate)
    assert {hashlib.sha256(decode_images(body)[0]).hexdigest() for body in redone} == stubborn
    assert read_failures(project) == {}
    assert read_drafts(project).height == 24


@pytest.mark.parametrize(
    ("more", "flags", "key", "message"),
    [
        (("teacher.model=nobody-knows",), (), KEY, "no price for the model 'nobody-knows'"),
        (('teacher.model=""',), (), KEY, "teacher.model is empty"),
        ((), (), "", "OPENAI_API_KEY"),
        (("teacher.base_url=http://127.0.0.1:9/v1", "compute.endpoint.attempts=2"), (), KEY, "check that the server runs"),
        (("teacher.base_url=http://127.0.0.1:9/v1", "compute.endpoint.attempts=2"), (), KEY, "retrying: no connection"),
        (("teacher.base_url=127.0.0.1:9",), (), KEY, "teacher.base_url: must begin with http:// or https://"),
        (("teacher.backend=offline",), ("--dry-run",), KEY, "draft --dry-run: teacher.backend is offline, which queries no server"),
        (("teacher.backend=offline",), ("--refresh",), KEY, "draft --refresh: teacher.backend is offline"),
        (("teacher.backend=offline",), ("--only-failed",), KEY, "draft --only-failed: teacher.backend is offline"),
        ((), ("--only-failed",), KEY, "lists none of the selected samples"),
    ],
)  # fmt: skip
def test_bad_options_give_one_message(
    project: Path, more: tuple[str, ...], flags: tuple[str, ...], key: str, message: str
) -> None:
    with chat_server(answer_form) as server:
        result = run_draft(project, server, *flags, more=more, key=key)
        assert server.requests == []
    assert result.returncode == 1
    assert message in " ".join(result.stderr.split())
    assert "Traceback" not in result.stderr
    assert not (project / "data/draft").exists()


def test_allowed_unpriced_model_runs(project: Path) -> None:
    with chat_server(answer_form) as server:
        estimate = run_draft(project, server, "--dry-run", "--allow-unpriced", more=("teacher.model=my-own",))
        priced_judge = ("teacher.model=my-own", "teacher.judge_model=gpt-4.1")
        mixed = run_draft(project, server, "--dry-run", "--allow-unpriced", more=priced_judge)
        ran = run_draft(project, server, "--allow-unpriced", more=("teacher.model=my-own",))
    assert ran.returncode == 0, ran.stderr
    assert "unknown USD" in estimate.stdout
    assert re.search(r"describe .* unknown", mixed.stderr)
    assert re.search(r"judge .* 0\.\d{4}", mixed.stderr)
    for output in (estimate.stderr, ran.stderr):
        assert output.count("no price for my-own: spend is counted as 0, and budget.usd has no effect") == 1
    assert read_drafts(project)["teacher"].unique().to_list() == ["my-own"]


def test_key_is_only_in_the_header(project: Path) -> None:
    echo = make_fault_schedule(1.0, status_fault(400, message=f"bad request with key {KEY}"))
    with chat_server(answer_form, echo) as server:
        result = run_draft(project, server)
        assert KEY in server.keys[0]
    assert result.returncode == 1
    output = result.stdout + result.stderr
    assert "bad request with key" in output + (project / "reports/failures.csv").read_text()
    for file in (project / "reports").rglob("*"):
        output += file.read_text(errors="replace") if file.is_file() else ""
    for file in answer_store_path(project).parent.iterdir():
        output += file.read_bytes().decode(errors="replace")
    assert KEY not in output


def test_repeated_reasons_are_joined() -> None:
    assert join_reasons(["no JSON", "no JSON", "cut", "no JSON"], "; ") == "no JSON (2 times); cut; no JSON"


def test_prior_request_has_several_images(project: Path) -> None:
    with chat_server(answer_form) as server:
        before = run(project, "prior", "--dry-run", settings=endpoint_settings(server))
        assert before.returncode == 0, before.stderr
        assert server.requests == []
        ran = run(project, "prior", settings=endpoint_settings(server), OPENAI_API_KEY=KEY)
        assert ran.returncode == 0, ran.stderr
        assert len(server.requests) == parse_request_count(before)
        after = run(project, "prior", "--dry-run", settings=endpoint_settings(server))
        anew = run(project, "prior", "--dry-run", "--refresh", settings=endpoint_settings(server))
        assert (parse_request_count(after), parse_request_count(anew)) == (0, parse_request_count(before))
        count = len(server.requests)
        assert f"{count} priors, {count} requests" in before.stdout
        assert f"prior: {count}/{count} priors" in ran.stderr
        assert {get_form_name(body) for body in server.requests} == {"priortext"}
        assert max(len(decode_images(body)) for body in server.requests) == 4
    table = pl.read_parquet(project / "data/prior/prior.parquet")
    assert set(table["author"]) == {"gpt-4.1"}
    assert table.height == len(server.requests)
    refused = run(project, "prior", "--dry-run")
    assert "prior --dry-run: teacher.backend is offline, which queries no server" in refused.stderr


def test_endpoint_drafts_become_a_valid_corpus(project: Path) -> None:
    with chat_server(answer_form) as server:
        for verb in ("patch", "draft", "assemble"):
            ran = run(project, verb, settings=endpoint_settings(server), OPENAI_API_KEY=KEY)
            assert ran.returncode == 0, ran.stderr
    assert run(project, "verify").returncode == 0
    rows = pl.read_parquet(project / "data/indus_cot/data/train-*.parquet")
    assert set(rows["teacher"]) == {"gpt-4.1"}
    assert (rows["judge_scores"].list.len() == 2).all()
    assert (rows["cost_usd"] > 0).all()


def test_the_scripted_teacher_reads_the_finding() -> None:
    finding = "There is a defect of type dent (a hollow), at [1, 2, 3, 4], [5, 6, 7, 8].\n"
    assert parse_finding(finding) == ("dent", [[1, 2, 3, 4], [5, 6, 7, 8]])
