"""Comparison of two runs: difference, interval, tests, and runs that cannot be compared."""

import json
import shutil
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from scipy.stats import binomtest
from typer.testing import CliRunner

from eval.compare import compare
from eval.metrics import compute_metrics, write_metrics
from indus_cot.app import app
from schemas.errors import IndusCotError
from schemas.prediction import PREDICTION
from tests.helpers.predictions import (
    UNKNOWN_CONTAMINATION,
    make_listing,
    make_mpdd_predictions,
    make_predictions,
    make_run,
)

SEED = 5


def results(root: Path, predictions: pl.DataFrame, name: str = "mpdd", **facts: object) -> Path:
    """Write the results of one set below ``root``."""
    folder = root / name
    folder.mkdir(parents=True)
    named = predictions.with_columns(source_set=pl.lit(name), sample_id=pl.format("{}/{}", pl.lit(name), "sample_id"))
    PREDICTION.write(named, folder / "predictions.parquet")
    found = compute_metrics(
        named, make_run(set=name, **facts), make_listing(named.height), UNKNOWN_CONTAMINATION, draws=0, seed=1
    )
    write_metrics(found, folder)
    return root


def inspector(skill: float, seed: int = 0) -> pl.DataFrame:
    """Which answers are right, each with this probability."""
    rng = np.random.default_rng(seed)
    return make_mpdd_predictions(lambda bad, _: "Yes" if bad == (rng.random() < skill) else "No")


def test_run_compared_with_itself(tmp_path: Path) -> None:
    one = results(tmp_path / "a", inspector(0.8))
    found = compare(one, one, draws=200, seed=SEED)
    assert found.macro is None
    (item,) = found.sets
    assert (item.difference, item.low, item.high, item.mcnemar_p, item.permutation_p) == (0, 0, 0, 1, 1)
    assert not found.only_first and not found.only_second


def test_better_and_equal_runs_are_distinguished(tmp_path: Path) -> None:
    good = results(tmp_path / "good", inspector(0.8))
    bad = results(tmp_path / "bad", inspector(0.6, seed=1))
    like = results(tmp_path / "like", inspector(0.75, seed=3))
    (item,) = compare(bad, good, draws=500, seed=SEED).sets
    assert item.first + item.difference == pytest.approx(item.second)
    assert item.low is not None and item.high is not None
    assert 0 < item.low < item.difference < item.high
    assert item.mcnemar_p < 0.001 and item.permutation_p < 0.001
    assert item.mcnemar_p == binomtest(item.only_first_right, item.only_first_right + item.only_second_right).pvalue
    (item,) = compare(like, good, draws=500, seed=SEED).sets
    assert item.low is not None and item.high is not None
    assert item.low < 0 < item.high
    assert item.permutation_p > 0.05
    # Swapping the runs flips the sign.
    (back,) = compare(good, like, draws=500, seed=SEED).sets
    assert (back.difference, back.low, back.high) == pytest.approx((-item.difference, -item.high, -item.low))
    assert back.permutation_p == pytest.approx(item.permutation_p, abs=0.02)


def test_few_parts_are_permuted_exactly(tmp_path: Path) -> None:
    """Only the second run has the three parts right; 2 of the 8 exchanges give a difference as large."""
    truth = [True] * 6 + [False] * 6
    first = results(tmp_path / "a", make_predictions(truth, answer=["No"] * 3 + ["Yes"] * 3 + ["No"] * 6))
    second = results(tmp_path / "b", make_predictions(truth, answer=["Yes"] * 6 + ["No"] * 6))
    (item,) = compare(first, second, draws=100, seed=SEED).sets
    assert item.difference == pytest.approx(0.25)
    assert item.permutation_p == pytest.approx(2 / 8)
    assert item.mcnemar_p == pytest.approx(2 / 8)


def test_images_of_one_part_move_together(tmp_path: Path) -> None:
    truth = [True] * 6 + [False] * 6
    parts = ["one"] * 3 + [f"part {number}" for number in range(9)]
    first = results(
        tmp_path / "a", make_predictions(truth, answer=["No"] * 3 + ["Yes"] * 3 + ["No"] * 6, part_id=parts)
    )
    second = results(tmp_path / "b", make_predictions(truth, answer=["Yes"] * 6 + ["No"] * 6, part_id=parts))
    (item,) = compare(first, second, draws=100, seed=SEED).sets
    assert item.permutation_p == 1.0
    assert item.low is None, "four defective parts are too few"


def test_mean_over_sets_has_narrower_interval(tmp_path: Path) -> None:
    for name in ("mpdd", "visa"):
        results(tmp_path / "a", inspector(0.7), name)
        results(tmp_path / "b", inspector(0.75, seed=1), name)
    found = compare(tmp_path / "a", tmp_path / "b", draws=1000, seed=SEED)
    assert found.macro
    assert found.macro.difference == pytest.approx(np.mean([item.difference for item in found.sets]))
    widths = [item.high - item.low for item in (*found.sets, found.macro)]  # type: ignore[operator]
    # The sets are equal but resampled independently.
    assert widths[2] == pytest.approx(np.hypot(*widths[:2]) / 2, rel=0.12)


def test_images_of_one_run_are_listed(tmp_path: Path) -> None:
    whole = inspector(0.8)
    results(tmp_path / "a", whole)
    results(tmp_path / "a", whole, "visa")
    results(tmp_path / "b", whole.head(450), mode="agent-no-tools")
    told = CliRunner().invoke(
        app, ["compare", str(tmp_path / "a"), str(tmp_path / "b"), "--json", str(tmp_path / "c.json")]
    )
    assert told.exit_code == 0, told.output
    assert f"only {tmp_path / 'a'} has 9, which are left out: visa (all of it)" in told.output
    assert "second is oracle, agent-no-tools" in told.output
    found = json.loads((tmp_path / "c.json").read_text())
    assert found["sets"][0]["images"] == 450
    assert len(found["only_first"]) == 9
    assert found["only_second"] == []


def test_different_ground_truth_is_refused(tmp_path: Path) -> None:
    results(tmp_path / "a", make_predictions([True, False, True]))
    results(tmp_path / "b", make_predictions([True, False, False]))
    with pytest.raises(IndusCotError, match=r"true_answer of 1 images differs.*evaluate both again"):
        compare(tmp_path / "a", tmp_path / "b", draws=100, seed=SEED)


def test_checkpoints_and_duplicate_folders(tmp_path: Path) -> None:
    some = make_predictions([True, False] * 6)
    results(tmp_path / "a", some, model_sha256="a" * 64)
    results(tmp_path / "b", some, model_sha256="b" * 64, rounds="two")
    (told,) = compare(tmp_path / "a", tmp_path / "b", draws=0, seed=SEED).modes.values()
    assert told == ("oracle, agent, weights aaaaaaaa", "oracle, agent, two rounds, weights bbbbbbbb")
    shutil.copytree(tmp_path / "a" / "mpdd", tmp_path / "a" / "older")
    with pytest.raises(IndusCotError, match="mpdd and older both hold results of mpdd; give one of them"):
        compare(tmp_path / "a", tmp_path / "b", draws=0, seed=SEED)
    (tmp_path / "a" / "older").rename(tmp_path / "a" / ".mpdd.partial")
    assert len(compare(tmp_path / "a", tmp_path / "b", draws=0, seed=SEED).sets) == 1


def test_disjoint_results_are_refused(tmp_path: Path) -> None:
    results(tmp_path / "a", make_predictions([True, False]))
    results(tmp_path / "b", make_predictions([True, False]), "visa")
    with pytest.raises(IndusCotError, match="no set in common"):
        compare(tmp_path / "a", tmp_path / "b", draws=100, seed=SEED)
    with pytest.raises(IndusCotError, match="run `indus-cot evaluate`"):
        compare(tmp_path / "a", tmp_path / "nowhere", draws=100, seed=SEED)
