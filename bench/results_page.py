"""The page of evaluated images with 5,000 of them against the same page with 50, in a browser."""

import tempfile
from pathlib import Path

import polars as pl
from playwright.sync_api import Page

from bench.paired import Row, paired
from cot_builder.progress import console
from cot_builder.storage.results import PREDICTIONS_FILE
from cot_builder.storage.workspace import Workspace
from eval.metrics import compute_metrics, write_metrics
from eval.report.items import write_items
from schemas.prediction import PREDICTION
from schemas.sample import SAMPLE, Sample
from tests.helpers import predictions, small_corpus
from tests.helpers.browser import chromium

MANY, FEW = 5_000, 50
RUNS = 9
USABLE = "() => ['#sheet img', '#item .frame img'].every((place) => document.querySelector(place)?.naturalWidth)"


def results_page() -> Row:
    """From opening the file until pictures are there and a filter was answered."""
    console.quiet = True
    with tempfile.TemporaryDirectory() as name, chromium() as browser:
        root = Path(name)
        small_corpus.build(root)
        pages = {count: _written(root, count).as_uri() for count in (MANY, FEW)}
        context = browser.new_context(viewport={"width": 1280, "height": 900})

        def use(count: int) -> None:
            page: Page = context.new_page()
            page.goto(pages[count])
            page.wait_for_function(USABLE)
            page.select_option("select[name=outcome]", "fn")
            page.wait_for_function("() => document.querySelector('#item .outcome').classList.contains('fn')")
            page.close()

        ratio = paired(lambda: use(MANY), lambda: use(FEW), RUNS)
    return Row("results_page", f"{MANY:,} evaluated images, until usable", f"{FEW} images", 1 / ratio, 2.0, "lower")


def _written(root: Path, count: int) -> Path:
    """The page of ``count`` images: those of a small set again and again, each an image of its own to the page."""
    workspace = Workspace(root)
    table = SAMPLE.read(workspace.pull("held_out") / "sample.parquet")
    samples: list[Sample] = SAMPLE.records(table)
    many = [
        samples[number % len(samples)].model_copy(update={"sample_id": f"held_out/plate/{number:016x}"})
        for number in range(count)
    ]
    copy = Workspace(root / str(count))
    pulled = copy.pull("held_out")
    pulled.mkdir(parents=True)
    for shard in workspace.pull("held_out").glob("images-*.parquet"):
        (pulled / shard.name).symlink_to(shard)
    SAMPLE.write(SAMPLE.frame(many), pulled / "sample.parquet")
    found = predictions.make_predictions(
        [number % 2 == 0 for number in range(count)], source_set="held_out", category="plate"
    )
    found = found.with_columns(sample_id=pl.Series([sample.sample_id for sample in many]))
    folder = copy.results / "held_out"
    folder.mkdir(parents=True)
    PREDICTION.write(found, folder / PREDICTIONS_FILE)
    facts = compute_metrics(
        found,
        predictions.make_run(set="held_out"),
        predictions.make_listing(count),
        predictions.UNKNOWN_CONTAMINATION,
        draws=10,
        seed=0,
    )
    write_metrics(facts, folder)
    write_items(copy)
    return copy.reports / "items" / "index.html"
