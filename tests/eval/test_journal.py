"""The journal keeps finished items through kills and faults, and asks again if the answer could differ."""

import hashlib
import json
import os
import random
import shutil
import signal
import subprocess
import threading
from pathlib import Path
from typing import Any

import pytest

from cot_builder.inspection.episode import GeneratedTurn
from cot_builder.storage import code
from eval.evaluate import POLICY_MODULES
from tests.helpers.evaluated import CALL, NO, endpoint_settings, read_held_out, read_rows
from tests.helpers.paths import ROOT
from tests.helpers.pipeline import ENVIRONMENT, command
from tests.helpers.small_policy import FITTED
from tests.servers.chat_server import Body, chat_server


def test_changed_code_asks_again(run: Any, monkeypatch: pytest.MonkeyPatch) -> None:
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
        code.clear_caches()
        printed = run("evaluate.policy=coin")
        assert ("finished already" not in printed) == again, name
        assert ("16 images were answered by other code" in printed) == again, name
    monkeypatch.undo()
    code.clear_caches()


@pytest.mark.parametrize(
    ("policy", "module"), [("transformers", "local"), ("vllm", "local"), ("endpoint", "served"), ("coin", "scripted")]
)
def test_code_key_covers_answering_files(policy: str, module: str) -> None:
    """The code key covers every module that the policy's module imports, directly or indirectly."""
    known = {path.as_posix() for path in code.list_hashed_files("eval.policies", POLICY_MODULES[policy])}
    assert f"eval/{module}.py" in known and {"schemas/taxonomy.yaml", "eval/parse.yaml"} <= known
    assert {"cot_builder/inspection/toolbox.py", "cot_builder/inspection/rendering.py"} <= known
    assert not {name for name in known if name.startswith(("eval/metrics", "eval/report", "cot_builder/stages"))}


def test_answers_of_former_key_are_imported(run: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """A journal of version 0.1 lists file hashes; if a current code key is equivalent, nothing is asked again."""
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
    monkeypatch.setattr("eval.journal.FORMER_KEYS", table)
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
    # Killed during the import: the next run imports the rest.
    kept.write_text("".join(kept.read_text().splitlines(keepends=True)[:4]))
    assert "16 of 16 images are finished already" in run("evaluate.policy=coin")


def test_new_seed_or_weights_ask_again(run: Any) -> None:
    def asked(*settings: str) -> int:
        before = len(server.requests)
        run(*endpoint_settings(server, "evaluate.limit=2", *settings))
        # Only the answer cache is left: the journal holds nothing of another run.
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
            hashes.append(read_held_out().run.model_sha256)
        assert None not in hashes and hashes[0] != hashes[1]
    with pytest.raises(AssertionError, match="null leaves it to a server"):
        run("evaluate.model=models/mine", "evaluate.temperature=null")


def test_items_are_stored_before_next_turn(run: Any, policy: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Reads the journal whenever the model starts to write: a kill at that point leaves exactly this."""
    kept: list[tuple[int, int]] = []
    ended = 0

    def writer(*_: Any) -> Any:
        def write(chats: Any) -> list[GeneratedTurn]:
            nonlocal ended
            (journal,) = Path(".indus-cot/evaluate").glob("*.jsonl")
            kept.append((len(journal.read_bytes().splitlines()) - 1, ended))
            said = [NO if len(chat) > 2 or number == 0 else CALL for number, chat in enumerate(chats)]
            ended += said.count(NO)
            return [GeneratedTurn(text) for text in said]

        return write

    monkeypatch.setattr("eval.local.make_writer", writer)
    run(f"evaluate.model={policy / FITTED}", "evaluate.limit=7", "evaluate.batch=3")
    assert len(kept) > 3 and any(0 < lines < 7 for lines, _ in kept)
    assert all(lines == finished for lines, finished in kept), kept
    assert read_rows().height == 7 and read_rows()["margin"].is_not_null().all()


@pytest.mark.parametrize("end", ["budget", "disk"])
def test_stopped_run_keeps_finished_items(run: Any, monkeypatch: pytest.MonkeyPatch, end: str) -> None:
    one = "compute.endpoint.concurrency=1"
    usage = shutil.disk_usage(".")
    with chat_server(lambda _: NO) as server:
        with monkeypatch.context() as patch:
            if end == "disk":
                patch.setattr(
                    shutil, "disk_usage", lambda _: usage._replace(free=1000 if len(server.requests) > 4 else 2**40)
                )
            with pytest.raises(AssertionError, match="budget limit reached" if end == "budget" else "disk is full"):
                run(*endpoint_settings(server, one, *(["budget.tokens=9000"] if end == "budget" else [])))
        (journal,) = Path(".indus-cot/evaluate").glob("*.jsonl")
        kept = len(journal.read_bytes().splitlines()) - 1
        assert 0 < kept == len(server.requests) < 16
        assert not Path("results/held_out").exists()
        assert f"{kept} of 16 images are finished already" in run(*endpoint_settings(server))
    assert len(server.requests) == 16 and set(read_rows()["answer"]) == {"No"}


@pytest.mark.slow
def test_killed_run_keeps_finished_items(run: Any) -> None:
    """SIGKILL at random moments, early and late: finished items are not asked again, even after an incomplete line.

    One inspection runs at a time, so a second question means that the first item is finished. A process about to be
    killed gets no further answer, so that it cannot finish first.
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
        settings = endpoint_settings(server, *one)
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
        # Cached answers could hide items that the journal lost.
        for path in Path(".indus-cot").glob("answers.sqlite*"):
            path.unlink()
        before = len(server.requests)
        run(*settings)
        assert len(server.requests) - before == 16 - len(kept[-1])
    assert read_rows().height == 16 and set(read_rows()["answer"]) == {"No"}
