"""Tests the evaluation in the report: its figures match metrics.json, and every image can be opened."""

import json
import shutil
from collections.abc import Iterator
from pathlib import Path

import polars as pl
import pytest
from playwright.sync_api import Browser, Page, expect

from cot_builder.inspection.toolbox import Toolbox
from cot_builder.storage.results import PREDICTIONS_FILE
from cot_builder.storage.samples import SampleImages
from cot_builder.storage.workspace import Workspace
from eval.metrics import compute_metrics, read_metrics, write_metrics
from eval.report.items import ITEMS_A_SCRIPT, write_items
from eval.report.report import report
from schemas.errors import IndusCotError
from schemas.prediction import PREDICTION
from schemas.sample import SAMPLE, Sample
from schemas.supervision import SUPERVISION
from schemas.trajectory import ToolCall
from tests.helpers import predictions
from tests.helpers.small_corpus import HOSTILE, build, params

REGION = [100, 200, 700, 900]
SAID = [250, 300, 400, 650]
SECOND = {"region": [600, 600, 900, 900]}
CALL = {"name": "crop", "arguments": {"region": REGION}}
SAYS = ("Yes", "No", None, "No", "Yes", "Yes")


@pytest.fixture(scope="module")
def workspace(tmp_path_factory: pytest.TempPathFactory) -> Workspace:
    built = build(tmp_path_factory.mktemp("results"))
    evaluated(built, built.results)
    report(params(), built)
    return built


def evaluated(workspace: Workspace, results: Path) -> pl.DataFrame:
    """Write results on the evaluation set: unparsed verdicts, a call with its image in each, and hostile texts."""
    samples: list[Sample] = SAMPLE.records(SAMPLE.read(workspace.pull("held_out") / "sample.parquet"))
    truth = {
        row.sample_id: row
        for row in SUPERVISION.records(SUPERVISION.read(workspace.pull("held_out") / "supervision.parquet"))
    }
    images = SampleImages(workspace)
    answers = [SAYS[number % len(SAYS)] for number in range(len(samples))]
    transcripts = []
    for sample in samples:
        observation, _ = Toolbox(images.pixels(sample), {}).observe(
            ToolCall.model_validate({"tool": "crop", "arguments": CALL["arguments"]})
        )
        other, _ = Toolbox(images.pixels(sample), {}).observe(
            ToolCall.model_validate({"tool": "crop", "arguments": SECOND})
        )
        called = "\n".join(
            f"<tool_call>\n{json.dumps(call)}\n</tool_call>" for call in (CALL, CALL | {"arguments": SECOND})
        )
        turns = [
            {"text": f"<think>{HOSTILE}</think>\n{called}", "observation": f"{observation.text}\n{other.text}",
             "images_sha256": [observation.image_sha256, other.image_sha256]},
            {"text": HOSTILE},
        ]  # fmt: skip
        transcripts.append(json.dumps({"turns": turns}))
    table = predictions.make_predictions(
        [truth[sample.sample_id].label == "anomalous" for sample in samples],
        sample_id=[sample.sample_id for sample in samples],
        source_set="held_out",
        category=[sample.category for sample in samples],
        part_id=[sample.part_id for sample in samples],
        true_boxes=[truth[sample.sample_id].boxes for sample in samples],
        true_type=[truth[sample.sample_id].defect_type for sample in samples],
        area_fraction=[
            truth[sample.sample_id].area_fraction if truth[sample.sample_id].label == "anomalous" else None
            for sample in samples
        ],
        answer=answers,
        boxes=[[SAID] if answer == "Yes" else [] for answer in answers],
        fault=["" if answer else HOSTILE for answer in answers],
        tools=[["crop"] for _ in samples],
        margin=[None if answer is None else 1.5 if answer == "Yes" else -0.5 for answer in answers],
        observed=1,
        transcript=transcripts,
    ).sort("sample_id")
    folder = results / "held_out"
    folder.mkdir(parents=True)
    PREDICTION.write(table, folder / PREDICTIONS_FILE)
    facts = predictions.make_run(set="held_out", policy="endpoint", model=HOSTILE)
    write_metrics(
        compute_metrics(
            table,
            facts,
            predictions.make_listing(len(samples), 99),
            predictions.UNKNOWN_CONTAMINATION,
            draws=50,
            seed=0,
        ),
        folder,
    )
    return table


@pytest.fixture(scope="module")
def table(workspace: Workspace) -> pl.DataFrame:
    return pl.read_parquet(workspace.results / "held_out" / PREDICTIONS_FILE)


@pytest.fixture
def opened(chromium: Browser, workspace: Workspace) -> Iterator[Page]:
    context = chromium.new_context(viewport={"width": 1280, "height": 900})
    page = context.new_page()
    asked: list[str] = []
    faults: list[str] = []
    page.on("request", lambda request: asked.append(request.url))
    page.on("console", lambda message: faults.append(message.text))
    page.on("pageerror", lambda error: faults.append(str(error)))
    page.on("dialog", lambda dialog: faults.append(dialog.message))
    page.goto((workspace.reports / "items/index.html").as_uri())
    expect(page.locator("#item")).to_be_visible()
    yield page
    assert not faults
    assert all(url.startswith(("file:", "data:")) for url in asked), asked
    assert "owned" not in page.title()
    context.close()


def said_boxes(page: Page) -> list[list[float]]:
    """Return the drawn predictions as boxes in 0-1000 of the image."""
    return read_boxes(page, "#item .mark.answered")


def read_boxes(page: Page, selector: str) -> list[list[float]]:
    frame = page.locator("#item .frame img").bounding_box()
    assert frame
    found = []
    for number in range(page.locator(selector).count()):
        box = page.locator(selector).nth(number).bounding_box()
        assert box
        x, y = (box["x"] - frame["x"]) / frame["width"], (box["y"] - frame["y"]) / frame["height"]
        found.append([1000 * v for v in (x, y, x + box["width"] / frame["width"], y + box["height"] / frame["height"])])
    return found


def test_item_shows_truth_and_prediction(opened, table):
    row = table.filter((pl.col("answer") == "Yes") & (pl.col("true_answer") == "Yes")).row(0, named=True)
    opened.evaluate("id => { location.hash = encodeURIComponent(id) }", row["sample_id"])
    expect(opened.locator("#item .facts")).to_contain_text(row["sample_id"])
    expect(opened.locator("#item .outcome")).to_have_text("defect found")
    for boxes, selector in ((row["boxes"], ".mark.answered"), (row["true_boxes"], ".mark.truth")):
        there = read_boxes(opened, f"#item {selector}")
        assert len(there) == len(boxes) > 0
        assert there == [pytest.approx(box, abs=8) for box in boxes]
    # The page runs the model's calls again to get the tools' images.
    assert opened.locator("#item .step img").count() == 2
    expect(opened.locator("#item .written").first).to_contain_text("<script>")
    expect(opened.locator("#item .written").first).to_contain_text(json.dumps(CALL))
    opened.locator("[data-toggle=truth]").uncheck()
    expect(opened.locator("#item .mark.truth").first).to_be_hidden()
    expect(opened.locator("#item .mark.answered").first).to_be_visible()


def test_filters_keys_and_links(opened, table):
    counts = {
        "fp": table.filter((pl.col("answer") == "Yes") & (pl.col("true_answer") == "No")).height,
        "unparsed": table["answer"].null_count(),
    }
    assert min(counts.values()) > 1
    for outcome, count in counts.items():
        opened.select_option("select[name=outcome]", outcome)
        expect(opened.locator("#shown-count")).to_have_text(f"{count} of {table.height}")
        expect(opened.locator("#position")).to_have_text(f"1 of {count}")
        opened.locator("body").press("ArrowRight")
        expect(opened.locator("#position")).to_have_text(f"2 of {count}")
    expect(opened.locator("#item .fault")).to_have_text(HOSTILE)
    opened.select_option("select[name=tool]", "none")
    expect(opened.locator("#nothing")).to_be_visible()
    expect(opened.locator("#item")).to_be_hidden()
    opened.get_by_role("button", name="Clear").click()
    category = table["category"][-1]
    opened.select_option("select[name=category]", category)
    of_it = table.filter(pl.col("category") == category)
    expect(opened.locator("#shown-count")).to_have_text(f"{of_it.height} of {table.height}")
    opened.locator("#sheet a").last.click()
    expect(opened.locator("#item .facts")).to_contain_text(of_it["sample_id"][-1])
    opened.reload()
    expect(opened.locator("#item .facts")).to_contain_text(of_it["sample_id"][-1])
    opened.get_by_role("button", name="Clear").click()
    opened.select_option("select[name=set]", "held_out")
    expect(opened.locator("#shown-count")).to_have_text(f"{table.height} of {table.height}")
    kind = next(kind for kind in table["true_type"] if kind)
    opened.select_option("select[name=type]", kind)
    named = table.filter(pl.coalesce("true_type", "defect_type") == kind)
    expect(opened.locator("#shown-count")).to_have_text(f"{named.height} of {table.height}")
    opened.get_by_role("button", name="Clear").click()
    opened.select_option("select[name=tool]", table["tools"].explode().drop_nulls()[0])
    used = table.filter(pl.col("tools").list.len() > 0)
    expect(opened.locator("#shown-count")).to_have_text(f"{used.height} of {table.height}")


@pytest.mark.parametrize("width", [1280, 390])
def test_page_fits_window(opened, workspace, width):
    opened.set_viewport_size({"width": width, "height": 844})
    for page in ("items/index.html", "index.html"):
        opened.goto((workspace.reports / page).as_uri())
        assert opened.evaluate("document.documentElement.scrollWidth") == width


def test_section_shows_figures_and_flags(opened, workspace, table):
    facts = read_metrics(workspace.results / "held_out")
    opened.goto((workspace.reports / "index.html").as_uri())
    section = opened.locator("#sec-evaluation")
    text = section.inner_text()
    assert facts.overall.balanced_accuracy and facts.flags
    assert f"{100 * facts.overall.balanced_accuracy.value:.1f}" in text
    for number in (facts.overall.tp, facts.overall.tn, facts.overall.fp, facts.overall.fn):
        assert str(number) in section.locator(".confusion").inner_text().split()
    for flag in facts.flags:
        assert flag in text
    assert facts.macro and f"{100 * facts.macro.value:.1f}" in text
    # A group with a single label has no balanced accuracy.
    for kind, groups in facts.by.items():
        for name, scores in groups.items() if len(groups) > 1 else ():
            cells = section.locator(f"caption:has-text('By {kind}') ~ tbody tr", has_text=name.replace("_", " ")).first
            figure = scores.balanced_accuracy
            expect(cells.locator("td.n").first).to_contain_text(f"{100 * figure.value:.1f}" if figure else "–")
    assert "83.6" in text and "arXiv 2605.20682" in text
    assert HOSTILE in text
    section.get_by_role("link", name="Every evaluated image").click()
    expect(opened.locator("#shown-count")).to_have_text(f"{table.height} of {table.height}")


def test_missing_images_are_reported(workspace, table, tmp_path):
    copy = Workspace(Path(shutil.copytree(workspace.root, tmp_path / "copy")))
    scripts = sorted((copy.reports / "items").glob("items-*.js"))
    assert len(scripts) == -(-table.height // ITEMS_A_SCRIPT)
    gone = table.with_columns(sample_id=pl.col("sample_id").str.replace("held_out/", "held_out/no_such_"))
    PREDICTION.write(gone, copy.results / "held_out" / PREDICTIONS_FILE)
    with pytest.raises(IndusCotError, match=r"no longer in .*held_out.*evaluate held_out"):
        write_items(copy)
    assert sorted((copy.reports / "items").glob("items-*.js")) == scripts
    shutil.rmtree(copy.results)
    report(params(), copy)
    assert not (copy.reports / "items").exists()
    assert 'id="sec-evaluation"' not in (copy.reports / "index.html").read_text("utf-8")
