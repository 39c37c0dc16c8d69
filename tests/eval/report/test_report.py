"""Tests that the report matches the corpus, and names unreadable inputs."""

import base64
import json
import re
import shutil
from collections import Counter

import cv2
import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cot_builder.corpus.figures import choose_gallery, make_histogram
from eval.report.report import report
from eval.report.trajectory import MIN_SIDE, encode_picture
from schemas.errors import IndusCotError
from schemas.sample import SAMPLE
from tests.helpers.report_page import Tables
from tests.helpers.small_corpus import CATEGORIES, HOSTILE, params


def counts(rows: pl.DataFrame, column: str) -> dict[str, list[str]]:
    """Return the counts of normal and anomalous trajectories for each value of a column, as the page shows them."""
    tally = Counter(rows.select(column, "answer").iter_rows())
    return {value: [str(tally[value, "No"]), str(tally[value, "Yes"])] for value in rows[column].unique()}


@pytest.mark.parametrize(("caption", "column"), [("Category", "category"), ("View", "view"), ("Split", "split")])
def test_counts_match_corpus(page, rows, caption, column):
    table = Tables(page).rows_by_caption[caption]
    assert {row[0]: row[2:] for row in table} == counts(rows, column)


def test_types_and_tools_match_corpus(page, rows):
    tables = Tables(page).rows_by_caption
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


def test_lengths_match_corpus(page, rows):
    turns = [json.loads(text)["turns"] for text in rows["trajectory"]]
    words = [sum(len(turn["thought"].split()) for turn in item) for item in turns]
    assert f"mean {np.mean(words):.1f}, median" in page
    described = re.search(r"<desc id=\"chart-2-d\">(.*?)</desc>", page).group(1)
    tally = Counter(len(item) for item in turns)
    assert described == "; ".join(f"{n} turns: {tally[n]} trajectories" for n in range(min(tally), max(tally) + 1))


def test_pipeline_lists_left_out_items(page, rows):
    funnel = [(row[0], row[2]) for row in Tables(page).rows_by_caption["Training pool, stage by stage"]]
    assert funnel[0] == ("pulled, training sets", "32")
    assert funnel[1] == ("in kept categories", "24")
    assert funnel[-1] == ("in the corpus", str(len(rows)))
    assert "<b>1</b> too &lt;small&gt;" in page
    assert "&lt;b&gt;12&lt;/b&gt; px" in page


def test_rejected_drafts_have_reasons(page, rows):
    failed = {row[0]: row[2] for row in Tables(page).rows_by_caption["Gates of a draft"]}
    assert failed.pop("leak") == failed.pop("length") == "1"
    assert set(failed.values()) == {"0"} and "evidence" in failed
    assert f"{len(rows)} of {len(rows) + 1} drafts of {len(rows)} samples passed" in page
    rejected = page[page.index("Rejected drafts") : page.index('id="sec-leakage"')]
    assert "<b>length</b>: long" in rejected and "<b>leak</b>: thought 1 says" in rejected


def test_leakage_lists_categories_and_pairs(page):
    tables = Tables(page).rows_by_caption
    assert tables["Categories dropped"] == [["gear", "gears", "held_out", "same name, normalised", "8"]]
    assert ["widget/0.png", "held_out plate/1.png", "same bytes"] in tables["Pairs that show the same picture"]
    assert "none has images in both train and validation" in page


def test_parts_in_both_splits_are_named(copy):
    path = copy.select / "sample.parquet"
    samples = SAMPLE.read(path).with_columns(pl.lit("one").alias("part_id"))
    SAMPLE.write(samples, path)
    report(params(), copy)
    page = (copy.reports / "index.html").read_text()
    assert "1 part in the corpus" in page
    assert "1 have images in train and validation: mine/one" in page


def test_review_status_is_stated(page, rows, copy):
    assert f"No person has reviewed any of these {len(rows)} trajectories." in page
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
    assert f"A person has reviewed {len(table)} of {len(rows)} trajectories" in spoken
    assert "accepted by 2" in spoken


def test_gallery_is_balanced_and_deterministic(copy):
    report(params(gallery=6), copy)
    first = (copy.reports / "index.html").read_bytes()
    page = first.decode()
    shown = re.findall(r'data-answer="(\w+)" data-category="(\w+)"', page)
    assert sorted(shown) == sorted((answer, category) for answer in ("No", "Yes") for category in CATEGORIES)
    assert "6 of 22 trajectories are in this page" in page
    report(params(gallery=6), copy)
    assert (copy.reports / "index.html").read_bytes() == first


def test_page_is_self_contained_and_escaped(page):
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
def test_missing_input_keeps_old_report(copy, missing):
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
    with pytest.raises(IndusCotError, match=r"gates\.json: invalid JSON"):
        report(params(), copy)


@given(st.lists(st.integers(0, 5000), min_size=1, max_size=60))
def test_histogram_counts_every_value(values):
    chart = make_histogram(pl.Series(values), "words", "words")
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
def test_gallery_choice_is_balanced(kinds, count, random):
    lines = [
        {"id": str(number), "category": category, "answer": answer, "defect_type": None, "view": "C1"}
        for number, (category, answer) in enumerate(kinds)
    ]
    schema = dict.fromkeys(lines[0], pl.String())
    chosen = choose_gallery(pl.DataFrame(lines, schema=schema), count)
    assert len(chosen) == min(count, len(lines))
    taken, there = Counter(chosen.select("category", "answer").iter_rows()), Counter(kinds)
    most = max(taken.values())
    assert all(taken[kind] >= min(most - 1, there[kind]) for kind in there)
    random.shuffle(lines)
    assert choose_gallery(pl.DataFrame(lines, schema=schema), count)["id"].to_list() == chosen["id"].to_list()


@settings(deadline=None)
@given(st.integers(1, 500), st.integers(1, 500), st.integers(500, 20_000))
def test_pictures_respect_limits(height, width, limit):
    noise = np.random.default_rng(height).integers(0, 256, (height, width, 3), dtype=np.uint8)
    made = encode_picture(noise, 300, limit)
    assert (made.width, made.height) == (width, height)
    encoded = np.frombuffer(base64.b64decode(made.uri.partition(",")[2]), np.uint8)
    small = cv2.imdecode(encoded, cv2.IMREAD_COLOR)
    assert max(small.shape) <= 300
    assert len(encoded) <= limit or max(small.shape) <= MIN_SIDE
    assert max(small.shape) == min(300, max(height, width)) or len(encoded) <= limit or max(small.shape) == MIN_SIDE
