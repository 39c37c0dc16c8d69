"""Records a training: metrics and curves for DVC and the report, and a progress bar."""

import csv
import io
import json
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any

from cot_builder.progress import track
from cot_builder.storage.output import write_text

CURVE = "curve.csv"
FOLDER_OF_TERMS = "terms"
Logs = Sequence[Mapping[str, Any]]


def make_recorder(
    stage: str, reports: Path, columns: Sequence[str] = (), terms: Mapping[str, str] = MappingProxyType({})
) -> Any:
    """Return a callback that writes ``reports/<stage>/curve.csv`` and ``terms`` at every log and shows progress.

    It adds ``tokens_per_s``, summed over all processes, to the trainer's logs. The curve is written from the trainer's
    history, which is part of its checkpoints, so a resumed run continues the curve of the killed one.

    Args:
        stage: Name of the stage.
        reports: Folder of the reports.
        columns: See :func:`write_curves`.
        terms: See :func:`write_curves`.
    """
    from transformers import TrainerCallback

    class Recorder(TrainerCallback):
        def __init__(self) -> None:
            self._bar: Iterator[int] = iter(())
            self._seen = (0.0, 0.0)
            self._before = 0.0

        def on_train_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:  # noqa: ARG002
            # After a resume, GRPO continues the token count of its checkpoint, but SFT restarts from 0.
            held = float(state.num_input_tokens_seen)
            self._seen = (time.perf_counter(), held)
            counted = max((entry.get("num_tokens", 0.0) for entry in state.log_history), default=0.0)
            self._before = 0.0 if held else counted
            if state.is_world_process_zero:
                left = state.max_steps - state.global_step
                self._bar = track(range(left), stage, left)
                next(self._bar, None)

        def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:  # noqa: ARG002
            next(self._bar, None)

        def on_log(self, args: Any, state: Any, control: Any, **_: Any) -> None:  # noqa: ARG002
            entry = state.log_history[-1]
            if "num_tokens" in entry and "loss" in entry:
                then, before = self._seen
                self._seen = (time.perf_counter(), entry["num_tokens"])
                entry["tokens_per_s"] = (entry["num_tokens"] - before) / (self._seen[0] - then)
                entry["num_tokens"] += self._before
            if state.is_world_process_zero:
                write_curves(state.log_history, reports, stage, columns, terms)

    return Recorder()


def silence_logs(trainer: Any) -> None:
    """Stop a trainer from printing its logs; the recorder writes them to files."""
    from transformers.trainer_callback import PrinterCallback

    trainer.remove_callback(PrinterCallback)


def write_curves(history: Logs, reports: Path, stage: str, columns: Sequence[str], terms: Mapping[str, str]) -> None:
    """Write ``reports/<stage>/curve.csv``, and ``terms/<term>.csv`` for each logged term of the reward.

    `dvc plots` draws every file of the folder ``terms``, so a new term needs no line in dvc.yaml.

    Args:
        history: History of the trainer.
        reports: Folder of the reports.
        stage: Name of the stage.
        columns: Columns that the curve always has, because `dvc plots` draws them; empty if nothing was logged.
        terms: Maps the name of each term to its column of the curve.
    """
    write_curve(history, reports / stage / CURVE, columns)
    for name, column in terms.items():
        values = [{"step": entry["step"], "value": entry[column]} for entry in history if column in entry]
        path = reports / stage / FOLDER_OF_TERMS / f"{name}.csv"
        if values:
            write_table(values, ("step", "value"), path)
        else:
            # Delete the file of an earlier run that had the term.
            path.unlink(missing_ok=True)


def write_curve(history: Logs, path: Path, columns: Sequence[str] = ()) -> None:
    """Write the training logs of a trainer's history as CSV: a row per log, a column per quantity, ``step`` first.

    ``columns`` are written even if nothing was logged for them.
    """
    logs = [entry for entry in history if "loss" in entry]
    write_table(logs, ["step", *sorted({*columns, *(name for entry in logs for name in entry)} - {"step"})], path)


def write_table(rows: Logs, columns: Sequence[str], path: Path) -> None:
    """Write rows as CSV, with numbers rounded to six significant digits."""
    text = io.StringIO()
    writer = csv.DictWriter(text, columns, lineterminator="\n")
    writer.writeheader()
    writer.writerows({name: _round_figure(value) for name, value in row.items()} for row in rows)
    write_text(path, text.getvalue())


def write_metrics(figures: Mapping[str, Any], path: Path) -> None:
    """Write figures as one JSON object, which DVC reads as metrics."""
    write_text(path, json.dumps({name: _round_figure(value) for name, value in figures.items()}, indent=1) + "\n")


def _round_figure(value: Any) -> Any:
    return float(f"{value:.6g}") if isinstance(value, float) else value
