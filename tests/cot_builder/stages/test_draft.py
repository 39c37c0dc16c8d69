"""`indus-cot draft` with a teacher behind an endpoint: the real command against a real server on loopback."""

import base64
import csv
import hashlib
import json
import os
import random
import re
import shutil
import signal
import subprocess
import threading
from collections import Counter
from collections.abc import Callable
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from cot_builder.endpoint.store import Answers, store
from cot_builder.teacher.endpoint import in_a_row
from tests.helpers.pipeline import SMALL, command, forked, new_project, run
from tests.helpers.scripted_teacher import answer, finding
from tests.servers.chat_server import (
    CUT,
    DROPPED,
    EMPTY,
    FILTERED,
    MALFORMED,
    REFUSED,
    TRUNCATED,
    ChatServer,
    Fault,
    chat_server,
    status,
    text_of,
)

KEY = "sk-not-a-real-key-0123456789"
FEW = ("select.samples=24",)
CONCURRENCY = 8
KILLS = 20


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A project up to `prior`, with the offline teacher's priors."""
    project = new_project(tmp_path_factory.mktemp("endpoint"))
    sets = ("real_iad", "mvtec_ad", "visa", "mpdd", "dtd", "sdd")
    for stage in (*(("pull", name) for name in sets), ("select",), ("prior",)):
        done = run(project, *stage, settings=(*SMALL, *FEW))
        assert done.returncode == 0, done.stderr
    return project


@pytest.fixture
def project(prepared: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(prepared, tmp_path / "project", symlinks=True))


def settings(server: ChatServer | str, *more: str) -> tuple[str, ...]:
    url = server if isinstance(server, str) else server.url
    return (
        *SMALL, *FEW, "teacher.backend=endpoint", f"teacher.base_url={url}", "teacher.model=gpt-4.1",
        f"compute.endpoint.concurrency={CONCURRENCY}", "compute.endpoint.backoff_s=0.01", *more,
    )  # fmt: skip


def draft(
    project: Path, server: ChatServer | str, *flags: str, more: tuple[str, ...] = (), key: str = KEY
) -> subprocess.CompletedProcess[str]:
    return run(project, "draft", *flags, settings=settings(server, *more), OPENAI_API_KEY=key)


def drafts(project: Path) -> pl.DataFrame:
    return pl.read_parquet(project / "data/draft/trajectory.parquet").sort("draft_id")


def form(body: dict[str, Any]) -> str:
    return body["response_format"]["json_schema"]["name"]


def images(body: dict[str, Any]) -> list[bytes]:
    urls = [
        part["image_url"]["url"]
        for message in body["messages"]
        if not isinstance(message["content"], str)
        for part in message["content"]
        if part["type"] == "image_url"
    ]
    return [base64.b64decode(url.partition(",")[2]) for url in urls]


def key_of(body: dict[str, Any]) -> str:
    """The key under which the answer to a request of candidate 0 is kept."""
    text = json.dumps(body)
    for url in set(re.findall(r"data:image/\w+;base64,[A-Za-z0-9+/=]+", text)):
        digest = hashlib.sha256(base64.b64decode(url.partition(",")[2])).hexdigest()
        text = text.replace(url, f"sha256:{digest}")
    return hashlib.sha256(json.dumps([json.loads(text), 0], sort_keys=True).encode()).hexdigest()


def ledger(project: Path) -> dict[str, str]:
    with (project / "reports/failures.csv").open(newline="", encoding="utf-8") as file:
        return {row["sample_id"]: row["why"] for row in csv.DictReader(file)}


def asked(result: subprocess.CompletedProcess[str]) -> int:
    found = re.search(r"to ask: (\d+) requests", result.stdout)
    assert found, result.stdout + result.stderr
    return int(found.group(1))


def test_an_estimate_asks_nothing_and_is_what_the_run_then_asks(project: Path) -> None:
    with chat_server(answer) as server:
        before = draft(project, server, "--dry-run", more=("draft.candidates=2",), key="")
        assert before.returncode == 0, before.stderr
        assert server.requests == []
        ran = draft(project, server, more=("draft.candidates=2",))
        assert ran.returncode == 0, ran.stderr
        assert len(server.requests) == asked(before)
        after = draft(project, server, "--dry-run", more=("draft.candidates=2",))
        assert asked(after) == 0
        assert "100 % of them kept" in after.stdout
        kept = drafts(project)
        again = draft(project, server, more=("draft.candidates=2",))
        assert again.returncode == 0, again.stderr
        assert len(server.requests) == asked(before)
    assert drafts(project).equals(kept)
    with chat_server(answer) as server:
        anew = draft(project, server, "--dry-run", "--refresh", more=("draft.candidates=2",))
        assert (asked(anew), server.requests) == (asked(before), [])
    assert "24 trajectories, 0 rejected, 24 not the best candidate" in ran.stderr
    assert re.search(r"cost of these answers, whenever paid: 0\.\d{4} USD", ran.stderr)
    assert "have no trajectory" not in ran.stderr + after.stdout
    assert (kept["judge_scores"].list.len() == 2).all()
    rejected = pl.read_parquet(project / "data/draft/rejected.parquet")
    assert rejected.height == kept.height == 24
    assert {reason["gate"] for reasons in rejected["violations"] for reason in reasons} == {"judge"}
    gates = json.loads((project / "reports/gates.json").read_text())
    assert (gates["passed"], gates["rejected"], gates["not_the_best_candidate"]) == (24, 0, 24)
    assert "24 trajectories, 0 rejected, 24 not the best candidate" in (project / "reports/gates.md").read_text()
    figures = gates["teacher"]
    answers = Answers(store(project))
    assert figures["usd"] == pytest.approx(answers.spent()[0], abs=1e-5)
    answers.close()


def test_the_truth_is_told_to_whoever_writes_and_to_nobody_else(project: Path) -> None:
    with chat_server(answer) as server:
        ran = draft(project, server, more=("draft.blind=true",))
        assert ran.returncode == 0, ran.stderr
        requests = server.requests
    told = {name: [body for body in requests if form(body) == name] for name in {form(body) for body in requests}}
    assert set(told) == {"blind", "description", "composition", "audit", "scores"}
    for name, bodies in told.items():
        private = [bool(re.search("[Ff]inding", text_of(body))) for body in bodies]
        assert all(private) if name in ("description", "composition") else not any(private), name
    assert all("defect of type" not in text_of(body) for body in told["blind"])
    # No overlay: what is sent is a published file or what a tool returned.
    samples = pl.read_parquet(project / "data/select/sample.parquet")
    observed = pl.read_parquet(project / "data/draft/observation.parquet")
    known = {*samples["image_sha256"], *observed["sha256"]}
    assert {hashlib.sha256(data).hexdigest() for body in requests for data in images(body)} <= known
    assert drafts(project)["blind_answer"].null_count() == 0


def by_hash(share: float, *faults: Fault) -> Callable[[dict[str, Any], int], Fault | None]:
    """A share of the first arrivals of each request meets one of ``faults``, chosen by the request."""
    seen: Counter[str] = Counter()

    def choose(body: dict[str, Any], _number: int) -> Fault | None:
        digest = hashlib.sha256(json.dumps(body, sort_keys=True).encode()).digest()
        seen[digest.hex()] += 1
        bad = seen[digest.hex()] == 1 and digest[0] < 256 * share
        return faults[digest[1] % len(faults)] if bad else None

    return choose


def test_bad_weather_changes_nothing_but_the_way(project: Path, tmp_path: Path) -> None:
    calm = Path(shutil.copytree(project, tmp_path / "calm", symlinks=True))
    with chat_server(answer) as server:
        assert draft(calm, server).returncode == 0
    weather = (
        status(429), status(429, "0.05"), status(500), status(502), status(503),
        DROPPED, TRUNCATED, MALFORMED, EMPTY, REFUSED, FILTERED, CUT,
    )  # fmt: skip
    with chat_server(answer, by_hash(0.5, *weather)) as server:
        ran = draft(project, server)
        assert ran.returncode == 0, ran.stderr
        assert len(server.requests) > len(server.answered)
    assert drafts(project).drop("cost_usd").equals(drafts(calm).drop("cost_usd"))
    assert ledger(project) == {}


def careless(body: dict[str, Any]) -> dict[str, Any]:
    """First drafts are wrong, each in its own way; a corrected one is right."""
    right = answer(body)
    if "A check of the example found" in text_of(body) or "could not be read" in text_of(body):
        return right
    way = hashlib.sha256(json.dumps(body["messages"][1], sort_keys=True).encode()).digest()[0] % 6
    if form(body) == "description":
        extra = {**dict.fromkeys(("operator", "points", "mm_per_px", "category", "view")), "why": "to see"}
        calls = [
            {"tool": "microscope", "region": None, **extra},
            {"tool": "crop", "region": [900, 900, 4000, 4000], **extra},
        ]
        return right | {"calls": [calls[way % 2]]} if way < 2 and "were refused" not in text_of(body) else right
    if form(body) != "composition":
        return right
    flipped = {"answer": "No", "boxes": [], "type": None} if right["answer"] == "Yes" else right
    last = right["thoughts"][-1]
    leaked = {"thoughts": [*right["thoughts"][:-1], f"As the annotation says, {last[0].lower()}{last[1:]}"]}
    return right | (flipped, leaked, {"thoughts": []}, {"type": "rust"}, {"boxes": [[5, 5, 2, 2]]}, {})[way]


def test_what_is_wrong_goes_back_to_the_teacher_and_comes_right(project: Path) -> None:
    with chat_server(careless) as server:
        ran = draft(project, server)
    assert ran.returncode == 0, ran.stderr
    kept = drafts(project)
    assert kept.height == 24
    assert ledger(project) == {}
    assert kept["corrections"].max() >= 1
    assert not any("annotation" in text for text in kept["trajectory"])


def test_what_stays_wrong_is_in_the_ledger_and_only_that_is_tried_again(project: Path) -> None:
    samples = pl.read_parquet(project / "data/select/sample.parquet")
    stubborn = set(samples["image_sha256"].sort().head(3))
    mended = False

    def teacher(body: dict[str, Any]) -> dict[str, Any] | str:
        bad = hashlib.sha256(images(body)[0]).hexdigest() in stubborn and not mended
        if bad and form(body) == "composition":
            return answer(body) | {"thoughts": ["I was told that there is a defect, so there is one."] * 9}
        return answer(body)

    with chat_server(teacher) as server:
        ran = draft(project, server)
        assert ran.returncode == 0, ran.stderr
        failed = ledger(project)
        assert len(failed) == 3
        assert all("3 drafts had no valid form: 9 thoughts" in why for why in failed.values())
        told = (
            "3 of 24 samples have no trajectory: reports/failures.csv says why; "
            "`indus-cot draft --only-failed` asks about them again"
        )
        assert ran.stderr.splitlines()[-1] == told
        examined = run(project, "doctor", settings=settings(server), OPENAI_API_KEY=KEY).stdout
        assert server.url in examined
        assert "3 samples have no trajectory" in examined
        sent = len(server.requests)
        mended = True
        assert draft(project, server).returncode == 0
        plain = draft(project, server, "--dry-run")
        assert asked(plain) == 0
        assert "3 samples of the last run have no trajectory; only --only-failed asks" in plain.stdout
        estimate = draft(project, server, "--dry-run", "--only-failed")
        assert len(server.requests) == sent
        again = draft(project, server, "--only-failed")
        assert again.returncode == 0, again.stderr
        redone = server.requests[sent:]
    assert len(redone) == asked(estimate)
    assert {hashlib.sha256(images(body)[0]).hexdigest() for body in redone} == stubborn
    assert ledger(project) == {}
    assert drafts(project).height == 24


def start(project: Path, server: ChatServer, *more: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        command("draft", settings=settings(server, "teacher.judge_readings=1", *more)),
        cwd=project,
        env=os.environ | {"OPENAI_API_KEY": KEY, "PYTHONPATH": str(project)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def kept_keys(project: Path, bodies: list[dict[str, Any]]) -> set[str]:
    answers = Answers(store(project))
    kept = {key for body in bodies if answers.has(key := key_of(body))}
    answers.close()
    return kept


def test_killed_at_random_moments_it_asks_nothing_twice_and_ends_the_same(project: Path, tmp_path: Path) -> None:
    calm = Path(shutil.copytree(project, tmp_path / "calm", symlinks=True))
    with chat_server(answer) as server:
        assert draft(calm, server, more=("teacher.judge_readings=1",)).returncode == 0
        whole = len(server.requests)
    dice = random.Random(5)
    running: BaseProcess | None = None
    countdown = 0

    def killing(body: dict[str, Any]) -> dict[str, Any]:
        # The kill comes as a request arrives, so that it falls between any two steps of the run.
        nonlocal countdown
        countdown -= 1
        if countdown == 0 and running is not None:
            running.kill()
        return answer(body)

    kills = 0
    with chat_server(killing, latency_s=0.005) as server:
        while kills < KILLS:
            before, answered = len(server.requests), len(server.answered)
            stored = kept_keys(project, server.requests)
            countdown = dice.randint(1, max(2, whole // KILLS))
            judged = settings(server, "teacher.judge_readings=1")
            running = forked(project, "draft", settings=judged, OPENAI_API_KEY=KEY)
            running.join()
            if running.exitcode == 0:
                break
            assert running.exitcode == -signal.SIGKILL
            kills += 1
            new = server.requests[before:]
            assert not {key_of(body) for body in new} & stored
            lost = {key_of(body) for body in server.answered[answered:]} - kept_keys(project, new)
            assert len(lost) <= CONCURRENCY
        countdown = 0
        stored = kept_keys(project, server.requests)
        before = len(server.requests)
        ran = draft(project, server, more=("teacher.judge_readings=1",))
        assert ran.returncode == 0, ran.stderr
        assert not {key_of(body) for body in server.requests[before:]} & stored
    assert kills >= KILLS // 2
    assert drafts(project).equals(drafts(calm))


def test_ctrl_c_waits_for_what_is_under_way_and_keeps_it(project: Path) -> None:
    running: subprocess.Popen[str] | None = None
    interrupted = False

    def interrupting(body: dict[str, Any]) -> dict[str, Any]:
        nonlocal interrupted
        if len(server.requests) >= 20 and running is not None and not interrupted:
            interrupted = True
            running.send_signal(signal.SIGINT)
        return answer(body)

    with chat_server(interrupting, latency_s=0.05) as server:
        running = start(project, server)
        _, told = running.communicate(timeout=60)
        assert running.returncode == 130, told
        assert "stopping" in told
        assert told.splitlines()[-2:] == [
            "stopped; every answer is kept: the same command goes on from here",
            "interrupted; nothing half-written was left behind",
        ]
        assert "Traceback" not in told
        stored = kept_keys(project, server.requests)
        assert stored == {key_of(body) for body in server.requests}
        before = len(server.requests)
        assert not (project / "data/draft").exists()
        assert draft(project, server, more=("teacher.judge_readings=1",)).returncode == 0
        assert not {key_of(body) for body in server.requests[before:]} & stored


def test_the_budget_stops_the_run_and_raising_it_goes_on(project: Path) -> None:
    with chat_server(answer) as server:
        stopped = draft(project, server, more=("budget.tokens=30000",))
        assert stopped.returncode == 1
        assert "the budget ends here" in stopped.stderr
        assert "budget.tokens=" in stopped.stderr
        assert 0 < server.tokens <= 30000
        assert not (project / "data/draft").exists()
        ran = draft(project, server)
        assert ran.returncode == 0, ran.stderr
        assert len({json.dumps(body, sort_keys=True) for body in server.requests}) == len(server.requests) - 24
    # Each draft is judged twice with one and the same request body: 24 bodies come a second time.


@pytest.mark.parametrize(
    ("more", "flags", "key", "told"),
    [
        (("teacher.model=nobody-knows",), (), KEY, "no price for the model 'nobody-knows'"),
        (('teacher.model=""',), (), KEY, "teacher.model is empty"),
        ((), (), "", "OPENAI_API_KEY"),
        (("teacher.base_url=http://127.0.0.1:9/v1", "compute.endpoint.attempts=2"), (), KEY, "check that the server runs"),
        (("teacher.base_url=http://127.0.0.1:9/v1", "compute.endpoint.attempts=2"), (), KEY, "retrying: no connection"),
        (("teacher.base_url=127.0.0.1:9",), (), KEY, "teacher.base_url: must begin with http:// or https://"),
        (("teacher.backend=offline",), ("--dry-run",), KEY, "draft --dry-run: teacher.backend is offline, which asks nobody"),
        (("teacher.backend=offline",), ("--refresh",), KEY, "draft --refresh: teacher.backend is offline"),
        (("teacher.backend=offline",), ("--only-failed",), KEY, "draft --only-failed: teacher.backend is offline"),
        ((), ("--only-failed",), KEY, "names none of the selected samples"),
    ],
)  # fmt: skip
def test_what_cannot_run_says_why_in_one_message(
    project: Path, more: tuple[str, ...], flags: tuple[str, ...], key: str, told: str
) -> None:
    with chat_server(answer) as server:
        result = draft(project, server, *flags, more=more, key=key)
        assert server.requests == []
    assert result.returncode == 1
    assert told in " ".join(result.stderr.split())
    assert "Traceback" not in result.stderr
    assert not (project / "data/draft").exists()


def test_two_runs_do_not_spend_against_one_cap_at_once(project: Path) -> None:
    begun, release = threading.Event(), threading.Event()

    def holding(body: dict[str, Any]) -> dict[str, Any]:
        begun.set()
        assert release.wait(60)
        return answer(body)

    with chat_server(holding) as server:
        first = start(project, server)
        assert begun.wait(60)
        second = run(project, "prior", settings=settings(server), OPENAI_API_KEY=KEY)
        release.set()
        _, told = first.communicate(timeout=120)
    assert first.returncode == 0, told
    assert second.returncode == 1
    assert "another run of this project is asking the endpoint" in second.stderr
    assert "Traceback" not in second.stderr


def test_an_unpriced_model_runs_where_that_is_allowed(project: Path) -> None:
    with chat_server(answer) as server:
        estimate = draft(project, server, "--dry-run", "--allow-unpriced", more=("teacher.model=my-own",))
        priced_judge = ("teacher.model=my-own", "teacher.judge_model=gpt-4.1")
        mixed = draft(project, server, "--dry-run", "--allow-unpriced", more=priced_judge)
        ran = draft(project, server, "--allow-unpriced", more=("teacher.model=my-own",))
    assert ran.returncode == 0, ran.stderr
    assert "unknown USD" in estimate.stdout
    assert re.search(r"describe .* unknown", mixed.stderr)
    assert re.search(r"judge .* 0\.\d{4}", mixed.stderr)
    for told in (estimate.stderr, ran.stderr):
        assert told.count("no price for my-own: spend is counted as 0, budget.usd cannot hold") == 1
    assert drafts(project)["teacher"].unique().to_list() == ["my-own"]


def test_the_key_is_nowhere_but_in_the_header(project: Path) -> None:
    echo = by_hash(1.0, status(400, message=f"bad request with key {KEY}"))
    with chat_server(answer, echo) as server:
        result = draft(project, server)
        assert KEY in server.keys[0]
    assert result.returncode == 1
    told = result.stdout + result.stderr
    assert "bad request with key" in told + (project / "reports/failures.csv").read_text()
    for file in (project / "reports").rglob("*"):
        told += file.read_text(errors="replace") if file.is_file() else ""
    for file in store(project).parent.iterdir():
        told += file.read_bytes().decode(errors="replace")
    assert KEY not in told


def test_new_prices_change_what_is_to_come_and_not_what_was_paid(project: Path) -> None:
    with chat_server(answer) as server:
        assert draft(project, server).returncode == 0
        before, sent = drafts(project), len(server.requests)
        prices = project / "prices.yaml"
        prices.write_text(prices.read_text().replace("gpt-4.1: {input: 2.00", "gpt-4.1: {input: 200.00"))
        assert draft(project, server).returncode == 0
        assert len(server.requests) == sent
        estimate = draft(project, server, "--dry-run", more=("draft.blind=true",))
    assert drafts(project).equals(before)
    assert asked(estimate) == 24


def test_a_damaged_store_is_one_message_and_what_can_be_read_is_used_again(project: Path) -> None:
    with chat_server(answer) as server:
        assert draft(project, server).returncode == 0
        before, sent = drafts(project), len(server.requests)
        file = store(project)
        data = file.read_bytes()
        page = len(data) // 4096 // 2 * 4096
        sound = run(project, "cache", "--salvage")
        assert "the store is sound; nothing to salvage" in sound.stdout
        assert file.read_bytes() == data
        file.write_bytes(data[:page] + b"\xff" * 4096 + data[page + 4096 :])
        result = draft(project, server)
        if result.returncode:
            assert "indus-cot cache --salvage" in result.stderr
            assert "Traceback" not in result.stderr
        assert run(project, "cache", "--salvage").returncode == 0
        again = draft(project, server)
        assert again.returncode == 0, again.stderr
        assert len(server.requests) < 2 * sent
    assert drafts(project).drop("cost_usd").equals(before.drop("cost_usd"))


def test_a_store_that_does_not_open_is_a_fault_to_the_doctor(project: Path) -> None:
    store(project).parent.mkdir()
    store(project).write_bytes(b"no database at all" * 400)
    examined = run(project, "doctor", settings=settings("http://127.0.0.1:9/v1"), OPENAI_API_KEY=KEY)
    assert examined.returncode == 1
    assert "`indus-cot cache --salvage`" in examined.stdout


def test_what_the_cache_cannot_do_says_why(project: Path, tmp_path: Path) -> None:
    for flags in (("--older-than", "3"), ("--model", "gpt-4.1"), ("--salvage", "--model", "gpt-4.1")):
        result = run(project, "cache", *flags)
        assert (result.returncode, "add --prune" in result.stderr) == (1, True)
    (tmp_path / "elsewhere").mkdir()
    assert "run indus-cot in the project's folder" in run(tmp_path / "elsewhere", "cache").stderr


def test_equal_reasons_in_a_row_are_told_once() -> None:
    assert in_a_row(["no JSON", "no JSON", "cut", "no JSON"], "; ") == "no JSON (2 times); cut; no JSON"


def test_priors_are_worded_from_several_images_in_one_request(project: Path) -> None:
    with chat_server(answer) as server:
        before = run(project, "prior", "--dry-run", settings=settings(server))
        assert before.returncode == 0, before.stderr
        assert server.requests == []
        ran = run(project, "prior", settings=settings(server), OPENAI_API_KEY=KEY)
        assert ran.returncode == 0, ran.stderr
        assert len(server.requests) == asked(before)
        after = run(project, "prior", "--dry-run", settings=settings(server))
        anew = run(project, "prior", "--dry-run", "--refresh", settings=settings(server))
        assert (asked(after), asked(anew)) == (0, asked(before))
        count = len(server.requests)
        assert f"{count} priors, {count} requests" in before.stdout
        assert f"prior: {count}/{count} priors" in ran.stderr
        assert {form(body) for body in server.requests} == {"priortext"}
        assert max(len(images(body)) for body in server.requests) == 4
    table = pl.read_parquet(project / "data/prior/prior.parquet")
    assert set(table["author"]) == {"gpt-4.1"}
    assert table.height == len(server.requests)
    refused = run(project, "prior", "--dry-run")
    assert "prior --dry-run: teacher.backend is offline, which asks nobody and costs nothing" in refused.stderr


def test_its_drafts_become_a_corpus_that_verifies(project: Path) -> None:
    with chat_server(answer) as server:
        for verb in ("patch", "draft", "assemble"):
            ran = run(project, verb, settings=settings(server), OPENAI_API_KEY=KEY)
            assert ran.returncode == 0, ran.stderr
    assert run(project, "verify").returncode == 0
    rows = pl.read_parquet(project / "data/indus_cot/data/train-*.parquet")
    assert set(rows["teacher"]) == {"gpt-4.1"}
    assert (rows["judge_scores"].list.len() == 2).all()
    assert (rows["cost_usd"] > 0).all()


def test_the_scripted_teacher_reads_the_finding() -> None:
    told = "There is a defect of type dent (a hollow), at [1, 2, 3, 4], [5, 6, 7, 8].\n"
    assert finding(told) == ("dent", [[1, 2, 3, 4], [5, 6, 7, 8]])
