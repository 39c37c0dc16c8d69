"""Fill in the images of a corpus that were published by reference, from the user's own copy of their source."""

import hashlib
import json
import re
import shutil
import tempfile
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any, NamedTuple

import pyarrow as pa
import pyarrow.parquet as pq

from cot_builder.benchmarks.benchmark import IMAGE_SUFFIXES
from cot_builder.inspection.toolbox import Toolbox
from cot_builder.inspection.tools import TOOLBOX_VERSION
from cot_builder.progress import track
from cot_builder.publishing import card
from cot_builder.publishing.configs import CONFIGS, IMAGES, Config, schema
from cot_builder.publishing.croissant import CROISSANT_FILE
from cot_builder.publishing.index import INDEX
from cot_builder.publishing.loading import explain_damage, open_or_download
from cot_builder.publishing.manifest import MANIFEST, parse_manifest, refuse_lfs_pointer, render_manifest
from cot_builder.publishing.shards import write_shard
from cot_builder.storage.images import decode, encode_png
from cot_builder.storage.output import read_manifest, stage_output
from cot_builder.storage.shards import ShardReader, ShardWriter
from cot_builder.storage.source import open_members
from schemas.errors import IndusCotError
from schemas.trajectory import ToolCall

STAGE = "rehydrate"
_REFERENCE_NOTICE = re.compile(
    r"^The images of [^\n]* may not be passed on.*?^```bash\n.*?^```\n", re.DOTALL | re.MULTILINE
)
"""Paragraph of the card about missing images."""
SHOWN = 5


class RehydratedCorpus(NamedTuple):
    """Result of `rehydrate`."""

    folder: Path
    rows: int
    images: int


def rehydrate(place: str, copies: Mapping[str, str], target: Path) -> RehydratedCorpus:
    """Write ``target``: the published corpus with every image embedded in its rows.

    Args:
        place: A published folder, or ``OWNER/NAME[@REVISION]`` on the Hub.
        copies: The user's own copy of each set: any source that `pull` reads, or a folder that `pull` wrote.
        target: Folder to write.

    Raises:
        IndusCotError: a needed set has no copy, a copy lacks an image, or a regenerated image has another hash than
            the published one.
    """
    folder = open_or_download(place)
    if not any((folder / config).is_dir() for config in CONFIGS):
        raise IndusCotError(f"{place}: not a published corpus: it holds no configuration ({', '.join(CONFIGS)})")
    needed = _find_needed_files(folder)
    if missing := sorted(needed.keys() - copies.keys()):
        raise IndusCotError(
            f"{place}: the images of {', '.join(missing)} are published by reference; give your own copies: "
            + " ".join(f"--source {name}=PATH" for name in missing)
        )
    if unknown := sorted(copies.keys() - needed.keys()):
        raise IndusCotError(
            f"{place}: needs no images of {', '.join(unknown)}; "
            + (f"it needs those of {', '.join(sorted(needed))}" if needed else "all images are in its rows")
        )
    with (
        stage_output(target, stage=STAGE, params={"sets": sorted(needed)}, inputs={"corpus": place}) as output,
        ExitStack() as stack,
    ):
        scratch = Path(stack.enter_context(tempfile.TemporaryDirectory(dir=target.absolute().parent)))
        files = {
            name: _SourceCopy(copies[name], wanted, scratch / name, name) for name, wanted in sorted(needed.items())
        }
        rows = images = 0
        shards = [(config, path) for config in CONFIGS for path in sorted((folder / config).rglob("*.parquet"))]
        for config, path in track(shards, "rehydrate (shards)", len(shards)):
            with explain_damage(path):
                table, made = _fill_images(pq.read_table(path), config, files, f"{path.relative_to(folder)}")
            write_shard(output.path / path.relative_to(folder), table, config)
            rows, images = rows + len(table), images + made
        for name in (INDEX, card.CHANGELOG, CROISSANT_FILE):
            if (folder / name).is_file():
                shutil.copyfile(refuse_lfs_pointer(folder / name), output.path / name)
        if (folder / "assets").is_dir():
            shutil.copytree(folder / "assets", output.path / "assets")
        if (folder / MANIFEST).is_file():
            _update_manifest(folder / MANIFEST, output.path / MANIFEST, needed)
        if (folder / card.README).is_file():
            _update_card(folder / card.README, output.path, sorted(needed))
        output.counts |= {"rows": rows, "images": images}
    return RehydratedCorpus(target, rows, read_manifest(target)["counts"]["images"])


def _find_needed_files(folder: Path) -> dict[str, set[str]]:
    """Original files that rows without images need: sha256 by set."""
    found: dict[str, set[str]] = {}
    for config in CONFIGS:
        for path in sorted((folder / config).rglob("*.parquet")):
            with explain_damage(refuse_lfs_pointer(path)):
                shard = pq.ParquetFile(path)
                there = {field.name: field.type for field in shard.schema_arrow}
                if wrong := [field.name for field in schema(config) if there.get(field.name) != field.type]:
                    raise IndusCotError(
                        f"{path}: not a shard of {config} that indus-cot published: missing, or of another "
                        f"type, is {', '.join(wrong)}"
                    )
                for column, references in IMAGES[config].items():
                    # The paths show whether images are present, without reading an image.
                    leaf = f"{column}.path" if column == "image" else f"{column}.list.element.path"
                    table = shard.read(columns=["source_set", references, leaf])
                    for row in table.to_pylist():
                        if row[references] and not row[column]:
                            found.setdefault(row["source_set"], set()).update(i["file_sha256"] for i in row[references])
    return found


def _update_manifest(published: Path, target: Path, made: Collection[str]) -> None:
    """Write the manifest with the sets whose images are now embedded."""
    state = parse_manifest(refuse_lfs_pointer(published).read_bytes(), str(published.parent))
    for name, source in state.get("sources", {}).items():
        source["images"] = "embedded" if name in made else source["images"]
    target.write_text(render_manifest(state), encoding="utf-8")


def _update_card(published: Path, folder: Path, made: Sequence[str]) -> None:
    """Write the card for this copy: its sizes, and embedded images."""
    from huggingface_hub import DatasetCard

    card.copy_card(published, folder)
    found = DatasetCard.load(folder / card.README)
    if made:
        note = (
            f"`indus-cot rehydrate` has embedded the images of {', '.join(made)} in the rows of this copy, "
            "every sha256 as published. The table below says for each set whether its images may be redistributed. "
            "Load this copy by its path, not by its name.\n"
        )
        found.text = _REFERENCE_NOTICE.sub("", found.text).replace("| by reference |", "| within the rows |")
        found.text = re.sub(r"(?m)^(# .*\n)", lambda title: f"{title[1]}\n{note}", found.text, count=1)
    for config, splits in card.measure_splits(folder).items():
        for split, (_, size, _) in splits.items():
            row = rf"(?m)^(\| `{config}` \| {split} \| [\d,]+ \| )[\d.]+ \|"
            found.text = re.sub(row, rf"\g<1>{size / 1e6:.1f} |", found.text)
    found.save(folder / card.README)


class _SourceCopy:
    """The original files of one set, found in a copy by their hash."""

    def __init__(self, copy: str, wanted: set[str], scratch: Path, name: str) -> None:
        self._places: dict[str, tuple[str, int]] = {}
        with ShardWriter(scratch) as writer:
            for data in _iter_images(copy, scratch / "downloads", f"search {name}"):
                digest = hashlib.sha256(data).hexdigest()
                if digest in wanted and digest not in self._places:
                    self._places[digest] = writer.add(digest, data)
        self._reader = ShardReader(scratch)
        if missing := sorted(wanted - self._places.keys()):
            named = ", ".join(missing[:SHOWN]) + (" …" if len(missing) > SHOWN else "")
            raise IndusCotError(
                f"{copy}: {len(missing)} of {len(wanted)} images of {name} are missing; sha256 {named}. Use the "
                "copy that the card names: same version and resolution, not re-encoded"
            )

    def get(self, digest: str) -> bytes:
        return self._reader.get(*self._places[digest])


def _iter_images(copy: str, downloads: Path, description: str) -> Iterator[bytes]:
    """Read every image file of a user's copy, which may be a folder of `pull`; shows progress."""
    folder = Path(copy)
    if (folder / "manifest.json").is_file() and read_manifest(folder).get("stage") == "pull":
        reader = ShardReader(folder)
        shards = sorted(folder.glob("images-*.parquet"))
        images = sum(reader.rows(shard.name) for shard in shards)
        items = (data for shard in shards for _, data in reader.items(shard.name))
        yield from track(items, description, images)
        return
    for member in track(open_members(copy, downloads), description, share=lambda member: member.share):
        if member.path.lower().endswith(IMAGE_SUFFIXES):
            yield bytes(member.read())


def _fill_images(table: pa.Table, config: Config, files: Mapping[str, _SourceCopy], where: str) -> tuple[pa.Table, int]:
    """Fill in the images of a shard; returns it with the number of images."""
    rows, made = table.to_pylist(), 0
    for row in rows:
        box: Toolbox | None = None
        for column, references in IMAGES[config].items():
            if row[column] or not row[references]:
                continue
            calls = _parse_calls(row, column)
            shown = []
            for item in row[references]:
                file = files[row["source_set"]].get(item["file_sha256"])
                if item["kind"] == "observation":
                    box = box or _open_toolbox(row, files, f"{where}, row {row['id']}")
                shown.append(
                    {"bytes": _make_image(item, file, calls, box, f"{where}, row {row['id']}"), "path": item["path"]}
                )
            made += len(shown)
            row[column] = shown[0] if column == "image" else shown
    due = schema(config)
    return (pa.Table.from_pylist(rows, schema=due) if made else table.cast(due)), made


def _open_toolbox(row: Mapping[str, Any], files: Mapping[str, _SourceCopy], where: str) -> Toolbox:
    if row.get("toolbox_version", TOOLBOX_VERSION) != TOOLBOX_VERSION:
        raise IndusCotError(
            f"{where}: made with tools of version {row['toolbox_version']}, but this is {TOOLBOX_VERSION}; use the "
            f'indus-cot whose cot_builder.inspection.tools has TOOLBOX_VERSION "{row["toolbox_version"]}"'
        )
    first = row["references"][0]
    region = tuple(first["box"]) or None
    return Toolbox(decode(files[row["source_set"]].get(first["file_sha256"]), region, where), {})


def _make_image(
    item: Mapping[str, Any], file: bytes, calls: Sequence[ToolCall], box: Toolbox | None, where: str
) -> bytes:
    if item["kind"] == "file":
        data: bytes | None = file
    elif item["kind"] == "region":
        data = encode_png(decode(file, tuple(item["box"]), where))
    else:
        assert box is not None
        data = box.observe(calls[item["turn"] - 1])[1]
    if data is None or hashlib.sha256(data).hexdigest() != item["sha256"]:
        raise IndusCotError(
            f"{where}: the {item['kind']} {item['path']} has another sha256 than the published one: another version of "
            "OpenCV compresses PNG differently; install the versions of requirements.lock"
        )
    return data


def _parse_calls(row: Mapping[str, Any], column: str) -> list[ToolCall]:
    source = {"images": "messages", "chosen_images": "chosen", "rejected_images": "rejected"}.get(column, "")
    text = row.get(source)
    if not text:
        return []
    return [
        ToolCall(tool=call["function"]["name"], arguments=call["function"]["arguments"])
        for message in json.loads(text)
        for call in message.get("tool_calls", [])
    ]
