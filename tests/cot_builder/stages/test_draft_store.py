"""Tests of the stored answers of `indus-cot draft`: prices, a damaged store, `indus-cot cache`."""

from pathlib import Path

from cot_builder.endpoint.store import answer_store_path
from tests.helpers.drafting import KEY, endpoint_settings, parse_request_count, read_drafts, run_draft
from tests.helpers.pipeline import run
from tests.helpers.scripted_teacher import answer_form
from tests.servers.chat_server import chat_server


def test_new_prices_keep_past_costs(project: Path) -> None:
    with chat_server(answer_form) as server:
        assert run_draft(project, server).returncode == 0
        before, sent = read_drafts(project), len(server.requests)
        prices = project / "prices.yaml"
        prices.write_text(prices.read_text().replace("gpt-4.1: {input: 2.00", "gpt-4.1: {input: 200.00"))
        assert run_draft(project, server).returncode == 0
        assert len(server.requests) == sent
        estimate = run_draft(project, server, "--dry-run", more=("draft.blind=true",))
    assert read_drafts(project).equals(before)
    assert parse_request_count(estimate) == 24


def test_damaged_store_is_salvaged(project: Path) -> None:
    with chat_server(answer_form) as server:
        assert run_draft(project, server).returncode == 0
        before, sent = read_drafts(project), len(server.requests)
        file = answer_store_path(project)
        data = file.read_bytes()
        page = len(data) // 4096 // 2 * 4096
        sound = run(project, "cache", "--salvage")
        assert "the cache is not damaged; nothing to salvage" in sound.stdout
        assert file.read_bytes() == data
        file.write_bytes(data[:page] + b"\xff" * 4096 + data[page + 4096 :])
        result = run_draft(project, server)
        if result.returncode:
            assert "indus-cot cache --salvage" in result.stderr
            assert "Traceback" not in result.stderr
        assert run(project, "cache", "--salvage").returncode == 0
        again = run_draft(project, server)
        assert again.returncode == 0, again.stderr
        assert len(server.requests) < 2 * sent
    assert read_drafts(project).drop("cost_usd").equals(before.drop("cost_usd"))


def test_doctor_reports_an_unreadable_store(project: Path) -> None:
    answer_store_path(project).parent.mkdir()
    answer_store_path(project).write_bytes(b"no database at all" * 400)
    examined = run(project, "doctor", settings=endpoint_settings("http://127.0.0.1:9/v1"), OPENAI_API_KEY=KEY)
    assert examined.returncode == 1
    assert "`indus-cot cache --salvage`" in examined.stdout


def test_invalid_cache_options(project: Path, tmp_path: Path) -> None:
    for flags in (("--older-than", "3"), ("--model", "gpt-4.1"), ("--salvage", "--model", "gpt-4.1")):
        result = run(project, "cache", *flags)
        assert (result.returncode, "add --prune" in result.stderr) == (1, True)
    (tmp_path / "elsewhere").mkdir()
    assert "run indus-cot in the project's folder" in run(tmp_path / "elsewhere", "cache").stderr
