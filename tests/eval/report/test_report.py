"""The report: what it says is what the corpus holds, and it works in a browser without a network."""

import base64
import json
import os
import re
import shutil
from collections import Counter
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path

import cv2
import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from playwright.sync_api import Browser, BrowserContext, Page, expect, sync_playwright

from cot_builder.corpus.figures import choose, histogram
from cot_builder.storage.workspace import Workspace, file_hash
from eval.report.report import report
from eval.report.trajectory import LEAST_SIDE, picture
from schemas.errors import IndusCotError
from schemas.sample import SAMPLE
from tests.helpers.small_corpus import CATEGORIES, HOSTILE, build, params
from train import record, rollouts

CHROMIUM = os.environ.get("CHROMIUM") or shutil.which("chromium") or shutil.which("chromium-browser")
ARGUMENTS = ["--no-sandbox", "--disable-gpu", "--disable-background-networking", "--disable-component-update",
             "--disable-sync", "--no-first-run"]  # fmt: skip
COLUMNS = ["id", "category", "view", "split", "answer", "boxes", "defect_type", "tool_calls", "trajectory"]


@pytest.fixture(scope="module")
def workspace(tmp_path_factory: pytest.TempPathFactory) -> Workspace:
    built = build(tmp_path_factory.mktemp("report"))
    report(params(), built)
    return built


@pytest.fixture(scope="module")
def page(workspace: Workspace) -> str:
    return (workspace.reports / "index.html").read_text("utf-8")


@pytest.fixture(scope="module")
def rows(workspace: Workspace) -> pl.DataFrame:
    return pl.concat([pl.read_parquet(path, columns=COLUMNS) for path in workspace.indus_cot.glob("data/*.parquet")])


@pytest.fixture
def copy(workspace: Workspace, tmp_path: Path) -> Workspace:
    """The workspace to spoil."""
    shutil.copytree(workspace.root, tmp_path / "copy")
    return Workspace(tmp_path / "copy")


class Tables(HTMLParser):
    """Cells of each table by its caption, header rows left out."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.found: dict[str, list[list[str]]] = {}
        self._caption = self._cell = ""
        self._rows: list[list[str]] = []
        self._inside: set[str] = set()
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self._inside.add(tag)
        if tag == "table":
            self._rows, self._caption = [], ""
        elif tag == "tr":
            self._rows.append([])
        elif tag in ("td", "th"):
            self._cell = ""

    def handle_endtag(self, tag: str) -> None:
        self._inside.discard(tag)
        if tag in ("td", "th"):
            self._rows[-1].append(" ".join(self._cell.split()))
        elif tag == "thead":
            self._rows = []
        elif tag == "table":
            self.found[self._caption.strip()] = self._rows

    def handle_data(self, data: str) -> None:
        if "caption" in self._inside:
            self._caption += data
        elif self._inside & {"td", "th"}:
            self._cell += data


def counts(rows: pl.DataFrame, column: str) -> dict[str, list[str]]:
    """Value of a column to its normal and anomalous trajectories, as the page writes them."""
    tally = Counter(rows.select(column, "answer").iter_rows())
    return {value: [str(tally[value, "No"]), str(tally[value, "Yes"])] for value in rows[column].unique()}


@pytest.mark.parametrize(("caption", "column"), [("Category", "category"), ("View", "view"), ("Split", "split")])
def test_counts_are_those_of_the_corpus(page, rows, caption, column):
    table = Tables(page).found[caption]
    assert {row[0]: row[2:] for row in table} == counts(rows, column)


def test_types_and_tools_are_those_of_the_corpus(page, rows):
    tables = Tables(page).found
    types = Counter(rows["defect_type"].drop_nulls())
    assert {row[0]: int(row[2]) for row in tables["Defect type"]} == types
    callers = Counter(tool for tools in rows["tool_calls"] for tool in set(tools))
    calls = Counter(tool for tools in rows["tool_calls"] for tool in tools)
    used = {row[0]: (int(row[3]), row[4]) for row in tables["Trajectories that call each tool"]}
    silent = sum(len(tools) == 0 for tools in rows["tool_calls"])
    assert used == {tool: (callers[tool], str(calls[tool])) for tool in callers} | {"no tool": (silent, "–")}
    heat = {row[0]: row for row in tables["Tool by defect type: share of the type's trajectories"]}
    scratches = rows.filter(pl.col("defect_type") == "scratch")
    cropped = sum("crop" in tools for tools in scratches["tool_calls"])
    assert heat["scratch"][1] == f"{100 * cropped / len(scratches):.0f} %"
    assert heat["scratch"][-1] == str(len(scratches))
    assert set(heat) == {"scratch", "dent", "normal"}


def test_lengths_are_those_of_the_corpus(page, rows):
    turns = [json.loads(text)["turns"] for text in rows["trajectory"]]
    words = [sum(len(turn["thought"].split()) for turn in item) for item in turns]
    assert f"mean {np.mean(words):.1f}, median" in page
    described = re.search(r"<desc id=\"chart-2-d\">(.*?)</desc>", page).group(1)
    tally = Counter(len(item) for item in turns)
    assert described == "; ".join(f"{n} turns: {tally[n]} trajectories" for n in range(min(tally), max(tally) + 1))


def test_pipeline_says_what_was_left_out_and_why(page, rows):
    funnel = [(row[0], row[2]) for row in Tables(page).found["What became of the training pool"]]
    assert funnel[0] == ("pulled, training sets", "32")
    assert funnel[1] == ("in kept categories", "24")
    assert funnel[-1] == ("in the corpus", str(len(rows)))
    assert "<b>1</b> too &lt;small&gt;" in page
    assert "&lt;b&gt;12&lt;/b&gt; px" in page


def test_gates_and_rejected_drafts_are_told_with_reasons(page, rows):
    failed = {row[0]: row[2] for row in Tables(page).found["What a draft is held to"]}
    assert failed.pop("leak") == failed.pop("length") == "1"
    assert set(failed.values()) == {"0"} and "evidence" in failed
    assert f"{len(rows)} of {len(rows) + 1} drafts of {len(rows)} samples passed" in page
    rejected = page[page.index("Drafts that failed") : page.index('id="sec-leakage"')]
    assert "<b>length</b>: long" in rejected and "<b>leak</b>: thought 1 says" in rejected


def test_leakage_names_categories_and_pairs(page):
    tables = Tables(page).found
    assert tables["Categories dropped"] == [["gear", "gears", "held_out", "same name, normalised", "8"]]
    assert ["widget/0.png", "held_out plate/1.png", "same bytes"] in tables["Pairs that show one picture"]
    assert "none has images in both train and validation" in page


def test_parts_that_straddle_the_splits_are_named(copy):
    path = copy.select / "sample.parquet"
    samples = SAMPLE.read(path).with_columns(pl.lit("one").alias("part_id"))
    SAMPLE.write(samples, path)
    report(params(), copy)
    page = (copy.reports / "index.html").read_text()
    assert "1 part in the corpus" in page
    assert "1 have images in train and validation: mine/one" in page


def test_auto_means_that_nobody_looked(page, rows, copy):
    assert f"No person has looked at any of these {len(rows)} trajectories." in page
    path = next(copy.indus_cot.glob("data/validation-*.parquet"))
    table = pq.read_table(path)
    for name, values in (
        ("review_status", pa.array(["accepted"] * len(table))),
        ("reviewers", pa.array([2] * len(table))),
    ):
        table = table.set_column(table.schema.get_field_index(name), table.schema.field(name), values)
    pq.write_table(table, path)
    report(params(), copy)
    spoken = (copy.reports / "index.html").read_text()
    assert f"A person has looked at {len(table)} of {len(rows)} trajectories" in spoken
    assert "accepted by 2" in spoken


def test_gallery_spreads_over_categories_and_verdicts_and_says_how_many(copy):
    report(params(gallery=6), copy)
    first = (copy.reports / "index.html").read_bytes()
    page = first.decode()
    shown = re.findall(r'data-answer="(\w+)" data-category="(\w+)"', page)
    assert sorted(shown) == sorted((answer, category) for answer in ("No", "Yes") for category in CATEGORIES)
    assert "6 of 22 trajectories are in this page" in page
    report(params(gallery=6), copy)
    assert (copy.reports / "index.html").read_bytes() == first


def test_page_holds_everything_and_hostile_text_stays_text(page):
    assert HOSTILE not in page and page.count("<script") == 2 and '<img src="http' not in page
    sources = re.findall(r'(?:src|href)="([^"]*)"', page)
    assert sources and all(source.startswith(("data:", "#")) for source in sources)
    assert not re.search(r"@import|url\((?!#)", page)


@pytest.mark.parametrize(
    "missing",
    [
        "data/indus_cot/data", "data/indus_cot/manifest.json", "reports/gates.json", "data/draft/rejected.parquet",
        "data/draft/manifest.json", "data/select/leakage.json", "data/select/sample.parquet", "data/select/manifest.json",
        "data/pull/mine/manifest.json", "data/patch/manifest.json",
    ],
)  # fmt: skip
def test_a_missing_input_is_one_message_and_leaves_the_report_alone(copy, missing):
    before = (copy.reports / "index.html").read_bytes()
    path = copy.root / missing
    shutil.rmtree(path) if path.is_dir() else path.unlink()
    with pytest.raises(IndusCotError) as caught:
        report(params(), copy)
    assert str(path.parent) in str(caught.value) and "indus-cot" in str(caught.value)
    assert (copy.reports / "index.html").read_bytes() == before


def test_damaged_inputs_are_named(copy):
    shard = next(copy.indus_cot.glob("data/train-*.parquet"))
    whole = shard.read_bytes()
    shard.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(IndusCotError, match=re.escape(shard.name)):
        report(params(), copy)
    table = pq.read_table(pa.BufferReader(whole))
    pq.write_table(table.drop_columns(["boxes"]), shard)
    with pytest.raises(IndusCotError, match="boxes"):
        report(params(), copy)
    pq.write_table(table.drop_columns(["tool_calls"]), shard)
    with pytest.raises(IndusCotError, match="no column tool_calls"):
        report(params(), copy)
    shard.write_bytes(whole)
    (copy.reports / "gates.json").write_text("{")
    with pytest.raises(IndusCotError, match=r"gates\.json: no valid JSON"):
        report(params(), copy)


@given(st.lists(st.integers(0, 5000), min_size=1, max_size=60))
def test_a_histogram_counts_every_value_in_its_bin(values):
    chart = histogram(pl.Series(values), "words", "words")
    assert len(chart.bins) <= 14
    expected = dict.fromkeys((name for name, _ in chart.bins), 0)
    for value in values:
        inside = [name for name in expected if int(name.split("–")[0]) <= value <= int(name.split("–")[-1])]
        assert len(inside) == 1
        expected[inside[0]] += 1
    assert dict(chart.bins) == expected


@given(
    st.lists(st.tuples(st.sampled_from("abc"), st.sampled_from(["Yes", "No"])), min_size=1, max_size=40),
    st.integers(1, 50),
    st.randoms(use_true_random=False),
)
def test_the_choice_is_even_and_does_not_depend_on_order(kinds, count, random):
    lines = [
        {"id": str(number), "category": category, "answer": answer, "defect_type": None, "view": "C1"}
        for number, (category, answer) in enumerate(kinds)
    ]
    schema = dict.fromkeys(lines[0], pl.String())
    chosen = choose(pl.DataFrame(lines, schema=schema), count)
    assert len(chosen) == min(count, len(lines))
    taken, there = Counter(chosen.select("category", "answer").iter_rows()), Counter(kinds)
    most = max(taken.values())
    assert all(taken[kind] >= min(most - 1, there[kind]) for kind in there)
    random.shuffle(lines)
    assert choose(pl.DataFrame(lines, schema=schema), count)["id"].to_list() == chosen["id"].to_list()


@settings(deadline=None)
@given(st.integers(1, 500), st.integers(1, 500), st.integers(500, 20_000))
def test_pictures_keep_to_their_limits(height, width, limit):
    noise = np.random.default_rng(height).integers(0, 256, (height, width, 3), dtype=np.uint8)
    made = picture(noise, 300, limit)
    assert (made.width, made.height) == (width, height)
    encoded = np.frombuffer(base64.b64decode(made.uri.partition(",")[2]), np.uint8)
    small = cv2.imdecode(encoded, cv2.IMREAD_COLOR)
    assert max(small.shape) <= 300
    assert len(encoded) <= limit or max(small.shape) <= LEAST_SIDE
    assert max(small.shape) == min(300, max(height, width)) or len(encoded) <= limit or max(small.shape) == LEAST_SIDE


# --- with trainings -------------------------------------------------------------------------------------------------

LOGS = 400


@pytest.fixture(scope="module")
def trained(workspace: Workspace, tmp_path_factory: pytest.TempPathFactory) -> Workspace:
    """The workspace with what trainings and `make learn` leave there."""
    root = tmp_path_factory.mktemp("trained") / "copy"
    shutil.copytree(workspace.root, root)
    made = Workspace(root)
    steps = range(1, LOGS + 1)
    record.write_curve(
        [{"step": step, "loss": 3 - step / LOGS, "mean_token_accuracy": 0.5} for step in steps],
        made.reports / "sft" / "curve.csv",
    )
    record.write_metrics({"trajectories": 22, "loss": 2.0, "seconds": 12.5}, made.reports / "sft.json")
    record.write_curve(
        [{"step": step, "loss": 0.0, "reward": -0.5 + step / 4, "kl": 0.0, "valid": 0.75} for step in (1, 2, 3)],
        made.reports / "grpo" / "curve.csv",
    )
    both = {"reward": -0.25, "confidence_gain": None}, {"reward": 0.25, "confidence_gain": 0.0012}
    record.write_metrics({"steps": 3, "first": both[0], "last": both[1]}, made.reports / "grpo.json")
    image = Image.new("RGB", (400, 300), "grey")
    asked = [{"role": "user", "content": [{"type": "image", "image": image}, {"type": "text", "text": "Inspect it."}]}]
    for step in (1, 2, 3):
        done = [
            {"role": "assistant", "content": f"{HOSTILE} {'long ' * 400}of step {step}", "tool_calls": []},
            {"role": "tool", "content": [{"type": "image", "image": image}, {"type": "text", "text": "x" * 300}]},
        ]
        kept = [rollouts.rollout(f"row-{n}", asked, done, "No", {"reward": step / 4, "format": -1.0}) for n in range(8)]
        rollouts.save(made.grpo / "rollouts", step, kept)
    values = {"mean": 0.5, "low": 0.25, "high": 0.75}
    (made.reports / "learn.json").write_text(
        json.dumps(
            {
                "seeds": 3,
                "arms": {"sft": {"reward": values, "valid": values}, "grpo": {"reward": values, "valid": values}},
                "claims": [
                    {"claim": "GRPO beats SFT", "statistic": "balanced_accuracy", **values, "holds": True},
                    {"claim": "tools beat none", "statistic": "reward", **values, "low": -0.1, "holds": False},
                ],
                "curves": [[{"reward": seed / 10 + step / 100} for step in range(5)] for seed in range(3)],
                "seen": {"small, global view": 0.52},
            }
        )
    )
    report(params(), made)
    return made


def test_without_a_training_there_is_no_such_section(page):
    assert '"#sec-training"' not in page and 'id="sec-training"' not in page


def test_trainings_are_told_with_curves_figures_and_rollouts(trained):
    page = (trained.reports / "index.html").read_text("utf-8")
    tables = Tables(page).found
    assert tables["Fine-tuning in figures"] == [["trajectories", "22"], ["loss", "2"], ["seconds", "12.5"]]
    assert tables["Reinforcement in figures"] == [["reward", "-0.25", "0.25"], ["confidence gain", "–", "0.0012"]]
    described = dict(re.findall(r'<desc id="(\w+-\d+)-d">(.*?)</desc>', page))
    assert described["grpo-1"] == "steps 1 to 3: -0.25 to 0.25"
    assert described["learn-1"] == "steps 1 to 5: 0 to 0.04; 0.1 to 0.14; 0.2 to 0.24"
    drawn = [points.split() for points in re.findall(r'<polyline points="([^"]*)" class="line"', page)]
    assert len(drawn[0]) == 134, "400 steps, three at a time"
    inside = [tuple(map(float, point.split(","))) for points in drawn for point in points]
    assert all(40 <= x <= 324 and 8 <= y <= 112 for x, y in inside)
    first, flat = drawn[0], drawn[1]
    assert float(first[0].split(",")[1]) < float(first[-1].split(",")[1]), "the loss falls"
    assert {point.split(",")[1] for point in flat} == {"60.0"}
    assert "of step 1" in page and "of step 3" in page and "of step 2" not in page
    assert page.count('class="rollout"') == 8
    assert HOSTILE not in page and page.count("<script") == 2


def test_the_proof_is_told_with_what_did_not_hold(trained):
    page = (trained.reports / "index.html").read_text("utf-8")
    tables = Tables(page).found
    assert tables["What had to hold"] == [
        ["GRPO beats SFT", "balanced accuracy", "0.500 [0.250, 0.750]", "yes"],
        ["tools beat none", "reward", "0.500 [-0.100, 0.750]", "no"],
    ]
    assert tables["Each policy"][1] == ["grpo", "0.500 [0.250, 0.750]", "0.500 [0.250, 0.750]"]


def test_a_model_of_another_corpus_is_called_so(trained, tmp_path):
    copy = Workspace(Path(shutil.copytree(trained.root, tmp_path / "copy")))
    shards = {path.name: file_hash(path) for path in copy.indus_cot.glob("data/*.parquet")}
    manifest = {"seconds": 1.0, "counts": {}, "left_out": {}, "versions": {}}

    def spoken(inputs: dict[str, str]) -> str:
        copy.sft.mkdir(parents=True, exist_ok=True)
        (copy.sft / "manifest.json").write_text(json.dumps({**manifest, "stage": "sft", "inputs": inputs}))
        report(params(), copy)
        return (copy.reports / "index.html").read_text("utf-8")

    assert "trained on another corpus" not in spoken(shards)
    assert "trained on another corpus" in spoken(shards | dict.fromkeys(shards, "0" * 64))


def test_a_training_under_way_shows_its_curve_and_a_damaged_one_is_named(trained, tmp_path):
    copy = Workspace(Path(shutil.copytree(trained.root, tmp_path / "copy")))
    (copy.reports / "sft.json").unlink()
    report(params(), copy)
    page = (copy.reports / "index.html").read_text("utf-8")
    assert "there are no final figures yet" in page and 'id="sft-1-d"' in page
    (copy.reports / "sft" / "curve.csv").write_text("step,loss\n1,two\n")
    with pytest.raises(IndusCotError, match=r"sft/curve\.csv: no curve .* run `indus-cot sft` again"):
        report(params(), copy)


@pytest.mark.parametrize("width", [1280, 390])
def test_trainings_fit_the_window_and_load_nothing(chromium, trained, width):
    context = chromium.new_context(viewport={"width": width, "height": 844})
    visit = Visit(context, trained.reports / "index.html")
    wide = visit.page.evaluate(
        """() => {
          for (const item of document.querySelectorAll("details")) item.open = true;
          return document.documentElement.scrollWidth;
        }"""
    )
    assert wide == width
    assert visit.page.locator(".rollout img").count() == 16
    assert visit.page.evaluate("[...document.querySelectorAll('.rollout img')].every(i => i.naturalWidth > 0)")
    assert visit.outside() == [] and visit.complaints == []
    context.close()


# --- in a browser ---------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def chromium() -> Iterator[Browser]:
    if not CHROMIUM:
        pytest.skip("no chromium here: install it, or say where it is in CHROMIUM")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=ARGUMENTS)
        yield browser
        browser.close()


class Visit:
    """An opened report, with what the browser asked for and complained of."""

    def __init__(self, context: BrowserContext, path: Path, fragment: str = "") -> None:
        self.requests: list[str] = []
        self.complaints: list[str] = []
        self.page: Page = context.new_page()
        self.page.on("request", lambda request: self.requests.append(request.url))
        self.page.on("console", lambda message: self.complaints.append(message.text))
        self.page.on("pageerror", lambda error: self.complaints.append(str(error)))
        self.url = path.as_uri()
        self.page.goto(self.url + fragment)

    def outside(self) -> list[str]:
        return [url for url in self.requests if not url.startswith(("data:", self.url))]

    def current(self) -> list[str]:
        return self.page.eval_on_selector_all(
            "article.trajectory", "all => all.filter(a => a.checkVisibility()).map(a => a.id)"
        )

    def shown(self) -> str:
        return self.page.inner_text("#shown-count")


@pytest.fixture
def opened(chromium: Browser, workspace: Workspace) -> Iterator[Visit]:
    context = chromium.new_context(viewport={"width": 1280, "height": 900}, reduced_motion="reduce")
    visit = Visit(context, workspace.reports / "index.html")
    yield visit
    assert visit.outside() == [] and visit.complaints == []
    context.close()


def test_every_image_loads_and_nothing_leaves_the_page(opened, rows):
    broken = opened.page.evaluate(
        "Promise.all([...document.images].map(i => i.decode().then(() => 0, () => 1))).then(a => a.reduce((x, y) => x + y))"
    )
    assert broken == 0
    stored = sum(
        bool((turn["observation"] or {}).get("image_sha256"))
        for text in rows["trajectory"]
        for turn in json.loads(text)["turns"]
    )
    assert opened.page.locator(".observation img").count() == stored > 0
    assert opened.page.title() == "Indus-CoT: corpus report"


@pytest.mark.parametrize("width", [1280, 390])
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_nothing_is_wider_than_the_window(chromium, workspace, rows, width, scheme):
    context = chromium.new_context(viewport={"width": width, "height": 844}, color_scheme=scheme)
    visit = Visit(context, workspace.reports / "index.html")
    wide = visit.page.evaluate(
        """() => {
          for (const item of document.querySelectorAll("details")) item.open = true;
          const widths = [document.documentElement.scrollWidth];
          for (let n = 1; n < document.querySelectorAll("article").length; n++) {
            document.getElementById("next").click();
            widths.push(document.documentElement.scrollWidth);
          }
          return widths;
        }"""
    )
    assert wide == [width] * len(rows)
    assert visit.outside() == [] and visit.complaints == []
    context.close()


def test_filters_change_what_is_shown_and_the_count(opened, rows):
    page, total = opened.page, len(rows)
    assert opened.shown() == f"{total} of {total}"
    page.select_option("[name=answer]", "Yes")
    defective = rows.filter(pl.col("answer") == "Yes")
    assert opened.shown() == f"{len(defective)} of {total}"
    assert page.locator("#sheet li:visible").count() == len(defective)
    page.select_option("[name=tool]", "prior")
    with_prior = defective.filter(pl.col("tool_calls").list.contains("prior"))
    assert opened.shown() == f"{len(with_prior)} of {total}"
    page.select_option("[name=category]", "flange")
    assert opened.shown() == f"{len(with_prior.filter(pl.col('category') == 'flange'))} of {total}"
    page.click("button[type=reset]")
    expect(page.locator("#shown-count")).to_have_text(f"{total} of {total}")
    page.select_option("[name=tool]", "none")
    assert opened.shown() == f"{sum(len(tools) == 0 for tools in rows['tool_calls'])} of {total}"
    page.select_option("[name=tool]", "")
    for name, column in (("type", "defect_type"), ("view", "view"), ("split", "split")):
        value = rows[column].drop_nulls().sort()[0]
        page.select_option(f"[name={name}]", value)
        assert opened.shown() == f"{len(rows.filter(pl.col(column) == value))} of {total}"
        page.select_option(f"[name={name}]", "")
    page.fill("[name=text]", "ONERROR inspection")
    assert opened.shown() == f"{sum('onerror' in text for text in rows['trajectory'])} of {total}"
    page.fill("[name=text]", "no such words")
    assert opened.shown() == f"0 of {total}" and opened.current() == []
    assert page.is_visible("#nothing") and page.is_disabled("#next") and page.is_disabled("#previous")


def test_keys_and_buttons_step_through_what_is_shown(opened):
    page = opened.page
    page.select_option("[name=answer]", "No")
    page.keyboard.press("Escape")
    order = page.eval_on_selector_all("article[data-answer=No]", "all => all.map(a => a.id)")
    assert opened.current() == [order[0]] and page.is_disabled("#previous")
    page.click("#next")
    assert opened.current() == [order[1]]
    assert page.evaluate("location.hash") == f"#{order[1]}"
    page.evaluate("document.activeElement.blur()")
    page.keyboard.press("ArrowRight")
    page.keyboard.press("j")
    assert opened.current() == [order[3]] and page.inner_text("#position") == f"4 of {len(order)}"
    page.keyboard.press("ArrowLeft")
    page.keyboard.press("k")
    page.click("#previous")
    assert opened.current() == [order[0]]
    page.keyboard.press("/")
    page.keyboard.type("jjj")
    assert page.input_value("[name=text]") == "jjj"
    page.fill("[name=text]", "")
    page.click(f'#sheet a[data-of="{order[-1]}"]')
    assert opened.current() == [order[-1]] and page.is_disabled("#next")


def test_a_deep_link_opens_its_trajectory_whatever_the_filters(chromium, workspace, rows):
    target = rows.filter(pl.col("answer") == "Yes")["id"][-1]
    context = chromium.new_context(reduced_motion="reduce")
    visit = Visit(context, workspace.reports / "index.html", f"#{target}")
    assert visit.current() == [target]
    assert visit.page.evaluate(f"document.getElementById('{target}').getBoundingClientRect().top") < 400
    visit.page.select_option("[name=answer]", "No")
    assert target not in visit.current()
    visit.page.evaluate(f"location.hash = '{target}'")
    expect(visit.page.locator(f"[id='{target}']")).to_be_visible()
    assert visit.current() == [target] and visit.shown() == f"{len(rows)} of {len(rows)}"
    context.close()


def test_boxes_lie_where_the_corpus_says_and_toggles_hold_for_the_next(opened, rows):
    page = opened.page
    page.select_option("[name=answer]", "Yes")
    [shown] = opened.current()
    frame = page.locator(f"[id='{shown}'] .frame").bounding_box()
    box = page.locator(f"[id='{shown}'] .mark.verdict").first.bounding_box()
    drawn = [
        (box["x"] - frame["x"]) / frame["width"],
        (box["y"] - frame["y"]) / frame["height"],
        (box["x"] + box["width"] - frame["x"]) / frame["width"],
        (box["y"] + box["height"] - frame["y"]) / frame["height"],
    ]
    [truth] = rows.filter(pl.col("id") == shown)["boxes"].to_list()
    assert np.allclose(drawn, np.array(truth[0]) / 1000, atol=0.005)
    visible = "article.current .mark.{}:visible"
    assert page.locator(visible.format("verdict")).count() and not page.locator(visible.format("patch")).count()
    page.uncheck("article.current [data-toggle=verdict]")
    page.check("article.current [data-toggle=patch]")
    assert not page.locator(visible.format("verdict")).count() and page.locator(visible.format("patch")).count() == 1
    page.click("#next")
    assert not page.locator(visible.format("verdict")).count() and page.locator(visible.format("patch")).count() == 1


def test_a_step_shows_where_its_tool_looked(opened, rows):
    page = opened.page
    target = rows.filter(pl.col("tool_calls").list.len() == 4)["id"][0]
    page.click(f'#sheet a[data-of="{target}"]')
    assert page.locator("article.current .mark.tool:not(.line):visible b").all_inner_texts() == [
        "1",
        "3",
        "4.1",
        "4.2",
        "4.3",
    ]
    page.hover("article.current .step[data-step='3'] .thought")
    assert page.locator("article.current .frame .lit").all_inner_texts() == ["3"]
    page.uncheck("article.current [data-toggle=tool]")
    assert page.locator("article.current .mark.tool:visible").count() == 0


def test_without_script_every_trajectory_can_be_read(chromium, workspace, rows):
    context = chromium.new_context(java_script_enabled=False)
    page = context.new_page()
    page.goto((workspace.reports / "index.html").as_uri())
    assert page.locator("article.trajectory:visible").count() == len(rows)
    assert page.locator("#filters:visible, .pager:visible").count() == 0
    assert page.locator("#sheet a").count() == len(rows)
    context.close()
