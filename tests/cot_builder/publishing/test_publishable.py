"""What leaves: licences, hashes, reviews and shards as they are written, without a Hub."""

import os
import re
import shutil
from collections.abc import Callable
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from cot_builder.corpus.drafts import ObservationImages
from cot_builder.corpus.writing import row_id
from cot_builder.params import Params, load_params
from cot_builder.publishing import card, changes, shards
from cot_builder.publishing.configs import CONFIGS, features, schema
from cot_builder.publishing.index import INDEX
from cot_builder.publishing.publish import plan
from cot_builder.publishing.publishable import build_shards
from cot_builder.publishing.report import describe_plan
from cot_builder.publishing.shards import choose_shard_bits, write_shard
from cot_builder.publishing.sources import read_sources
from cot_builder.stages.assemble import assemble
from cot_builder.storage.images import encode_png
from cot_builder.storage.output import read_manifest
from cot_builder.storage.samples import SampleImages
from cot_builder.storage.workspace import Workspace
from schemas.errors import IndusCotError
from schemas.review import REVIEW, Review
from schemas.trajectory import DRAFT, Draft
from tests.helpers import small_corpus
from tests.helpers.browser import CHROMIUM, chromium
from tests.helpers.publication import STATED, change, mark_validated, write_params

STATE = {"version": "1.0.0", "changelog": [{"version": "1.0.0", "date": "2026-03-04", "rows": 22, "note": ""}]}


def built(root: Path) -> dict[str, list[dict[str, Any]]]:
    """Rows of every configuration, as they are written now."""
    folder = build_shards(load_params(root=root), Workspace(root))
    return {
        config: [
            row for path in sorted((folder / config).rglob("*.parquet")) for row in pq.read_table(path).to_pylist()
        ]
        for config in CONFIGS
    }


def with_reviews(root: Path, what: Callable[[list[Review]], list[Review]]) -> None:
    """Other reviews, in a folder of the copy's own, as if the corpus had been assembled with them."""
    path = root / "data/review"
    reviews: list[Review] = REVIEW.records(REVIEW.read(path / "reviews.parquet"))
    if path.is_symlink():
        path.unlink()
        path.mkdir()
    REVIEW.write(REVIEW.frame(what(reviews)), path / "reviews.parquet")
    mark_validated(root)


def own_drafts(root: Path) -> None:
    """Put a copy of the drafts in place of the link to those that all tests share."""
    shutil.copytree(root / "data/draft", root / "draft")
    (root / "data/draft").unlink()
    (root / "draft").rename(root / "data/draft")


def card_of(root: Path, params: Params | None = None) -> str:
    workspace, params = Workspace(root), params or load_params(root=root)
    build_shards(params, workspace)
    return card.render_card("owner/name", params, workspace, read_sources(params, workspace.indus_cot), STATE)[
        "README.md"
    ].decode()


# --- licences ---------------------------------------------------------------------------------------


def test_row_licence_covers_texts_and_image(copy: Path) -> None:
    rows = built(copy)
    assert {row["licence"] for config in CONFIGS for row in rows[config]} == {"cc-by-4.0"}
    assert {row["image_licence"] for row in rows["sft"] + rows["rl"] + rows["preference"]} == {"CC BY 4.0"}
    for stated, due in (("CC BY-NC-SA 4.0", "cc-by-nc-sa-4.0"), ("ours", "other: cc-by-4.0 and ours")):
        change(copy, lambda found, stated=stated: [row.update(licence=stated) for row in found], "*")
        (copy / "params.yaml").unlink()
        write_params(copy, mine=STATED | {"licence": stated})
        rows = built(copy)
        assert {row["licence"] for row in rows["sft"] + rows["rl"] + rows["preference"]} == {due}
        # A review shows no image.
        assert {row["licence"] for row in rows["review"]} == {"cc-by-4.0"}
    text = card_of(copy)
    assert "license: other" in text and "Its parts have cc-by-4.0, other" in text


# --- what was validated -----------------------------------------------------------------------------


def _accept(row: dict[str, Any]) -> None:
    row.update(review_status="accepted", reviewers=2)


def _repaint(row: dict[str, Any]) -> None:
    row["images"][0]["bytes"] = encode_png(np.zeros((8, 8, 3), np.uint8))


@pytest.mark.parametrize("spoil", [_accept, _repaint, lambda row: row.update(teacher="another")])
def test_row_changed_after_assemble_is_refused(copy: Path, spoil: Callable[[dict[str, Any]], None]) -> None:
    shard = copy / "data/indus_cot/data/train-00000.parquet"
    table, before = pq.read_table(shard), shard.stat()
    rows = table.to_pylist()
    spoil(rows[0])
    pq.write_table(pa.Table.from_pylist(rows, schema=table.schema), shard)
    os.utime(shard, ns=(before.st_atime_ns, before.st_mtime_ns))
    with pytest.raises(IndusCotError, match=r"train-00000.*changed after it was validated.*repro assemble"):
        built(copy)


def test_image_under_wrong_hash_is_refused(copy: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for place, name, word in ((SampleImages, "original", "data/pull/mine"), (ObservationImages, "get", "data/draft")):
        with monkeypatch.context() as patch:
            real = getattr(place, name)
            patch.setattr(place, name, lambda self, key, real=real: real(self, key) + b" ")
            with pytest.raises(IndusCotError, match=f"in {word} does not match its hash"):
                assemble(small_corpus.params(), Workspace(copy))


# --- what is written again --------------------------------------------------------------------------


def test_build_is_reused_only_if_unchanged(copy: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    built(copy)
    manifest = copy / "data/publish/manifest.json"
    first = manifest.stat().st_ino
    built(copy)
    assert manifest.stat().st_ino == first
    shard = next((copy / "data/publish/sft/train").glob("*.parquet"))
    whole = shard.read_bytes()
    pq.write_table(pq.read_table(shard).slice(0, 0), shard)
    built(copy)
    assert manifest.stat().st_ino != first and shard.read_bytes() == whole
    monkeypatch.setenv("OUR_SECRET", "ends for inspection")
    with pytest.raises(IndusCotError, match="holds a secret"):
        built(copy)


def test_truncated_salt_is_refused(copy: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (copy / ".indus-cot").unlink()
    with monkeypatch.context() as patch:

        def killed(*_: Any) -> None:
            raise KeyboardInterrupt

        patch.setattr(os, "replace", killed)
        with pytest.raises(KeyboardInterrupt):
            built(copy)
    assert not (copy / ".indus-cot/publish.salt").exists()
    names = {row["reviewer"] for row in built(copy)["review"]}
    (copy / ".indus-cot/publish.salt").write_text("")
    with pytest.raises(IndusCotError, match="truncated, so its pseudonyms could be guessed"):
        built(copy)
    (copy / ".indus-cot/publish.salt").unlink()
    # Another salt, other pseudonyms: what is there does not do.
    assert names.isdisjoint(row["reviewer"] for row in built(copy)["review"])


# --- reviews ----------------------------------------------------------------------------------------


def test_gold_pages_and_rejections_are_decisions(copy: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    drafts: list[Draft] = DRAFT.records(DRAFT.read(copy / "data/draft/trajectory.parquet"))
    turned_down, planted = drafts[3], drafts[5]

    def more(reviews: list[Review]) -> list[Review]:
        def said(number: int, draft: Draft, **more: Any) -> Review:
            values = {"review_id": f"1/{number}", "draft_id": draft.draft_id, "draft_sha256": draft.draft_sha256}
            return reviews[0].model_copy(update=values | {"changes": [], "verdict": "rejected"} | more)

        return [
            *reviews,
            said(2, turned_down, reasons=["wrong type"]),
            said(3, planted, draft_sha256="e" * 64, role="gold", caught=True),
            said(4, planted, draft_sha256="f" * 64),
            said(5, planted, draft_id="gone#0", draft_sha256="d" * 64),
        ]

    before = built(copy)
    index = changes.load_index(str(copy / "data/publish"))
    with_reviews(copy, more)
    assemble(load_params(root=copy).model_copy(update={"pull": small_corpus.params().pull}), Workspace(copy))
    rows = {(row["row"], row["role"], row["verdict"]): row for row in built(copy)["review"]}
    assert len(before["review"]) == 1 and len(rows) == 3
    assert rows[row_id(turned_down.draft_id), "review", "rejected"]["reasons"] == ["wrong type"]
    assert rows[row_id(planted.draft_id), "gold", "rejected"]["caught"] is True
    counts = read_manifest(copy / "data/publish")["counts"]
    assert counts["reviews left out: of earlier drafts"] == counts["reviews left out: of drafts that are no more"] == 1
    assert counts["reviews of drafts that are no row"] == 1
    found = changes.compare(index, changes.load_index(str(copy / "data/publish")))
    assert found.removed == [row_id(turned_down.draft_id)] and found.rereviewed == [row_id(planted.draft_id)]
    assert "reviews left out: of earlier drafts: 1" in card_of(copy)
    monkeypatch.setattr("huggingface_hub.get_token", lambda: None)
    planned, _ = plan(load_params(root=copy), Workspace(copy), "owner/name", offline=True)
    for line in ("reviews left out: of earlier drafts: 1", "reviews of drafts that are no row: 1"):
        assert f"\n  {line}\n" in describe_plan(planned)


def test_ratings_and_rejected_drafts_are_changes(copy: Path) -> None:
    built(copy)
    index = changes.load_index(str(copy / "data/publish"))
    with_reviews(copy, lambda reviews: [reviews[0].model_copy(update={"logic_rating": 1})])
    rated = built(copy)["review"][0]["row"]
    again = changes.load_index(str(copy / "data/publish"))
    assert changes.compare(index, again)._replace(same=0) == changes.Changes([], [], [], [rated], 0, 0, 0)
    own_drafts(copy)
    path = copy / "data/draft/rejected.parquet"
    drafts: list[Draft] = DRAFT.records(DRAFT.read(path))
    kept = [draft for draft in drafts if [item.gate for item in draft.violations] != ["length"]]
    assert len(kept) < len(drafts)
    DRAFT.write(DRAFT.frame(kept), path)
    (gone,) = [
        row["row"] for row in (pq.read_table(copy / "data/publish/preference").to_pylist()) if row["origin"] == "gates"
    ]
    built(copy)
    found = changes.compare(again, changes.load_index(str(copy / "data/publish")))
    assert found.rereviewed == [gone] and not found.changed
    # An index of version 1 of the format knows nothing of them, and a corpus on this machine neither.
    (copy / "old").mkdir()
    index.drop("reviews_sha256", "pairs_sha256").write_parquet(copy / "old" / INDEX)
    for other in (copy / "old", copy / "data/indus_cot"):
        assert not changes.compare(changes.load_index(str(other)), again).has_changes


def test_moved_row_changes_corpus_hash(copy: Path) -> None:
    """A model that was trained on it must not be said to come from the corpus in which it was held out."""
    built(copy)
    index = changes.load_index(str(copy / "data/publish"))
    one = index.filter(pl.col("split") == "validation")["id"][0]
    other = index.with_columns(split=pl.when(pl.col("id") == one).then(pl.lit("train")).otherwise("split"))
    found = changes.compare(index, other)
    assert (found.changed, found.texts, found.moved) == ([one], 0, 1)
    assert changes.hash_rows(index) != changes.hash_rows(other)
    (copy / "other").mkdir()
    other.write_parquet(copy / "other" / INDEX)
    assert (
        "0 with another text or other facts, 1 moved to another split"
        in changes.diff(str(copy / "data/publish"), str(copy / "other"))[1]
    )


# --- shards -----------------------------------------------------------------------------------------


def test_shard_size_and_number() -> None:
    for rows in (1, 5, 300, 3_000, 12_000):
        assert rows / 2 ** choose_shard_bits({"train": rows}) <= 4
    for rows, share in product((30_000, 100_000, 1_000_000), (0.01, 0.1, 0.5)):
        split = {"train": round(rows * (1 - share)), "validation": round(rows * share)}
        bits = choose_shard_bits(split)
        assert len(CONFIGS) * sum(min(2**bits, count) for count in split.values()) <= 24_000
        assert choose_shard_bits(split, bits) == bits and choose_shard_bits(split, 20) == bits
    assert choose_shard_bits({"train": 30_000}, 13) == 13, "another number would move every row"


def test_row_groups_fit_the_viewer(copy: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    built(copy)
    table = pa.concat_tables(
        pq.read_table(path) for path in sorted((copy / "data/publish/sft/train").glob("*.parquet"))
    )
    monkeypatch.setattr(shards, "MAX_ROW_GROUP", 2**20)
    write_shard(tmp_path / "cut.parquet", table, "sft")
    found = pq.ParquetFile(tmp_path / "cut.parquet")
    sizes = [found.metadata.row_group(number).total_byte_size for number in range(found.num_row_groups)]
    assert len(sizes) > 1 and max(sizes) < 2 * 2**20 and found.read().equals(table)
    for config in CONFIGS:
        empty = schema(config).empty_table()
        assert features(config).arrow_schema.equals(empty.schema)


# --- the card ---------------------------------------------------------------------------------------


def test_card_omits_absent_reviews_and_categories(copy: Path) -> None:
    params = load_params(root=copy)
    text = card_of(copy)
    assert "Experts, 1 in all, reviewed drafts" in text and "category-disjoint from the evaluation" in text
    assert f"an IoU of at least {params.draft.min_iou:g}" in text and "datasets 4.7 or newer" in text
    assert (
        "preference learning and\nresearch on how experts correct such reasoning" in text and "\n- preference\n" in text
    )
    with_reviews(copy, lambda reviews: [])
    select = params.select.model_copy(update={"keep_categories": ["widget", "nut"]})
    text = card_of(copy, params.model_copy(update={"select": select}))
    assert (
        "Nobody has reviewed a draft" in text
        and "Experts, " not in text
        and "category-disjoint" not in text
        and "widget, nut, kept by hand" in text
    )
    own_drafts(copy)
    (copy / "data/draft/rejected.parquet").unlink()
    text = card_of(copy)
    assert "supervised fine-tuning and\nreinforcement learning with verifiable rewards." in text
    assert "preference" not in text and "correct such reasoning" not in text


@pytest.mark.browser
def test_card_shows_pictures_and_tables(copy: Path) -> None:
    if CHROMIUM is None:
        pytest.skip("no chromium here: `make test` installs it where it may")
    from markdown_it import MarkdownIt

    params, workspace = load_params(root=copy), Workspace(copy)
    folder = build_shards(params, workspace)
    files = card.render_card("owner/name", params, workspace, read_sources(params, workspace.indus_cot), STATE)
    for path, content in files.items():
        (folder / path).parent.mkdir(exist_ok=True)
        (folder / path).write_bytes(content)
    text = files["README.md"].decode().split("---\n", 2)[2]
    page_of = MarkdownIt("commonmark", {"html": True}).enable("table").render(text)
    (folder / "card.html").write_text(f"<!doctype html><meta charset=utf-8>{page_of}")
    with chromium() as browser:
        page = browser.new_page()
        page.goto((folder / "card.html").as_uri())
        widths = page.eval_on_selector_all("img", "found => found.map(image => image.naturalWidth)")
        assert len(widths) == len(files) - 1 and all(widths)
        heads = page.eval_on_selector_all("table", "found => found.map(table => table.rows[0].cells[0].innerText)")
        assert {"configuration", "category", "tool", "set", "gate"} <= set(heads)
        assert page.locator("ol > li").count() == 4 and page.locator("h2").count() >= 8
        assert not re.search(r"\{\{|\{%|---", page.inner_text("body"))
