"""Tests of progress output, on a terminal and elsewhere."""

import re
from io import StringIO

import pytest
from rich.console import Console

from cot_builder import progress


@pytest.mark.parametrize("share", [None, lambda number: (number + 1) / 8])
def test_progress_line(share: object, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(progress, "LINE_INTERVAL_S", 0.0)
    total = None if share else 8
    assert list(progress.track(range(8), "pull", total, lambda: "well", share)) == list(range(8))  # type: ignore[arg-type]
    *lines, last = capsys.readouterr().err.splitlines()
    of = "about 8" if share else "8"
    for number, line in enumerate(lines, start=1):
        assert re.fullmatch(rf"pull: {number}/{of}, \d+ s left, \d+\.\d/s, well", line)
    assert len(lines) == 8 and re.fullmatch(r"pull: 8 in \d+\.\d s, well", last)


def test_unknown_total_shows_no_remaining_time(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(progress, "LINE_INTERVAL_S", 0.0)
    list(progress.track(iter("ab"), "pull"))
    assert "left" not in capsys.readouterr().err


def test_terminal_shows_rate_with_estimated_total(monkeypatch: pytest.MonkeyPatch) -> None:
    shown = StringIO()
    console = Console(file=shown, force_terminal=True, width=120, color_system=None)
    monkeypatch.setattr(progress, "console", console)
    # The estimate of the total changes with every item.
    list(progress.track(range(50), "pull", share=lambda number: (number + 1) ** 2 / 2500))
    *_, last = (line for line in shown.getvalue().splitlines() if "pull" in line)
    assert re.search(r"50/50 \d+\.\d/s 0:00:00", last), last
