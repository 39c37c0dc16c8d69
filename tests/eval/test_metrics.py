"""Metrics: known figures of reference policies, equality with scikit-learn, coverage of intervals, rescore."""

import json
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import balanced_accuracy_score, f1_score, precision_score, recall_score, roc_auc_score
from typer.testing import CliRunner

from eval.macro import over
from eval.metrics import compute_metrics, read_metrics, write_metrics
from eval.metrics.arrays import SIZES, PredictionArrays, group_images
from eval.metrics.figure import FIGURES
from eval.metrics.resampling import Columns, resample
from eval.rescore import figures_of_counts
from eval.scoreboard import SETS, published, scoreboard
from eval.statistics import group_parts, interval, resamples
from indus_cot.app import app, main
from schemas.errors import IndusCotError
from schemas.metrics import Contamination, EvaluatedImages, Metrics, Overview
from schemas.prediction import PREDICTION
from schemas.taxonomy import family
from tests.helpers.predictions import (
    BOX,
    MPDD,
    UNKNOWN_CONTAMINATION,
    make_listing,
    make_mpdd_predictions,
    make_predictions,
    make_run,
)

DRAWS = 400


def scored(predictions: pl.DataFrame, draws: int = DRAWS, seed: int = 1, **facts: object) -> Metrics:
    PREDICTION.validate(predictions)
    found = {
        "run": make_run(),
        "listing": make_listing(predictions.height),
        "contamination": UNKNOWN_CONTAMINATION,
    } | facts
    return compute_metrics(predictions, *found.values(), draws=draws, seed=seed)  # type: ignore[arg-type]


def values(found: Metrics, *names: str) -> list[float]:
    return [100 * getattr(found.overall, name).value for name in names]


def test_always_yes_is_chance_and_flagged() -> None:
    found = scored(make_mpdd_predictions(lambda bad, rng: "Yes"))
    assert (found.overall.tp, found.overall.fn, found.overall.tn, found.overall.fp) == (282, 0, 0, 176)
    assert values(found, "recall", "specificity", "balanced_accuracy") == [100, 0, 50]
    assert found.macro and found.macro.value == 0.5
    assert any("exactly 50.0" in flag for flag in found.flags)
    assert any("always the same answer, Yes: recall 100, specificity 0" in flag for flag in found.flags)


def test_oracle_and_always_no() -> None:
    oracle = scored(make_mpdd_predictions(lambda bad, rng: "Yes" if bad else "No"))
    names = ("balanced_accuracy", "recall", "specificity", "precision", "f1", "box_iou", "pointing", "type_exact")
    assert values(oracle, *names) == [100] * len(names)
    assert not oracle.flags
    nothing = scored(make_mpdd_predictions(lambda bad, rng: "No"))
    assert values(nothing, "recall", "specificity", "balanced_accuracy", "f1", "box_iou") == [0, 100, 50, 0, 0]
    assert nothing.overall.precision is None
    assert any("recall 0, specificity 100" in flag for flag in nothing.flags)


def test_coin_is_near_chance() -> None:
    estimate = scored(make_mpdd_predictions(lambda bad, rng: str(rng.choice(["Yes", "No"])))).overall.balanced_accuracy
    assert estimate and estimate.low and estimate.high
    assert estimate.low < 0.5 < estimate.high
    assert 0.06 < estimate.high - estimate.low < 0.12


def test_unparsed_answers_are_wrong_and_flagged() -> None:
    predictions = make_mpdd_predictions(lambda bad, rng: None if rng.random() < 0.1 else "Yes" if bad else "No")
    found = scored(predictions)
    unread = predictions["answer"].is_null()
    assert found.overall.unparsed == unread.sum()
    assert found.overall.fn == (unread & (predictions["true_answer"] == "Yes")).sum()
    assert found.overall.fp == (unread & (predictions["true_answer"] == "No")).sum()
    assert any("could not be read and count as wrong" in flag for flag in found.flags)


@pytest.mark.parametrize(("unread", "flagged"), [(9, False), (10, True)])
def test_unparsed_share_flag_threshold(unread: int, flagged: bool) -> None:
    """Two per cent of 458 images are 9.16."""
    left = iter([None] * unread)
    found = scored(make_mpdd_predictions(lambda bad, rng: next(left, "Yes" if bad else "No")))
    assert found.overall.unparsed == unread
    assert any("could not be read" in flag for flag in found.flags) == flagged


@given(st.data())
@settings(max_examples=25, deadline=None)
def test_figures_match_scikit_learn(data: st.DataObject) -> None:
    n = data.draw(st.integers(2, 40))
    truth = data.draw(st.lists(st.booleans(), min_size=n, max_size=n))
    said = data.draw(st.lists(st.sampled_from(["Yes", "No"]), min_size=n, max_size=n))
    margin = data.draw(st.lists(st.integers(-3, 3).map(float), min_size=n, max_size=n))
    parts = data.draw(st.lists(st.sampled_from("abcdefghij"), min_size=n, max_size=n))
    found = scored(make_predictions(truth, answer=said, margin=margin, part_id=parts), draws=20).overall
    yes = [answer == "Yes" for answer in said]
    if any(truth):
        assert found.recall and found.recall.value == pytest.approx(recall_score(truth, yes))
        assert found.f1 and found.f1.value == pytest.approx(f1_score(truth, yes))
        if any(yes):
            assert found.precision and found.precision.value == pytest.approx(precision_score(truth, yes))
    if not all(truth):
        assert found.specificity
        assert found.specificity.value == pytest.approx(recall_score(truth, yes, pos_label=False))
    if any(truth) and not all(truth):
        assert found.balanced_accuracy and found.auroc
        assert found.balanced_accuracy.value == pytest.approx(balanced_accuracy_score(truth, yes))
        assert found.auroc.value == pytest.approx(roc_auc_score(truth, margin))
    else:
        assert found.balanced_accuracy is None and found.auroc is None


@given(st.data())
@settings(max_examples=20, deadline=None)
def test_resample_figures_match_drawn_images(data: st.DataObject) -> None:
    """With one draw, both bounds equal its figures: scikit-learn's, each image weighted by the draws of its part."""
    truth = [True, True, True, False, False, False, False] * 4
    parts = [f"{'bad' if bad else 'good'} {number % 14}" for number, bad in enumerate(truth)]
    n = len(truth)
    said = data.draw(st.lists(st.sampled_from(["Yes", "No"]), min_size=n, max_size=n))
    margin = data.draw(st.lists(st.integers(-2, 2).map(float), min_size=n, max_size=n))
    found = scored(make_predictions(truth, answer=said, margin=margin, part_id=parts), draws=1, seed=5).overall
    # Rows are sorted by id.
    grouped = group_parts(np.array(parts), np.array(truth))
    (weights,) = next(resamples(grouped, 1, 5))
    drawn = np.repeat(np.arange(n), weights[grouped.of].astype(int))
    chosen, answers = np.array(truth)[drawn], (np.array(said) == "Yes")[drawn]
    assert (chosen.sum(), (~chosen).sum()) == (12, 16), "as many parts of each label as there are, of two images each"
    for estimate, wanted in (
        (found.balanced_accuracy, balanced_accuracy_score(chosen, answers)),
        (found.auroc, roc_auc_score(chosen, np.array(margin)[drawn])),
        (found.f1, f1_score(chosen, answers)),
    ):
        assert estimate
        assert (estimate.low, estimate.high) == pytest.approx((wanted, wanted))


@pytest.mark.slow
def test_interval_coverage() -> None:
    """Each part has three images that are right or wrong together; an interval over images would cover far less."""
    rng = np.random.default_rng(0)
    covered = naive = 0
    runs, each, chance = 200, 60, 0.8
    truth = [bad for bad in (False, True) for _ in range(each) for _ in range(3)]
    names = [f"part {number // 3}" for number in range(len(truth))]
    images = [f"image {number}" for number in range(len(truth))]
    for turn in range(runs):
        right = np.repeat(rng.random(2 * each) < chance, 3)
        said = ["Yes" if bad == hit else "No" for bad, hit in zip(truth, right, strict=True)]
        for parts in (names, images):
            estimate = _interval(truth, said, parts, turn)
            inside = estimate[0] <= chance <= estimate[1]
            covered, naive = covered + (inside and parts is names), naive + (inside and parts is images)
    assert 0.90 <= covered / runs <= 0.985
    assert naive / runs < 0.85


def _interval(truth: list[bool], said: list[str], parts: list[str], seed: int) -> tuple[float, float]:
    images = PredictionArrays(make_predictions(truth, answer=said, part_id=parts), place_asked=False)
    counted = {"balanced_accuracy": FIGURES["balanced_accuracy"].count(images)}
    drawn, *_ = resample(images, group_images(images)[:1], counted, Columns(counted, len(truth)), 200, seed)
    low, high = interval(drawn["balanced_accuracy"])
    return float(low[0]), float(high[0])


def test_correlated_images_widen_interval() -> None:
    rng = np.random.default_rng(3)
    truth = [False] * 40 + [True] * 40
    said = [str(rng.choice(["Yes", "No"])) for _ in truth]
    single = scored(make_predictions(truth, answer=said)).overall.balanced_accuracy
    # Each image three times: no new evidence as one part, but a narrower interval if taken for three parts.
    truth, said = truth * 3, said * 3
    parts = [f"part {number % 80}" for number in range(240)]
    repeated = scored(make_predictions(truth, answer=said, part_id=parts)).overall.balanced_accuracy
    believed = scored(make_predictions(truth, answer=said)).overall.balanced_accuracy
    assert single and repeated and believed
    widths = [estimate.high - estimate.low for estimate in (single, repeated, believed)]  # type: ignore[operator]
    assert widths[1] == pytest.approx(widths[0], rel=0.1)
    assert widths[2] < 0.7 * widths[1]


def test_groups_use_their_own_normals() -> None:
    truth = [False] * 10 + [True] * 12
    kinds = [None] * 10 + ["scratch"] * 6 + ["missing_part"] * 6
    share = [None] * 10 + [0.0005] * 3 + [0.001] * 3 + [0.05] * 3 + [0.5] * 2 + [None]
    said = ["Yes"] * 2 + ["No"] * 8 + ["Yes"] * 6 + ["No"] * 6
    categories = ["tubes", "connector"] * 11
    found = scored(make_predictions(truth, answer=said, true_type=kinds, area_fraction=share, category=categories))
    scratch, missing = found.by["type"]["scratch"], found.by["type"]["missing_part"]
    assert (scratch.tp, scratch.fn, scratch.tn, scratch.fp) == (6, 0, 8, 2)
    assert (missing.tp, missing.fn, missing.tn, missing.fp) == (0, 6, 8, 2)
    assert scratch.specificity and scratch.specificity.low is not None, "there are normal parts to resample"
    assert {name: score.tp + score.fn for name, score in found.by["size"].items()} == {
        SIZES[0][0]: 3, SIZES[1][0]: 3, SIZES[2][0]: 3, SIZES[3][0]: 2,
    }  # fmt: skip
    assert set(found.by["family"]) == {family("scratch"), family("missing_part")}
    assert {name: score.images for name, score in found.by["category"].items()} == {"tubes": 11, "connector": 11}
    assert sum(score.tn + score.fp for score in found.by["category"].values()) == 10


def test_box_and_type_figures_cover_all_defects() -> None:
    half = [[100, 100, 200, 150]]
    boxes = [BOX, half, [[800, 800, 900, 900]], []]
    named = ["scratch", "crack", "unspecified", None]
    found = scored(make_predictions([True] * 4, answer=["Yes"] * 3 + ["No"], boxes=boxes, defect_type=named)).overall
    wanted = {"box_iou": 1.5 / 4, "box_accuracy": 2 / 4, "pointing": 2 / 4}
    wanted |= {"type_exact": 1 / 4, "type_family": 2 / 4, "type_similarity": (1 + 0.5 + 0.25) / 4}
    assert {name: getattr(found, name).value for name in wanted} == pytest.approx(wanted)
    assert found.box_iou and found.box_iou.low is None, "four parts are too few"


def test_tool_figures() -> None:
    predictions = make_predictions(
        [True, True, False, False],
        answer=["Yes", "No", "No", None],
        answer_before=["No", "Yes", "No", "Yes"],
        margin=[2.0, -1.0, -3.0, -0.5],
        tools=[["crop", "crop"], ["prior"], [], ["dance"]],
        observed=[2, 1, 0, 0],
    )
    tools = scored(predictions).tools
    assert tools.share == {"crop": 0.25, "enhance": 0.0, "measure": 0.0, "prior": 0.25, "unknown": 0.25}
    assert (tools.calls, tools.success, tools.looked) == (1.0, 0.75, 3)
    assert (tools.better, tools.worse) == (2, 1), "by the margins: a verdict that cannot be read has one too"
    assert scored(make_predictions([True, False])).tools.better is None


def test_undefined_figures_are_none() -> None:
    truth, kinds = [True, True, True, False], ["scratch", "unspecified", "unspecified", None]
    said = make_predictions(truth, answer=["Yes", "Yes", "No", "No"], true_type=kinds)
    found = scored(said).overall
    assert found.type_exact and (found.type_exact.value, found.type_exact.n) == (1.0, 1)
    assert found.box_iou and found.box_iou.n == 3
    plain = make_predictions(truth, answer=["Yes", "Yes", "No", "No"], true_type=kinds, boxes=[[]] * 4, parse="rules")
    for facts in ({"mode": "direct"}, {"mode": None}):
        asked = scored(plain, run=make_run(**facts)).overall
        assert asked.recall and asked.box_iou is None and asked.pointing is None and asked.type_exact is None


def test_calibration_bins_cover_all_margins() -> None:
    margin = [-5.0, -5.0, 0.0, 0.4, 5.0, None]
    bins = scored(make_predictions([False, False, True, False, True, True], margin=margin)).calibration
    assert sum(item.images for item in bins) == 5
    assert [(item.images, item.defective) for item in bins] == [(2, 0.0), (1, 1.0), (1, 0.0), (1, 1.0)]
    assert all(item.low <= item.confidence <= item.high for item in bins)
    assert not scored(make_predictions([True, False])).calibration


def test_reservations_are_flagged() -> None:
    seen = Contamination(
        trained_on="0" * 64,
        categories=["tubes"],
        images=7,
        image_ids=["mpdd/tubes/a", "mpdd/tubes/b", "mpdd/tubes/c", "mpdd/tubes/d"],
        prior_categories=["tubes"],
        zero_shot=False,
    )
    short = EvaluatedImages(evaluated=4, available=9, published=458, same_list=False)
    flags = scored(
        make_predictions([True, False, True, False], answer=["Yes", "No"] * 2), listing=short, contamination=seen
    ).flags
    for words in (
        "incomplete: 4 of the 9",
        "list is not the published one",
        "not zero-shot: the model was trained on categories tubes and 7 of the evaluated images (mpdd/tubes/a, ",
        "the texts of the prior tool describe evaluated categories: tubes",
        "only 2 parts with normal",
    ):
        assert any(words in flag for flag in flags), flags


def results(folder: Path, predictions: pl.DataFrame, **facts: object) -> Path:
    """Results of a run on one set."""
    folder.mkdir(parents=True, exist_ok=True)
    PREDICTION.write(predictions, folder / "predictions.parquet")
    write_metrics(scored(predictions, seed=make_run().seed, **facts), folder)
    return folder


def test_rescore_is_exact(tmp_path: Path) -> None:
    folder = results(
        tmp_path / "mpdd", make_mpdd_predictions(lambda bad, rng: "Yes" if rng.random() < 0.3 + 0.4 * bad else "No")
    )
    before = (folder / "metrics.json").read_bytes()
    told = CliRunner().invoke(app, ["rescore", str(tmp_path)])
    assert told.exit_code == 0
    assert "nothing changed" in told.output
    damaged = json.loads(before)
    damaged["overall"]["tp"] = 281
    (folder / "metrics.json").write_text(json.dumps(damaged))
    told = CliRunner().invoke(app, ["rescore", str(folder)])
    assert "1 figures changed" in told.output
    assert (folder / "metrics.json").read_bytes() == before
    # The order of the rows does not matter.
    PREDICTION.read(folder / "predictions.parquet").reverse().write_parquet(folder / "predictions.parquet")
    assert "nothing changed" in CliRunner().invoke(app, ["rescore", str(folder)]).output


def test_rescore_from_predictions_alone(tmp_path: Path) -> None:
    said = make_mpdd_predictions(lambda bad, rng: "Yes" if rng.random() < 0.3 + 0.4 * bad else "No")
    folder = results(tmp_path / "mpdd", said)
    before = read_metrics(folder)
    # An older version wrote the file; its description of the run is kept.
    older = json.loads((folder / "metrics.json").read_bytes())
    del older["overall"], older["tools"], older["contamination"]["image_ids"]
    (folder / "metrics.json").write_text(json.dumps(older))
    assert CliRunner().invoke(app, ["rescore", str(folder)]).exit_code == 0
    assert read_metrics(folder) == before
    for lost in ("", "no JSON", "[]"):
        (folder / "metrics.json").unlink() if not lost else (folder / "metrics.json").write_text(lost)
        told = CliRunner().invoke(app, ["rescore", str(folder)])
        assert "what was run is not recorded" in told.output, told.output
        found = read_metrics(folder)
        assert found.overall.balanced_accuracy and before.overall.balanced_accuracy
        assert found.overall.balanced_accuracy.value == before.overall.balanced_accuracy.value
        assert found.overall.box_iou and before.overall.box_iou
        assert (found.run.set, found.run.model, found.listing.available) == ("mpdd", None, None)
    (line, *_) = scoreboard([read_metrics(folder)])
    assert (line.same_list, line.same_protocol) == (None, None)


def test_rescore_of_another_version(tmp_path: Path) -> None:
    folder = results(tmp_path / "mpdd", make_mpdd_predictions(lambda bad, rng: "Yes" if bad else "No"))
    written = json.loads((folder / "metrics.json").read_bytes())
    assert list(written["overall"])[7:] == [
        "balanced_accuracy", "recall", "specificity", "precision", "f1", "auroc",
        "exact_form", "box_iou", "box_accuracy", "pointing", "type_exact", "type_family", "type_similarity",
    ]  # fmt: skip
    written["overall"]["false_alarms"] = written["overall"].pop("pointing")
    (folder / "metrics.json").write_text(json.dumps(written))
    found = read_metrics(folder).overall
    assert found.figure("pointing") is None
    assert found.figure("false_alarms") and found.figure("false_alarms").value == 1.0  # type: ignore[union-attr]
    written["overall"]["recall"] = "high"
    (folder / "metrics.json").write_text(json.dumps(written))
    with pytest.raises(IndusCotError, match=r"(?s)no figures of this version .* run `indus-cot rescore"):
        read_metrics(folder)


def test_mean_over_sets(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    for name in ("mpdd", "visa", "my_own"):
        truth = [False] * 60 + [True] * 60
        said = ["Yes" if bad == (rng.random() < 0.75) else "No" for bad in truth]
        results(
            tmp_path / name,
            make_predictions(truth, answer=said, source_set=name),
            run=make_run(set=name, model_sha256="a" * 64),
        )
    # The partial folder of a killed run is not a result.
    (tmp_path / ".dtd.partial").mkdir()
    (tmp_path / ".dtd.partial" / "predictions.parquet").write_bytes(b"half")
    told = CliRunner().invoke(app, ["rescore", str(tmp_path)])
    assert told.exit_code == 0, told.output
    assert "oracle, agent, weights aaaaaaaa: balanced accuracy" in told.output
    assert "mean over visa, mpdd, without mvtec_ad, dtd, sdd" in told.output
    (found,) = Overview.model_validate_json((tmp_path / "metrics.json").read_bytes()).runs
    sets = [read_metrics(tmp_path / name).overall.balanced_accuracy for name in ("mpdd", "visa")]
    mean = found.balanced_accuracy
    assert mean.value == pytest.approx(np.mean([item.value for item in sets]))  # type: ignore[union-attr]
    assert mean.low is not None and mean.high is not None and mean.low < mean.value < mean.high
    widths = [item.high - item.low for item in sets]  # type: ignore[union-attr,operator]
    assert mean.high - mean.low == pytest.approx(np.hypot(*widths) / 2, rel=0.15)
    (line, *_) = scoreboard([read_metrics(tmp_path / name) for name in ("mpdd", "visa", "my_own")], over(tmp_path))
    assert line.over == found and line.mean is None
    # A set of another run beside it, and below it another run with its own mean.
    other = make_predictions([False, True] * 60, answer=["Yes", "No"] * 60, source_set="visa")
    for folder in ("visa-other", "other/visa"):
        results(tmp_path / folder, other, run=make_run(set="visa", model_sha256="b" * 64))
    assert CliRunner().invoke(app, ["rescore", str(tmp_path / "other")]).exit_code == 0
    assert CliRunner().invoke(app, ["rescore", str(tmp_path)]).exit_code == 0
    again = Overview.model_validate_json((tmp_path / "metrics.json").read_bytes()).runs
    assert [(item.sets, item.balanced_accuracy.value) for item in again] == [
        (["visa", "mpdd"], mean.value), (["visa"], 0.0),
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("counts", "published"),
    [
        # The repository of IAD-R1 gives unrounded figures for Qwen-VL-Max (67.14015151515152 on MPDD, 81.99948199948199
        # on SDD). On the official lists, only these whole counts yield them.
        ("tp=188,fn=94,tn=119,fp=57", {"balanced accuracy": 67.14015151515152}),
        ("tp=44, fn=10, tn=236, fp=50", {"balanced accuracy": 81.99948199948199}),
        # The paper's recall 83.3 and balanced accuracy 88.9 on SDD.
        ("tp=45,fn=9,tn=270,fp=16", {"balanced accuracy": 88.869, "recall": 83.333, "specificity": 94.406}),
        # Computed by hand.
        ("tp=282,fn=0,tn=0,fp=176", {"balanced accuracy": 50, "recall": 100, "specificity": 0, "precision": 61.572}),
        ("tp=0,fn=3,tn=1,fp=0", {"balanced accuracy": 50, "recall": 0, "F1": 0}),
    ],
)
def test_published_counts_give_published_figure(counts: str, published: dict[str, float]) -> None:
    told = CliRunner().invoke(app, ["rescore", "--counts", counts])
    said = {name: float(value) for name, value in (line.split(": ") for line in told.output.splitlines())}
    for name, value in published.items():
        assert said[name] == pytest.approx(value, abs=0.0051)


@pytest.mark.parametrize("counts", ["tp=1", "tp=1,fn=1,tn=1,fp=x", "tp=1,fn=1,tn=1,tn=1", "tp=1,fn=-1,tn=1,fp=0"])
def test_invalid_counts_are_refused(counts: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["rescore", "--counts", counts])
    assert "write whole numbers" in capsys.readouterr().err


def test_scoreboard_lists_own_and_published(tmp_path: Path) -> None:
    one = read_metrics(results(tmp_path / "mpdd", make_mpdd_predictions(lambda bad, rng: "Yes" if bad else "No")))
    lines = scoreboard([one])
    assert lines[0].kind == "ours"
    assert lines[0].figures == {"mpdd": 100}
    assert lines[0].mean is None
    assert lines[0].same_list is True
    assert sorted({line.kind for line in lines[1:]}) == ["closed", "open", "paper"]
    for line in lines[1:]:
        assert line.source and line.protocol
        assert set(line.figures) <= set(SETS)
    assert lines[0].same_protocol is True
    names = {line.name.partition(" 8B ")[2]: line.figures for line in lines if line.name.startswith("IndusAgent 8B ")}
    assert names["without RL"] == {"mvtec_ad": 72.3, "visa": 57.6, "dtd": 74.1}
    assert names["without SFT"] == {"mvtec_ad": 69.5, "visa": 55.5, "dtd": 72.8}
    assert names["without tools"] == {"mvtec_ad": 78.1, "visa": 67.5, "dtd": 87.9}
    paper = next(line for line in lines if line.name == "IndusAgent 8B")
    assert paper.mean == 83.5
    whole = [one.model_copy(update={"run": one.run.model_copy(update={"set": name})}) for name in SETS]
    assert scoreboard(whole)[0].mean == 100
    first, *others = whole
    retrained = first.model_copy(update={"run": first.run.model_copy(update={"model_sha256": "e" * 64})})
    apart = scoreboard([retrained, *others])[:2]
    assert [line.mean for line in apart] == [None, None], (
        "sets that another model was asked about are no mean with these"
    )
    assert "weights eeeeeeee" in apart[0].protocol
    assert apart[0].name != apart[1].name, "two checkpoints do not read the same"


def test_published_counts_give_their_figures() -> None:
    """Counts of a line yield its figure, and their sums tell whether the list is the published one."""
    official = {"mvtec_ad": (1258, 467), "visa": (1200, 962), "mpdd": (282, 176), "dtd": (947, 357), "sdd": (54, 286)}
    checked = 0
    for line in published():
        assert set(line.lists) <= set(line.figures)
        for name, listed in line.lists.items():
            if counts := listed.counts:
                figures = figures_of_counts(f"tp={counts.tp},fn={counts.fn},tn={counts.tn},fp={counts.fp}")
                assert abs(100 * figures["balanced accuracy"] - line.figures[name]) <= 0.05, (line.name, name)
                assert ((counts.tp + counts.fn, counts.tn + counts.fp) == official[name]) == listed.same
                checked += 1
    assert checked == 26


def test_scoreboard_tells_lists_by_set() -> None:
    lines = {line.name: line for line in published()}
    best = lines["IAD-R1 (updated), LLaVA-OneVision 7B"]
    assert [best.list_is_published(name) for name in SETS] == [False, False, True, True, True]
    assert best.same_list is False
    assert lines["GPT-4.1"].same_list is None
    assert lines["EAGLE"].measure == "accuracy"


def test_official_counts_match_published() -> None:
    assert [sum(counts) for counts in zip(*MPDD.values(), strict=True)] == [176, 282]
