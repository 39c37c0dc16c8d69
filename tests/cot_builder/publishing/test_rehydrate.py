"""Licences decide whether images are embedded, and `rehydrate` makes the rest whole."""

import json
import re
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from cot_builder.storage.images import decode, encode_png
from tests.helpers.hub_client import Client, CommandResult
from tests.helpers.publication import REPO, STATED, Rows, assert_refused, change, write_params
from tests.servers.hub_server import HubServer


@pytest.fixture
def guarded(copy: Path) -> Path:
    """The same corpus; the images of one category are of a set that nothing says may be passed on, one is a region."""

    def guard(rows: Rows) -> None:
        for row in rows:
            if row["category"] == "widget":
                row.update(source_set="guarded", licence="unknown")
        row = next(item for item in rows if item["category"] == "widget" and len(item["images"]) == 1)
        row["region"] = [20, 10, 180, 150]
        pixels = decode(row["image"]["bytes"], tuple(row["region"]))
        row["images"][0] = {"bytes": encode_png(pixels), "path": f"{row['id']}_region.png"}

    change(copy, guard)
    (copy / "params.yaml").unlink()
    write_params(copy, mine=STATED, guarded={})
    return copy


def test_rehydrated_equals_embedded(hub: HubServer, client: Client, guarded: Path) -> None:
    done = client.run("publish", "--repo", "owner/mixed", folder=guarded)
    assert (
        done.code == 0 and "licence unknown" in done.out and "guarded: unknown; redistribution unknown" in done.out
    ), done.out
    rows = client.python(
        "import datasets; value = [[row['source_set'], len(row['images'])] for row in datasets.load_dataset('owner/mixed', 'sft')['train']]"
    )
    assert {bool(images) for name, images in rows if name == "guarded"} == {False}
    assert {bool(images) for name, images in rows if name == "mine"} == {True}
    assert_refused(client.run("rehydrate", "owner/mixed", folder=guarded), "guarded", "--source guarded=PATH")
    twice = ("--source", "guarded=mine", "--source", "guarded=mine/parts.csv")
    assert_refused(client.run("rehydrate", "owner/mixed", *twice, folder=guarded), "guarded was already given as mine")
    made = client.run("rehydrate", "owner/mixed", "--source", "guarded=mine/parts.csv", "--to", "whole", folder=guarded)
    assert made.code == 0 and "every sha256 as published" in made.out, made.out
    (guarded / "params.yaml").unlink()
    write_params(guarded, mine=STATED, guarded=STATED)
    change(guarded, lambda rows: [row.update(licence="CC BY 4.0") for row in rows])
    assert client.run("publish", "--repo", "owner/embedded", "--dry-run", folder=guarded).code == 0
    embedded, whole = guarded / "data/publish", guarded / "whole"
    card = (whole / "README.md").read_text()
    assert "has embedded the images" in card and "by reference" not in card and "may not be passed on" not in card
    size = sum(path.stat().st_size for path in (whole / "sft/train").glob("*.parquet")) / 1e6
    assert re.search(rf"\| `sft` \| train \| \d+ \| {size:.1f} \|", card)
    state = json.loads((whole / "indus-cot.json").read_text())
    assert {name: source["images"] for name, source in state["sources"].items()} == dict.fromkeys(
        ("guarded", "mine"), "embedded"
    )
    published = hub.files("owner/mixed")
    assert (whole / "croissant.json").read_bytes() == published["croissant.json"]
    for picture in re.findall(r'(?:src="|\]\()(assets/[^")]+)', card):
        assert (whole / picture).read_bytes() == published[picture]
    for path in sorted(embedded.glob("*/*/*.parquet")):
        ours, theirs = pq.read_table(path), pq.read_table(whole / path.relative_to(embedded))
        # The licence is another one in this test, and nothing else.
        assert _without_licence(ours).equals(_without_licence(theirs)), path
    assert client.python(
        "import datasets; value = len(datasets.load_dataset('whole', 'sft')['train'][0]['images'])", guarded
    )


def _without_licence(table: pa.Table) -> pa.Table:
    return table.drop_columns([name for name in ("licence", "image_licence") if name in table.column_names])


def test_rehydrate_is_byte_exact(hub: HubServer, client: Client, published: CommandResult, copy: Path) -> None:
    name = "owner/referenced"
    done = client.run("--set", "publish.images=reference", "publish", "--repo", name, folder=copy)
    assert done.code == 0, done.out
    # No picture of a card either shows what must not be shown.
    assert not [path for path in hub.files(name) if "example" in path]
    shards = [path for path in hub.files(REPO) if path.count("/") == 2 and path.endswith(".parquet")]
    assert len(shards) > 20
    for source in ("mine/parts.csv", "data/pull/mine"):
        made = client.run("rehydrate", name, "--source", f"mine={source}", "--to", "whole", folder=copy)
        assert made.code == 0, made.out
        for path in shards:
            assert (copy / "whole" / path).read_bytes() == hub.files(REPO)[path], path
    assert_refused(
        client.run("rehydrate", REPO, "--source", "mine=mine/parts.csv", "--to", "again", folder=copy),
        "needs no images of mine; all images are in its rows",
    )
    looked = next(
        path for path in shards if path.startswith("sft/") and '"crop"' in _text(copy / "data/publish" / path)
    )
    altered = copy / "altered" / looked
    altered.parent.mkdir(parents=True)
    for spoil, words in (
        (lambda row: row.update(toolbox_version="0"), ("made with tools of version 0",)),
        (lambda row: row["references"][-1].update(sha256="0" * 64), ("the observation", "has another sha256 than")),
    ):
        table = pq.read_table(copy / "data/publish" / looked)
        rows = table.to_pylist()
        spoil(next(row for row in rows if len(row["references"]) > 1))
        pq.write_table(pa.Table.from_pylist(rows, schema=table.schema), altered)
        assert_refused(
            client.run("rehydrate", "altered", "--source", "mine=mine/parts.csv", folder=copy), looked, *words
        )
    (copy / "other").mkdir()
    mine = copy / "other" / "mine.txt"
    mine.write_text("of a person")
    given = ("rehydrate", name, "--source", "mine=mine/parts.csv", "--to", "other")
    assert_refused(client.run(*given, folder=copy), "contains files that no stage wrote")
    assert mine.read_text() == "of a person"
    (copy / "other" / "0.png").write_bytes(encode_png(decode((copy / "mine/widget/0.png").read_bytes())[::-1]))
    assert_refused(
        client.run("rehydrate", name, "--source", "mine=other", folder=copy), "images of mine are missing", "sha256"
    )


def _text(shard: Path) -> str:
    return "".join(map(str, pq.read_table(shard, columns=["messages"]).to_pylist()))


def test_a_refusal_names_set_and_clause(client: Client, guarded: Path) -> None:
    done = client.run("--set", "publish.images=embed", "publish", "--repo", "owner/refused", folder=guarded)
    assert_refused(
        done, "guarded", "redistribution is unknown", "the licence is the owner's to state", "publish.images"
    )


def test_no_derivatives_licence_references_images(client: Client, copy: Path) -> None:
    """Crops and enhanced views are changed copies, whoever may pass on the whole image."""
    (copy / "params.yaml").unlink()
    write_params(copy, mine=STATED | {"licence": "CC BY-ND 4.0"})
    change(copy, lambda rows: [row.update(licence="CC BY-ND 4.0") for row in rows])
    change(copy, lambda rows: [row.update(licence="CC BY-ND 4.0") for row in rows], "validation")
    embedded = client.run("--set", "publish.images=embed", "publish", "--repo", "owner/nd", "--dry-run", folder=copy)
    assert_refused(embedded, "mine", "CC BY-ND 4.0", "forbids derived copies")
    done = client.run("publish", "--repo", "owner/nd", "--dry-run", folder=copy)
    assert done.code == 0, done.out
    shards = [pq.read_table(path).to_pylist() for path in (copy / "data/publish/sft").rglob("*.parquet")]
    assert all(row["references"] and not row["images"] for rows in shards for row in rows)


def test_changed_licence_is_refused(client: Client, copy: Path) -> None:
    change(copy, lambda rows: rows[0].update(licence="CC BY-NC-SA 4.0"))
    assert_refused(client.run("publish", "--repo", "owner/refused", folder=copy), "'CC BY-NC-SA 4.0'", "'CC BY 4.0'")
