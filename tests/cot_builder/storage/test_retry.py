"""Tests of retries with exponential backoff, and of waits requested by servers."""

import time
from collections.abc import Callable
from email.utils import formatdate
from types import SimpleNamespace

import pytest

from cot_builder.storage import retry
from cot_builder.storage.retry import TransientError, backoff, parse_wait, with_retries

LIMIT_S = 60.0


@pytest.fixture
def waits(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """Record the pauses instead of sleeping."""
    found: list[float] = []
    monkeypatch.setattr(retry, "time", SimpleNamespace(sleep=found.append, time=time.time))
    return found


def make_failing_action(times: int, wait: float | None = None) -> Callable[[], str]:
    """Make an action that fails ``times`` times."""
    left = [TransientError("busy", wait)] * times

    def act() -> str:
        if left:
            raise left.pop()
        return "done"

    return act


def test_pauses_double_until_it_succeeds(waits: list[float], capsys: pytest.CaptureFixture[str]) -> None:
    assert with_retries(make_failing_action(3), "server", 4, LIMIT_S) == "done"
    assert waits == [0.5, 1.0, 2.0]
    output = capsys.readouterr()
    assert "server: busy; retrying in 0.5 s" in output.out + output.err


def test_last_failure_is_raised_without_pause(waits: list[float]) -> None:
    with pytest.raises(TransientError, match="busy"):
        with_retries(make_failing_action(3), "server", 3, LIMIT_S)
    assert waits == [0.5, 1.0]


def test_requested_wait_replaces_the_pause(waits: list[float]) -> None:
    assert with_retries(make_failing_action(2, wait=60.0), "server", 3, LIMIT_S) == "done"
    assert waits == [60.0, 60.0]


def test_too_long_wait_ends_the_attempts(waits: list[float]) -> None:
    with pytest.raises(TransientError) as raised:
        with_retries(make_failing_action(1, wait=61.0), "server", 3, LIMIT_S)
    assert raised.value.wait == 61.0 and waits == []


@pytest.mark.parametrize("error", [KeyboardInterrupt, ValueError])
def test_other_errors_are_not_retried(waits: list[float], error: type[BaseException]) -> None:
    def act() -> None:
        raise error

    with pytest.raises(error):
        with_retries(act, "server", 3, LIMIT_S)
    assert waits == []


def test_ctrl_c_ends_the_pause_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(seconds: float) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(retry, "time", SimpleNamespace(sleep=interrupted))
    with pytest.raises(KeyboardInterrupt):
        with_retries(make_failing_action(1), "server", 3, LIMIT_S)


def test_backoff_doubles_up_to_its_limit() -> None:
    assert [backoff(attempt, first=2.0, longest=10.0) for attempt in range(4)] == [2.0, 4.0, 8.0, 10.0]


def test_wait_until_a_date() -> None:
    assert parse_wait(formatdate(time.time() + 30, usegmt=True)) == pytest.approx(30, abs=3)


@pytest.mark.parametrize(
    ("text", "wait"),
    [("20", 20), ("0.5", 0.5), (" 1 ", 1), ("6m0s", 360), ("250ms", 0.25), ("1h0m2.5s", 3602.5), ("0", 0)],
)
def test_waits_in_every_notation(text: str, wait: float) -> None:
    assert parse_wait(text) == pytest.approx(wait)


@pytest.mark.parametrize("text", ["", "soon", "-1", "1 day", "nan", "s", "5x3s"])
def test_no_wait_in_other_texts(text: str) -> None:
    assert parse_wait(text) is None
