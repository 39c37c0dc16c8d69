"""Loads a corpus for people outside the pipeline: from a folder of `assemble`, or from what `publish` wrote."""

import json
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from cot_builder.corpus.reading import list_shards, read_all
from cot_builder.inspection.completion import read_chat
from cot_builder.inspection.rendering import Message
from cot_builder.inspection.replay import replay
from cot_builder.inspection.toolbox import Toolbox
from cot_builder.publishing.manifest import MANIFEST, refuse_lfs_pointer
from schemas.errors import IndusCotError
from schemas.indus_cot import IndusCot
from schemas.prior import PRIOR
from schemas.trajectory import Trajectory

SFT_CONFIG = "sft"
"""The published configuration that holds whole inspections."""
ROWS_AT_ONCE = 8


@dataclass(frozen=True)
class Inspection:
    """One row of a corpus: an inspected image and how it was inspected."""

    id: str
    sample_id: str
    source_set: str
    category: str
    view: str
    split: str
    """``train`` or ``validation``."""
    messages: list[Message]
    """Chat with native tool calls; each ``{"type": "image"}`` stands for the next one of ``images``."""
    images: list[bytes] = field(repr=False)
    """Image files: the inspected image, then the observations. Empty if the images are published by reference."""
    tools: list[dict[str, Any]] = field(repr=False)
    """Function schemas of the tools that the inspector was offered."""
    trajectory: Trajectory
    """Thoughts, calls, observations and verdict as structure."""
    licence: str
    teacher: str
    toolbox_version: str
    review_status: str
    """``auto``: no expert has looked at it; ``accepted``; ``fixed``."""


@dataclass(frozen=True)
class Corpus:
    """A corpus on disk; rows are read when they are asked for, a few in memory at a time.

    Iterating yields every :class:`Inspection`, the training split first; ``len()`` is their number.
    """

    folder: Path
    counts: Mapping[str, int]
    """Rows by split."""
    priors: Mapping[tuple[str, str], str]
    """Normalcy texts by (category, view). Empty for a published corpus, which holds none."""
    _published: bool = field(repr=False)

    def __len__(self) -> int:
        return sum(self.counts.values())

    def __iter__(self) -> Iterator[Inspection]:
        for split in self.counts:
            yield from self.rows(split)

    def rows(self, split: str) -> Iterator[Inspection]:
        """The inspections of one split, in the order of the corpus.

        Raises:
            IndusCotError: the corpus has no such split, a file is damaged, or a row breaks the contract.
        """
        if split not in self.counts:
            raise IndusCotError(f"{self.folder}: no split {split!r}; there are {', '.join(self.counts)}")
        if self._published:
            return _read_published_rows(self.folder, split)
        return (_from_row(row, str(self.folder)) for row in read_all(self.folder) if row.split == split)

    def toolbox(self, inspection: Inspection) -> Toolbox:
        """The tools on the inspected image, with the priors of this corpus.

        Raises:
            IndusCotError: the row holds no image, or a damaged one.
        """
        if not inspection.images:
            raise IndusCotError(
                f"{self.folder}, row {inspection.id}: its images are published by reference; make them with "
                "`indus-cot rehydrate`, then load the folder that it writes"
            )
        return Toolbox.open(inspection.images[0], self.priors)

    def replay(self, inspection: Inspection) -> int:
        """Run every tool call of an inspection again and compare with what was recorded.

        The calls of `prior` need the priors, which a published corpus does not hold.

        Returns:
            Number of calls replayed.

        Raises:
            IndusCotError: the first difference, by turn and tool; or the row holds no images.
        """
        toolbox = self.toolbox(inspection)
        return replay(inspection.trajectory, toolbox, inspection.images[1:], f"{self.folder}, row {inspection.id}")


def load_corpus(source: str | Path) -> Corpus:
    """Open a corpus.

    Args:
        source: A folder that `indus-cot assemble`, `publish` or `rehydrate` wrote, or a dataset repository on the
            Hugging Face Hub as ``OWNER/NAME`` or ``OWNER/NAME@REVISION``, which is downloaded into the Hub's cache.

    Raises:
        IndusCotError: there is no such folder or repository, or it holds no corpus.

    Example:
        >>> corpus = load_corpus("data/indus_cot")
        >>> for inspection in corpus.rows("train"):
        ...     print(inspection.category, inspection.trajectory.verdict.answer, corpus.replay(inspection))
    """
    folder = open_or_download(str(source), [f"{SFT_CONFIG}/*", MANIFEST])
    if shards := list_shards(folder):
        counts: Counter[str] = Counter()
        for path in shards:
            with explain_damage(path):
                counts[path.name.partition("-")[0]] += pq.read_metadata(path).num_rows
        priors = folder / "priors" / "priors.parquet"
        texts = PRIOR.read(priors).iter_rows(named=True) if priors.is_file() else ()
        return Corpus(folder, dict(counts), {(row["category"], row["view"]): row["text"] for row in texts}, False)
    counts = Counter()
    for path in sorted((folder / SFT_CONFIG).glob("*/*.parquet")):
        with explain_damage(refuse_lfs_pointer(path)):
            counts[path.parent.name] += pq.read_metadata(path).num_rows
    if not counts:
        raise IndusCotError(
            f"{source}: holds neither data/*.parquet, which `indus-cot assemble` writes, nor {SFT_CONFIG}/*/*.parquet, "
            "which `indus-cot publish` writes; name the folder of a corpus"
        )
    return Corpus(folder, dict(counts), {}, True)


def open_or_download(place: str, patterns: list[str] | None = None) -> Path:
    """A folder as it is, or a dataset of the Hub downloaded into its cache.

    Args:
        place: A folder, or ``OWNER/NAME[@REVISION]`` on the Hub.
        patterns: Files to download; all of them if None.

    Raises:
        IndusCotError: neither is there, or the Hub cannot be reached.
    """
    if Path(place).is_dir():
        return Path(place)
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError

    from cot_builder.publishing.retry import call_hub, hide_hub_progress

    repo, _, revision = place.removeprefix("hf://datasets/").partition("@")
    download = partial(snapshot_download, repo, repo_type="dataset", revision=revision or None, allow_patterns=patterns)
    try:
        with hide_hub_progress():
            return Path(call_hub(download, repo))
    except (HfHubHTTPError, HFValidationError):
        raise IndusCotError(
            f"{place}: neither a folder nor a dataset on the Hub that you may read; write OWNER/NAME, and run "
            "`hf auth login` where it is private or gated"
        ) from None


@contextmanager
def explain_damage(path: Path) -> Iterator[None]:
    """Turn the errors of Arrow into one that names the file.

    Raises:
        IndusCotError: the parquet file is damaged.
    """
    try:
        yield
    except pa.ArrowException as error:
        raise IndusCotError(f"{path}: damaged parquet file ({error}); take it anew from where it came") from None


def _from_row(row: IndusCot, folder: str) -> Inspection:
    try:
        messages, tools = json.loads(row.messages), json.loads(row.tools)
        trajectory = Trajectory.model_validate_json(row.trajectory)
    except ValueError as error:
        raise IndusCotError(
            f"{folder}, row {row.id}: messages, tools or trajectory are not valid JSON ({error}); run "
            "`indus-cot assemble` again"
        ) from None
    return Inspection(
        messages=messages,
        tools=tools,
        trajectory=trajectory,
        images=[image.bytes for image in row.images],
        **{name: getattr(row, name) for name in _SHARED},
    )


_SHARED = (
    "id", "sample_id", "source_set", "category", "view", "split", "licence", "teacher", "toolbox_version",
    "review_status",
)  # fmt: skip


def _read_published_rows(folder: Path, split: str) -> Iterator[Inspection]:
    for path in sorted((folder / SFT_CONFIG / split).glob("*.parquet")):
        with explain_damage(path), pq.ParquetFile(path) as shard:
            for batch in shard.iter_batches(ROWS_AT_ONCE):
                for row in batch.to_pylist():
                    yield _from_published_row({**row, "split": split}, str(path))


def _from_published_row(row: Mapping[str, Any], path: str) -> Inspection:
    where = f"{path}, row {row.get('id')}"
    try:
        messages, tools = json.loads(row["messages"]), json.loads(row["tools"])
        hashes = [item["sha256"] for item in row["references"] if item["kind"] == "observation"]
        images = [image["bytes"] for image in row["images"]]
        shared = {name: row[name] for name in _SHARED}
    except (KeyError, TypeError, ValueError) as error:
        raise IndusCotError(
            f"{where}: not a row that `indus-cot publish` wrote ({error!r}); download it again"
        ) from None
    trajectory = read_chat(messages, hashes, where)
    return Inspection(messages=messages, tools=tools, trajectory=trajectory, images=images, **shared)
