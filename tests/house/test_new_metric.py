"""A new metric in one file: it is computed with its interval, stored, and shown on the results page."""

import json
from pathlib import Path
from typing import Any

import pytest

from cot_builder.storage.results import METRICS_FILE, PREDICTIONS_FILE
from eval.metrics import compute_metrics, read_metrics, write_metrics
from schemas.prediction import PREDICTION
from tests.helpers.pipeline import new_project
from tests.helpers.predictions import UNKNOWN_CONTAMINATION, make_listing, make_mpdd_predictions, make_run
from tests.house.product_copy import run_copy

pytestmark = pytest.mark.slow

METRIC = '''
"""The figure of alarms."""

from eval.metrics.arrays import PredictionArrays
from eval.metrics.figure import Share, figure


@figure("false alarms", needs=("normal",))
def false_alarms(images: PredictionArrays) -> Share:
    """Share of the normal images that were taken for defective."""
    return Share(images.normal & images.said_yes, images.normal)
'''
PAGE = """
import json

import eval.metrics
from cot_builder.storage.workspace import Workspace
from eval.report.results import read_results

print(json.dumps([eval.metrics.__file__, read_results(Workspace()).sets[0].headline]))
"""


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the product with results computed before the file of the new metric was added."""
    project = new_project(tmp_path_factory.mktemp("house") / "project")
    folder = project / "results" / "mpdd"
    folder.mkdir(parents=True)
    table = make_mpdd_predictions(lambda bad, rng: "Yes" if rng.random() < 0.2 + 0.6 * bad else "No")
    PREDICTION.write(table, folder / PREDICTIONS_FILE)
    write_metrics(
        compute_metrics(table, make_run(), make_listing(table.height), UNKNOWN_CONTAMINATION, draws=200, seed=7), folder
    )
    (project / "eval" / "metrics" / "alarms.py").write_text(METRIC, encoding="utf-8")
    return project


@pytest.fixture(scope="module")
def rescored(project: Path) -> dict[str, Any]:
    """The metrics that `indus-cot rescore` of the copy writes."""
    path = project / "results" / "mpdd" / METRICS_FILE
    before = json.loads(path.read_bytes())
    done = run_copy(project, "-m", "indus_cot", "rescore", "results")
    assert done.returncode == 0, done.stderr
    assert "figures changed" in done.stdout and "overall.false_alarms" in done.stderr
    after: dict[str, Any] = json.loads(path.read_bytes())
    for name, value in before["overall"].items():
        assert after["overall"][name] == value, name
    return after


def test_metrics_json_has_new_figure(rescored: dict[str, Any]) -> None:
    overall = rescored["overall"]
    found, specificity = overall["false_alarms"], overall["specificity"]
    assert found["value"] == overall["fp"] / (overall["fp"] + overall["tn"]) and found["n"] == 176
    assert [found["low"], found["high"]] == pytest.approx([1 - specificity["high"], 1 - specificity["low"]])
    for group in rescored["by"]["category"].values():
        assert group["false_alarms"]["value"] == group["fp"] / (group["fp"] + group["tn"])


def test_results_page_shows_new_figure(project: Path, rescored: dict[str, Any]) -> None:
    done = run_copy(project, "-c", PAGE)
    assert done.returncode == 0, done.stderr
    file, tiles = json.loads(done.stdout.splitlines()[-1])
    assert Path(file).is_relative_to(project)
    shown = dict(tiles)["false alarms"]
    found = rescored["overall"]["false_alarms"]
    assert shown == f"{100 * found['value']:.1f} [{100 * found['low']:.1f}, {100 * found['high']:.1f}]"


def test_older_product_reads_new_figure(project: Path, rescored: dict[str, Any]) -> None:
    found = read_metrics(project / "results" / "mpdd").overall.figure("false_alarms")
    assert found and found.value == rescored["overall"]["false_alarms"]["value"]
