"""`publish`: push the corpus to the Hub as one guarded commit, then load it back and compare."""

import json
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from fnmatch import fnmatch
from itertools import zip_longest
from pathlib import Path
from typing import Any, NamedTuple

import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq

from cot_builder.corpus.reviews import AcceptedShare
from cot_builder.params import Params
from cot_builder.progress import track
from cot_builder.publishing import card, changes, manifest, secrets
from cot_builder.publishing.changes import Changes
from cot_builder.publishing.configs import CONFIGS, Config, features, row_hash
from cot_builder.publishing.croissant import CROISSANT_FILE, render_croissant
from cot_builder.publishing.hub import Commit, Hub, Remote, find_changed_files, inspect_repo, size_of
from cot_builder.publishing.index import INDEX
from cot_builder.publishing.manifest import FORMAT, MANIFEST
from cot_builder.publishing.pictures import EXAMPLES
from cot_builder.publishing.publishable import build_shards, check_publishable
from cot_builder.publishing.sources import Source, read_sources
from cot_builder.storage.output import read_manifest, read_versions, write_bytes, write_text
from cot_builder.storage.workspace import Workspace
from schemas.errors import IndusCotError

BATCH = 8
TEXT_SUFFIXES = (".md", ".json")


class Plan(NamedTuple):
    """Plan of a publication."""

    repo: str
    version: str
    sizes: Mapping[Config, Mapping[str, tuple[int, int, int]]]
    sources: Mapping[str, Source]
    licence: str
    left_out: list[str]
    """Pairs and reviews that are left out or have no row, counted by reason."""
    files: Mapping[str, Path | bytes]
    """All files of the publication."""
    changed: Mapping[str, Path | bytes]
    deleted: list[str]
    changes: Changes | None
    """Changes of the rows; None if nothing is published yet."""
    remote: Remote | None
    """None if the Hub could not be asked."""
    note: str
    """Reason why the Hub could not be asked."""

    @property
    def is_empty(self) -> bool:
        return not self.changed and not self.deleted

    @property
    def upload_bytes(self) -> int:
        return sum(map(size_of, self.changed.values()))


class Publication(NamedTuple):
    """Result of a publication."""

    plan: Plan
    commit: Commit | None
    """None if nothing changed."""
    rows_compared: int
    tag: str
    """Tag of the commit; empty if it has none."""


def plan(
    params: Params,
    workspace: Workspace,
    repo: str,
    *,
    pull_request: bool = False,
    private: bool = False,
    parent: str = "",
    offline: bool = False,
    audit: AcceptedShare | None = None,
) -> tuple[Plan, Hub | None]:
    """Write ``data/publish`` and compare it with the repository; sends nothing.

    Args:
        params: The parameters.
        workspace: The project.
        repo: ``OWNER/NAME``.
        pull_request: As :func:`publish`.
        private: As :func:`publish`.
        parent: As :func:`publish`.
        offline: Continue without a token or a connection, for a dry run.
        audit: Share of randomly drawn drafts that experts accepted, for the card; None if none was reviewed.

    Raises:
        IndusCotError: the corpus may not be published as it is; the Hub refuses; the repository belongs to another
            project or contradicts the options.
    """
    check_publishable(params, workspace)
    hub, remote, before, note = inspect_repo(
        repo, "dataset", pull_request=pull_request, private=private, parent=parent, offline=offline
    )
    folder = build_shards(params, workspace, before["bits"] if before else None)
    index = pl.read_parquet(folder / INDEX)
    differences = changes.compare(_read_published_index(hub, remote), index) if before else None
    shown = read_sources(params, workspace.indus_cot)
    data = {f"{path.relative_to(folder).as_posix()}": path for path in _list_data_files(folder)}
    there = remote.files if remote else {}
    moved = find_changed_files(data, there)
    deleted = sorted(
        path for path in there if path not in data and path.partition("/")[0] in CONFIGS
    )  # fmt: skip
    # Compare with the manifest of the published version: if nothing differs, no new version is made.
    state = _make_manifest(params, workspace, shown, index, before, None)
    texts = _render_texts(repo, params, workspace, shown, state, audit) if before else {}
    if not before or moved or deleted or find_changed_files(texts, there):
        version = changes.next_version(before, differences)
        today = datetime.now(UTC).date().isoformat()
        same = "same rows; changed: card, provenance, or reviews of drafts that became no row"
        note_of = "" if not before or (differences and differences.has_changes) else same
        entry = changes.make_changelog_entry(version, today, len(index), differences, note_of)
        state = _make_manifest(params, workspace, shown, index, before, entry)
        texts = _render_texts(repo, params, workspace, shown, state, audit)
    deleted += sorted(path for path in there if fnmatch(path, EXAMPLES) and path not in texts)
    for path, content in texts.items():
        write_bytes(folder / path, content)
    files: dict[str, Path | bytes] = {**data, **texts}
    made = Plan(
        repo=repo,
        version=state["version"],
        sizes=card.measure_splits(folder),
        sources=shown,
        licence=state["licence"],
        left_out=card.list_left_out(folder),
        files=files,
        changed={**moved, **find_changed_files(texts, there)},
        deleted=deleted,
        changes=differences,
        remote=remote,
        note=note,
    )
    return made, hub


def publish(
    params: Params,
    workspace: Workspace,
    repo: str,
    *,
    pull_request: bool = False,
    private: bool = False,
    tag: bool = False,
    parent: str = "",
    audit: AcceptedShare | None = None,
) -> Publication:
    """Push the changed files as one commit on top of the inspected state; then load everything back and compare.

    Args:
        params: The parameters.
        workspace: The project.
        repo: ``OWNER/NAME``; created if it does not exist.
        pull_request: Propose a pull request to an existing repository.
        private: Create the repository as private; an existing one must be private.
        tag: Tag the commit with the version.
        parent: Commit that must still be the repository's head.
        audit: As :func:`plan`.

    Raises:
        IndusCotError: as :func:`plan`; somebody else has committed; a row that was loaded back differs; another
            commit has the tag.
    """
    made, hub = plan(params, workspace, repo, pull_request=pull_request, private=private, parent=parent, audit=audit)
    assert hub is not None and made.remote is not None
    remote, commit = made.remote, None
    name = f"v{made.version}" if tag else ""
    if not made.is_empty:
        title = f"Indus-CoT {made.version}" + (f": {made.changes}" if made.changes else "")
        commit = hub.commit(
            made.files, made.changed, made.deleted, remote, title, private=private, pull_request=pull_request, tag=name
        )
    revision = commit.revision if commit else (remote.head or "main")
    # If an earlier run was interrupted before it had compared, compare now.
    compared = workspace.root / ".indus-cot" / "published.json"
    known: dict[str, str] = json.loads(compared.read_text()) if compared.is_file() else {}
    rows = 0
    if known.get(repo) != revision:
        rows = _verify_published(repo, revision, workspace.publish)
        write_text(compared, json.dumps({**known, repo: revision}, indent=1) + "\n")
    if name:
        hub.tag(name, revision)
    return Publication(made, commit, rows, name)


def _read_published_index(hub: Hub | None, remote: Remote | None) -> pl.DataFrame:
    assert hub is not None and remote is not None and remote.head is not None
    return changes.read_published_index(hub.fetch(INDEX, remote.head), hub.repo)


def _list_data_files(folder: Path) -> list[Path]:
    return [*(path for config in CONFIGS for path in sorted((folder / config).rglob("*.parquet"))), folder / INDEX]


def _make_manifest(
    params: Params,
    workspace: Workspace,
    shown: Mapping[str, Source],
    index: pl.DataFrame,
    before: Mapping[str, Any] | None,
    entry: Mapping[str, Any] | None,
) -> dict[str, Any]:
    built = read_manifest(workspace.publish)
    log = [*(before["changelog"] if before else []), *([entry] if entry else [])]
    chosen = {
        "run": params.run.model_dump(),
        "select": params.select.model_dump(),
        "draft": params.draft.model_dump(),
        "assemble": params.assemble.model_dump(),
        "publish": params.publish.model_dump(exclude={"repo"}),
    }
    return {
        "format": FORMAT,
        "kind": "dataset",
        "version": log[-1]["version"] if log else "",
        "licence": card.strictest_licence(params, shown),
        "rows": dict(index.group_by("split").len().sort("split").iter_rows()),
        "corpus_sha256": changes.hash_rows(index),
        "bits": built["counts"]["bits"],
        "sources": {
            name: {
                "title": source.facts.title,
                "licence": source.facts.licence,
                "redistribution": source.facts.redistribution,
                "clause": source.facts.clause,
                "attribution": source.facts.attribution,
                "homepage": source.facts.homepage,
                "images": "embedded" if source.embedded else "referenced",
                "obtain": source.obtain,
            }
            for name, source in shown.items()
        },
        "params": chosen,
        "versions": read_versions(),
        "changelog": log,
    }


def _render_texts(
    repo: str,
    params: Params,
    workspace: Workspace,
    shown: Mapping[str, Source],
    state: Mapping[str, Any],
    audit: AcceptedShare | None,
) -> dict[str, bytes]:
    """All files of the repository except the data, scanned for secrets."""
    found = card.render_card(repo, params, workspace, shown, state, audit)
    found[card.CHANGELOG] = changes.render_changelog(state["changelog"]).encode()
    found[MANIFEST] = manifest.render_manifest(state).encode()
    found[CROISSANT_FILE] = render_croissant(
        repo,
        state["version"],
        state["changelog"][-1]["date"],
        state["licence"],
        card.SUMMARY,
        card.PAPER,
        {config: features(config) for config in card.measure_splits(workspace.publish)},
    ).encode()
    expression = secrets.build_pattern(workspace.root, params)
    for path, content in found.items():
        if path.endswith(TEXT_SUFFIXES):
            secrets.check_text(content.decode(), path, expression)
    return found


def _verify_published(repo: str, revision: str, folder: Path) -> int:
    """Load every configuration with `datasets` and compare each row with the written one.

    Raises:
        IndusCotError: a row differs or is missing.
    """
    import datasets
    from huggingface_hub import get_token
    from huggingface_hub.errors import HfHubHTTPError

    from cot_builder.publishing.hub import not_compared_message, short_revision
    from cot_builder.publishing.retry import call_hub, connection_error_types, hide_hub_progress

    compared = 0
    datasets.disable_progress_bars()
    committed = not_compared_message(revision)
    try:
        for config, splits in card.measure_splits(folder).items():
            for split, (rows, _, _) in splits.items():

                def load(config: Config = config, split: str = split) -> Any:
                    return datasets.load_dataset(
                        repo, config, split=split, revision=revision, streaming=True, token=get_token()
                    )

                with hide_hub_progress():
                    theirs = (
                        row
                        for table in call_hub(load, repo, committed).with_format("arrow").iter(BATCH)
                        for row in table.to_pylist()
                    )
                    pairs = track(
                        zip_longest(_read_local_rows(folder, config, split), theirs), f"compare {config} {split}", rows
                    )
                    for ours, read in pairs:
                        if ours is None or read is None or row_hash(ours) != row_hash(read):
                            identity = (ours or read)["id"]
                            raise IndusCotError(
                                f"{repo}, {config}, {split}, row {identity}: the loaded row differs from the one "
                                f"published as {short_revision(revision)}; check that row on the Hub and publish "
                                "again"
                            )
                        compared += 1
    except (
        HfHubHTTPError,
        *connection_error_types(),
        OSError,
        ValueError,
        pa.ArrowException,
        datasets.exceptions.DatasetsError,
    ) as error:
        raise IndusCotError(f"{repo}: {type(error).__name__} while it was loaded back; {committed}") from None
    finally:
        datasets.enable_progress_bars()
    return compared


def _read_local_rows(folder: Path, config: Config, split: str) -> Iterator[dict[str, Any]]:
    for path in sorted((folder / config / split).glob("*.parquet")):
        yield from pq.read_table(path).to_pylist()
