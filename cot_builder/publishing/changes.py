"""Changes between two corpora (rows added, removed, changed, reviewed again), and the next version number."""

from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import polars as pl

from cot_builder.publishing.configs import combine_hashes
from cot_builder.publishing.index import INDEX, INDEX_SCHEMA, build_index
from cot_builder.publishing.manifest import FORMAT
from schemas.errors import IndusCotError

SHOWN = 10


class Changes(NamedTuple):
    """Changed rows, by id."""

    added: list[str]
    removed: list[str]
    changed: list[str]
    """Rows with another text, image, verdict or split."""
    rereviewed: list[str]
    """Equal rows with other reviews or other rejected drafts."""
    same: int
    texts: int
    """Number of changed rows with another text or other facts."""
    moved: int
    """Number of the remaining changed rows that moved to another split; the rest differ only in images."""

    @property
    def has_changes(self) -> bool:
        return bool(self.added or self.removed or self.changed or self.rereviewed)

    def __str__(self) -> str:
        return (
            f"{len(self.added)} rows added, {len(self.removed)} removed, {len(self.changed)} changed, "
            f"{len(self.rereviewed)} reviewed again, {self.same} the same"
        )


def compare(before: pl.DataFrame, after: pl.DataFrame) -> Changes:
    """Compare two indexes row by row."""
    both = before.join(after, on="id", suffix="_after")
    text, images = (pl.col(name) != pl.col(f"{name}_after") for name in ("text_sha256", "images_sha256"))
    moved = pl.col("split") != pl.col("split_after")
    reviews = (pl.col("review_status") != pl.col("review_status_after")) | (
        pl.col("reviewers") != pl.col("reviewers_after")
    )
    for name in ("reviews_sha256", "pairs_sha256"):
        # Old or unpublished indexes lack these columns; treat null as unchanged.
        reviews |= (pl.col(name) != pl.col(f"{name}_after")).fill_null(False)
    other = text | images | moved
    changed, again = both.filter(other), both.filter(~other & reviews)
    return Changes(
        after.join(before, on="id", how="anti")["id"].sort().to_list(),
        before.join(after, on="id", how="anti")["id"].sort().to_list(),
        changed["id"].sort().to_list(),
        again["id"].sort().to_list(),
        len(both) - len(changed) - len(again),
        len(both.filter(text)),
        len(both.filter(~text & moved)),
    )


def hash_rows(index: pl.DataFrame) -> str:
    """Hash over all rows; equal corpora have equal hashes."""
    return combine_hashes(
        map("".join, index.sort("id").select("id", "split", "text_sha256", "images_sha256").iter_rows())
    )


def load_index(place: str) -> pl.DataFrame:
    """Read the index of a corpus: a folder of `assemble` or `publish`, or ``OWNER/NAME[@REVISION]`` on the Hub.

    Raises:
        IndusCotError: there is no corpus.
    """
    folder = Path(place)
    if (folder / INDEX).is_file():
        return read_published_index(folder / INDEX, place)
    if folder.is_dir():
        return build_index(folder)
    return read_published_index(download_file(place, INDEX), place)


def read_published_index(path: Path, place: str) -> pl.DataFrame:
    """Read a published index.

    Raises:
        IndusCotError: it is damaged, a git-lfs pointer, or not written by indus-cot.
    """
    from cot_builder.publishing.manifest import refuse_lfs_pointer

    try:
        found = pl.read_parquet(refuse_lfs_pointer(path))
    except pl.exceptions.PolarsError as error:
        raise IndusCotError(f"{place}: {INDEX} is damaged ({error}); download the corpus again") from None
    # Version 1 of the format lacks these columns.
    later = [name for name in ("reviews_sha256", "pairs_sha256") if name not in found.columns]
    found = found.with_columns(pl.lit(None, pl.String).alias(name) for name in later)
    if missing := sorted(set(INDEX_SCHEMA.names) - set(found.columns)):
        raise IndusCotError(f"{place}: {INDEX} was not written by indus-cot: it has no column {', '.join(missing)}")
    return found


def download_file(place: str, path: str, token: str | bool | None = None) -> Path:
    """Download a file of a dataset on the Hub.

    Raises:
        NotFoundError: the repository, revision or file does not exist.
        IndusCotError: the Hub refuses or cannot be reached.
    """
    from huggingface_hub import hf_hub_download
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError

    from cot_builder.publishing.manifest import NotFoundError
    from cot_builder.publishing.retry import call_hub, hide_hub_progress

    repo, _, revision = place.removeprefix("hf://datasets/").partition("@")
    try:
        with hide_hub_progress():
            return Path(
                call_hub(
                    lambda: hf_hub_download(repo, path, repo_type="dataset", revision=revision or None, token=token),
                    repo,
                )
            )
    except (HfHubHTTPError, HFValidationError):
        raise NotFoundError(
            f"{place}: neither a folder with a corpus nor a dataset on the Hub that indus-cot published; give a "
            "folder, OWNER/NAME or OWNER/NAME@REVISION (and run `hf auth login` if it is private)"
        ) from None


def diff(before: str, after: str) -> tuple[Changes, str]:
    """Compare two corpora; returns the changes and a text that describes them.

    Raises:
        IndusCotError: one of them is not a corpus.
    """
    old, new = load_index(before), load_index(after)
    found = compare(old, new)
    lines = [f"{before} → {after}: {found}"]
    if found.changed:
        lines.append(
            f"changed rows: {found.texts} with another text or other facts, {found.moved} moved to another split, "
            "the rest with other images only"
        )
    for name, ids, table in (
        ("added", found.added, new),
        ("removed", found.removed, old),
        ("changed", found.changed, new),
        ("reviewed again", found.rereviewed, new),
    ):
        if ids:
            where = Counter(table.filter(pl.col("id").is_in(ids)).select("source_set", "category").iter_rows())
            groups = ", ".join(f"{'/'.join(group)} {count}" for group, count in sorted(where.items()))
            more = f" and {len(ids) - SHOWN} more" if len(ids) > SHOWN else ""
            lines += [f"{name}: {groups}", f"  {', '.join(ids[:SHOWN])}{more}"]
    return found, "\n".join(lines)


def next_version(before: Mapping[str, Any] | None, changes: Changes | None) -> str:
    """Next semantic version: major if the format changes, minor if rows are added or removed, else patch."""
    if before is None:
        return "1.0.0"
    major, minor, patch = map(int, before["version"].split("."))
    if before["format"] != FORMAT:
        return f"{major + 1}.0.0"
    if changes and (changes.added or changes.removed):
        return f"{major}.{minor + 1}.0"
    return f"{major}.{minor}.{patch + 1}"


def make_changelog_entry(version: str, day: str, rows: int, changes: Changes | None, note: str) -> dict[str, Any]:
    """A changelog entry for the manifest."""
    counts = (
        {name: len(getattr(changes, name)) for name in ("added", "removed", "changed", "rereviewed")} if changes else {}
    )
    return {"version": version, "date": day, "rows": rows, **counts, "note": note}


def render_changelog(entries: Sequence[Mapping[str, Any]]) -> str:
    """Text of CHANGELOG.md, the newest version first."""
    parts = ["# Changelog", "", "Versions are semantic: columns.rows.content.", ""]
    for item in reversed(entries):
        parts += [f"## {item['version']} ({item['date']})", ""]
        if "added" in item:
            parts.append(
                f"- rows: {item['added']} added, {item['removed']} removed, {item['changed']} changed, "
                f"{item['rereviewed']} reviewed again"
            )
        parts += [f"- {item['rows']} rows in all"]
        parts += [f"- {item['note']}"] if item["note"] else []
        parts.append("")
    return "\n".join(parts)
