"""`pull SET`: read a benchmark and write image shards, samples and supervision.

Archives are not unpacked and images are not re-encoded: shards contain the published bytes. One thread lists the
files; several threads read, hash and check them, while the bytes are in the CPU cache; one thread writes. The listing
thread also reads compressed archives, which are streams. The number of batches in flight is bounded, so memory does
not grow with the data set.
"""

import csv
import hashlib
import tarfile
import tempfile
from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from functools import partial
from io import BytesIO
from pathlib import Path
from types import ModuleType
from typing import Any

import polars as pl

from cot_builder.benchmarks.benchmark import IMAGE_SUFFIXES, SYNTHETIC, Benchmark, ClassifiedPath, Files
from cot_builder.benchmarks.labels import FOLDER
from cot_builder.benchmarks.licences import resolve_benchmark
from cot_builder.benchmarks.mask import Mask, read_mask
from cot_builder.benchmarks.samples import (
    DuplicateImage,
    Report,
    Row,
    SourceContent,
    StoredImage,
    StoredMask,
    build_rows,
    group_physical_parts,
    map_defect_types,
)
from cot_builder.benchmarks.synthetic.rendering import render_files
from cot_builder.benchmarks.table import check_pull_set, find_rendering, load_benchmarks
from cot_builder.params import Params, PullSet
from cot_builder.progress import console, track
from cot_builder.storage.header import DamagedError, Header, RotatedError, read_header
from cot_builder.storage.output import Output, stage_output
from cot_builder.storage.parallel import one_opencv_thread
from cot_builder.storage.shards import ShardWriter
from cot_builder.storage.source import Checksums, Member, open_members
from cot_builder.storage.workspace import Workspace
from schemas.errors import IndusCotError
from schemas.sample import SAMPLE
from schemas.supervision import SUPERVISION

BATCH_BYTES = 2 * 2**20
BATCH_FILES = 32
BATCHES_AHEAD = 10
"""Maximum number of batches in flight."""
MAX_LISTED = 20
"""Number of items that an error message lists."""


def pull(name: str, params: Params, workspace: Workspace) -> None:
    """Read one set of ``params.pull`` into ``data/pull/<name>``.

    Writes ``images-*.parquet`` and ``masks-*.parquet`` (the published files), ``sample.parquet``,
    ``supervision.parquet``, ``left_out.csv`` (skipped files), ``warnings.csv`` (doubtful samples that are kept),
    ``duplicates.csv`` (byte-identical images) and ``manifest.json``. An image with an unusable mask is kept without
    boxes. Byte-identical images count as one physical part.

    Raises:
        IndusCotError: the set is not in the parameters; the source cannot be read, has another layout, or has labels
            that the taxonomy does not contain (the message lists all of them).
    """
    if name not in params.pull:
        raise IndusCotError(
            f"pull {name}: not in the section pull of the parameters, which has {', '.join(params.pull)}"
        )
    settings = params.pull[name]
    check_pull_set(name, settings)
    module = load_benchmarks()[settings.benchmark]
    request: dict[str, Any] = settings.model_dump(mode="json")
    if settings.source == SYNTHETIC:
        request["synthetic"] = params.synthetic.model_dump(mode="json") | {"seed": params.run.seed}
    source = settings.source if isinstance(settings.source, str) else ", ".join(settings.source)
    benchmark = resolve_benchmark(settings)
    published = {benchmark.archive: benchmark.sha256} if benchmark.archive and benchmark.sha256 else {}
    checksums = Checksums(settings.sha256, published)
    ignore = module.ignore(settings) if hasattr(module, "ignore") else []
    with (
        stage_output(
            workspace.pull(name), stage="pull", params=request, inputs={"source": source}, strict=params.run.strict
        ) as output,
        _open_source(settings, params) as place,
    ):

        def members() -> Iterator[Member]:
            return open_members(place, workspace.root / "downloads", checksums, ignore)

        files = _read_records(members(), module.classify_path) if benchmark.records_first else Files()
        layout = module.layout(settings, files)
        drawn = track(members(), f"pull {name}", share=lambda member: member.share)
        found = _store_members(drawn, layout.classify_path, benchmark.bands, params.compute.workers, output)
        if not (found.images or found.damaged_images or found.other):
            raise _layout_error(source, name, settings.benchmark, found.unrecognised)
        _check_categories(name, settings.benchmark, found)
        for path in found.unrecognised:
            output.leave_out("outside the layout", path, f"{settings.benchmark} has no images there")
        listing, report = found.listing(), Report(output)
        rows = build_rows(name, benchmark, layout.entries(listing), found, report)
        if not rows:
            raise IndusCotError(
                f"{source}: no sample could be made of it; left out:\n  " + _format_left_out(output.left_out)
            )
        for note in listing.notes:
            report.warn(*note)
        _warn_unknown_categories(benchmark, rows, report)
        types = map_defect_types(settings.benchmark, rows)
        parts, duplicates = group_physical_parts(rows)
        rows.sort(key=lambda row: (row.image.shard, row.image.row, row.entry.band))
        output.left_out.sort()
        SAMPLE.write(_make_sample_frame(name, benchmark, rows, parts), output.path / "sample.parquet")
        SUPERVISION.write(_make_supervision_frame(rows, types), output.path / "supervision.parquet")
        _write_csv(output.path / "warnings.csv", ("reason", "item", "detail"), report.warnings)
        _write_csv(output.path / "duplicates.csv", ("sha256", "path", "label", "sample_id"), duplicates)
        output.counts.update(_summarize_set(rows, found, report, duplicates))
        output.counts.update(_describe_benchmark(benchmark))
        output.counts["archive_sha256"] = dict(sorted(checksums.found.items()))
        _print_summary(name, benchmark, output, len(found.unrecognised))


@contextmanager
def _open_source(settings: PullSet, params: Params) -> Iterator[str | list[str]]:
    """Yield the source to open; a synthetic set is first rendered into a temporary archive."""
    if settings.source != SYNTHETIC:
        yield settings.source
        return
    with tempfile.TemporaryDirectory(prefix="indus-cot-") as folder:
        path = Path(folder) / f"{SYNTHETIC}.tar"
        with tarfile.open(path, "w") as tar:
            rendering = find_rendering(settings.benchmark)
            for name, data in render_files(rendering, params.synthetic, params.run.seed, params.compute.workers):
                info = tarfile.TarInfo(name)
                info.size = len(data)
                tar.addfile(info, BytesIO(data))
        yield str(path)


def _read_records(members: Iterable[Member], place: Callable[[str], ClassifiedPath | None]) -> Files:
    paths: list[str] = []
    records: dict[str, bytes] = {}
    for member in members:
        paths.append(member.path)
        if place(member.path):
            records[member.path] = member.read()
    return Files(tuple(paths), records)


def _store_members(
    members: Iterable[Member],
    place: Callable[[str], ClassifiedPath | None],
    bands: int,
    workers: int,
    output: Output,
) -> SourceContent:
    """Stream the members into shards.

    This thread lists the members, ``workers`` threads read and examine them, and one thread writes.
    """
    found = SourceContent()
    with (
        one_opencv_thread(),
        ShardWriter(output.path, "images") as images,
        ShardWriter(output.path, "masks") as masks,
        ThreadPoolExecutor(workers, "examine") as examiners,
        ThreadPoolExecutor(1, "write") as writer,
    ):
        shards = (images, masks)
        waiting: deque[Future[None]] = deque()
        batch: list[tuple[ClassifiedPath, Callable[[], bytes]]] = []
        batch_bytes = 0

        def submit() -> None:
            examined = examiners.submit(_examine_batch, batch, bands)
            waiting.append(writer.submit(_store_batch, examined, found, shards, output))
            while len(waiting) > BATCHES_AHEAD:
                waiting.popleft().result()

        try:
            for member in members:
                spot = place(member.path)
                if spot is None:
                    if member.path.lower().endswith(IMAGE_SUFFIXES):
                        found.unrecognised.append(member.path)
                elif spot.role == "record":
                    _add_record(found.records, spot.key, member)
                elif spot.role == "unlisted":
                    output.leave_out("present and unlisted", spot.key, "no table names it")
                elif spot.role == "other":
                    found.other.append(spot.key)
                else:
                    batch.append((spot, member.read if member.is_reusable else partial(bytes, member.read())))
                    batch_bytes += member.size
                    if batch_bytes >= BATCH_BYTES or len(batch) >= BATCH_FILES:
                        submit()
                        batch, batch_bytes = [], 0
            if batch:
                submit()
            while waiting:
                waiting.popleft().result()
        finally:
            for future in waiting:
                future.cancel()
    return found


def _add_record(records: dict[str, bytes], key: str, member: Member) -> None:
    data = member.read()
    if records.setdefault(key, data) != data:
        raise IndusCotError(f"{member.path}: the source contains two different files {key}; keep one of them")


_Examined = tuple[Header, str] | Mask | DamagedError


def _examine_batch(
    batch: list[tuple[ClassifiedPath, Callable[[], bytes]]], bands: int
) -> list[tuple[ClassifiedPath, bytes, _Examined]]:
    return [(spot, data := read(), _examine_file(spot, data, bands)) for spot, read in batch]


def _examine_file(spot: ClassifiedPath, data: bytes, bands: int) -> _Examined:
    try:
        if spot.role == "image":
            return read_header(data), hashlib.sha256(data).hexdigest()
        return read_mask(data, bands)
    except DamagedError as error:
        return error


def _store_batch(
    examined: Future[list[tuple[ClassifiedPath, bytes, _Examined]]],
    found: SourceContent,
    shards: tuple[ShardWriter, ShardWriter],
    output: Output,
) -> None:
    images, masks = shards
    for spot, data, facts in examined.result():
        key = spot.key
        if isinstance(facts, DamagedError):
            (found.damaged_images if spot.role == "image" else found.damaged_masks).add(key)
            reason = "rotated by EXIF" if isinstance(facts, RotatedError) else f"damaged {spot.role}"
            output.leave_out(reason, key, str(facts))
        elif key in found.images or key in found.masks:
            output.leave_out("present twice", key, "the first one is used")
        elif isinstance(facts, Mask):
            found.masks[key] = StoredMask(facts, *masks.add(hashlib.sha256(data).hexdigest(), data))
        else:
            # Named by its hash, because the path would reveal the label to readers of the shard.
            found.images[key] = StoredImage(*facts, *images.add(facts[1], data))


def _layout_error(source: str, name: str, benchmark: str, unrecognised: list[str]) -> IndusCotError:
    if not unrecognised:
        return IndusCotError(
            f"{source}: contains no image; set pull.{name}.source to the folder or archive of the data set"
        )
    looks_like = _guess_benchmark(unrecognised[:2000])
    advice = (
        f"this looks like {looks_like}: set pull.{name}.benchmark: {looks_like}"
        if looks_like
        else f"the layout is described in cot_builder/benchmarks/{benchmark}.py"
    )
    return IndusCotError(
        f"{source}: the paths do not match the layout of {benchmark}, for example {unrecognised[0]!r}; {advice}"
    )


def _guess_benchmark(paths: list[str]) -> str | None:
    """Return the data set whose layout matches most of the paths; None if no layout matches."""
    fits: dict[str, int] = {}
    for name, module in load_benchmarks().items():
        # Data sets that read records first have no fixed layout and would match all paths.
        if not module.BENCHMARK.records_first:
            fits[name] = sum(1 for path in paths if (spot := module.classify_path(path)) and spot.role == "image")
    best = max(fits, key=lambda name: fits[name])
    if not fits[best]:
        return None
    alike = _find_same_layout(best)
    if len(alike) == 1:
        return best
    spots = [alike[best].classify_path(path) for path in paths]
    return _find_most_categories(alike, {spot.key.partition("/")[0] for spot in spots if spot}) or FOLDER


def _find_same_layout(benchmark: str) -> dict[str, ModuleType]:
    """Return all data sets with the layout of ``benchmark``, including itself."""
    place = load_benchmarks()[benchmark].classify_path
    return {name: module for name, module in load_benchmarks().items() if module.classify_path is place}


def _find_most_categories(alike: Mapping[str, ModuleType], categories: set[str]) -> str | None:
    """Return the data set that publishes most of the categories; None if none of them is published."""
    overlap = {name: len(categories & set(module.BENCHMARK.categories)) for name, module in alike.items()}
    best = max(overlap, key=lambda name: overlap[name])
    return best if overlap[best] else None


def _check_categories(name: str, benchmark: str, found: SourceContent) -> None:
    """Raise an error if the categories are those of another data set with the same layout."""
    alike = _find_same_layout(benchmark)
    categories = {key.partition("/")[0] for key in found.images}
    if len(alike) == 1 or categories & set(alike[benchmark].BENCHMARK.categories):
        return
    if other := _find_most_categories(alike, categories):
        raise IndusCotError(
            f"pull {name}: {benchmark} has none of the categories {', '.join(sorted(categories)[:MAX_LISTED])}; "
            f"this looks like {other}: set pull.{name}.benchmark: {other}"
        )


def _make_sample_frame(name: str, benchmark: Benchmark, rows: list[Row], parts: dict[str, str]) -> pl.DataFrame:
    columns: dict[str, list[Any]] = {
        "sample_id": [row.sample_id for row in rows],
        "source_set": [name] * len(rows),
        "category": [row.entry.category for row in rows],
        "view": [row.entry.view for row in rows],
        "part_id": [parts[row.part] for row in rows],
        "split": [row.split for row in rows],
        "width": [row.size[0] for row in rows],
        "height": [row.size[1] for row in rows],
        "channels": [row.image.header.channels for row in rows],
        "image_format": [row.image.header.format for row in rows],
        "image_sha256": [row.image.sha256 for row in rows],
        "shard": [row.image.shard for row in rows],
        "row": [row.image.row for row in rows],
        "region": [row.region for row in rows],
        "licence": [benchmark.licence] * len(rows),
    }
    return pl.DataFrame(columns, schema=SAMPLE.dtypes)


def _make_supervision_frame(rows: list[Row], types: dict[str, str]) -> pl.DataFrame:
    columns: dict[str, list[Any]] = {
        "sample_id": [row.sample_id for row in rows],
        "source_path": [row.entry.image for row in rows],
        "label": [row.label for row in rows],
        "raw_type": [row.raw_type for row in rows],
        "defect_type": [types[row.raw_type] if row.raw_type is not None else None for row in rows],
        "boxes": [list(row.found.boxes) if row.found else [] for row in rows],
        "area_fraction": [row.found.area_fraction if row.found else None for row in rows],
        "mask_shard": [row.mask.shard if row.mask else None for row in rows],
        "mask_row": [row.mask.row if row.mask else None for row in rows],
    }
    return pl.DataFrame(columns, schema=SUPERVISION.dtypes)


def _warn_unknown_categories(benchmark: Benchmark, rows: list[Row], report: Report) -> None:
    if benchmark.categories:
        for category in sorted({row.entry.category for row in rows} - set(benchmark.categories)):
            report.warn("unknown category", category, f"not one of the {len(benchmark.categories)} published; kept")


def _summarize_set(
    rows: list[Row], found: SourceContent, report: Report, duplicates: list[DuplicateImage]
) -> dict[str, Any]:
    labels: dict[str, set[str]] = {}
    paths: dict[str, set[str]] = {}
    for sha256, path, label, _ in duplicates:
        labels.setdefault(sha256, set()).add(label)
        paths.setdefault(sha256, set()).add(path)
    return {
        "samples": len(rows),
        "images": len({row.entry.image for row in rows}),
        "masks": len(found.masks),
        "by_split_label": dict(sorted(Counter(f"{row.split} {row.label}" for row in rows).items())),
        "by_category": dict(sorted(Counter(row.entry.category for row in rows).items())),
        "warnings": dict(Counter(reason for reason, _, _ in report.warnings)),
        "duplicates": {
            "groups": len(paths),
            "images": sum(len(group) for group in paths.values()),
            "groups_with_conflicting_labels": sum(1 for found_labels in labels.values() if len(found_labels) > 1),
        },
        "content_sha256": _hash_content(found),
    }


def _describe_benchmark(benchmark: Benchmark) -> dict[str, Any]:
    return {
        "published": {f"{split} {label}": count for (split, label), count in benchmark.published.items()},
        "benchmark": {
            "name": benchmark.name,
            "title": benchmark.title,
            "licence": benchmark.licence,
            "redistribution": benchmark.redistribution,
            "clause": benchmark.clause,
            "attribution": benchmark.attribution,
            "citation": benchmark.citation,
            "homepage": benchmark.homepage,
        },
    }


def _hash_content(found: SourceContent) -> str:
    """Hash the paths and contents of the images; the hash does not depend on how the set is packed."""
    digest = hashlib.sha256()
    for key, image in sorted(found.images.items()):
        digest.update(f"{image.sha256}  {key}\n".encode())
    return digest.hexdigest()


def _print_summary(name: str, benchmark: Benchmark, output: Output, unrecognised: int) -> None:
    """Print how complete the copy is, and the number of doubtful samples."""
    lines = []
    counts = output.counts
    wanted = counts["published"]
    have = {key: counts["by_split_label"].get(key, 0) for key in wanted}
    if wanted and have != wanted:
        share = 100 * sum(min(have[key], wanted[key]) for key in wanted) / sum(wanted.values())
        cells = ", ".join(f"{key} {have[key]} of {wanted[key]}" for key in wanted)
        known = len(set(counts["by_category"]) & set(benchmark.categories))
        copy = f"partial copy, {share:.1f} %" if share < 100 else "more images than published,"
        lines.append(f"{copy} of {benchmark.title}: {cells}; {known} of {len(benchmark.categories)} categories")
    if unrecognised:
        lines.append(f"skipped {unrecognised} images whose paths do not match the layout; listed in left_out.csv")
    lines += [f"{count} × {reason}; listed in warnings.csv" for reason, count in counts["warnings"].items()]
    twins = counts["duplicates"]
    if twins["groups"]:
        lines.append(
            f"{twins['images']} images are byte-identical in {twins['groups']} groups "
            f"({twins['groups_with_conflicting_labels']} with different labels), listed in duplicates.csv; "
            "each group counts as one physical part"
        )
    for line in lines:
        console.print(f"pull {name}: {line}", style="yellow", markup=False, highlight=False)


def _write_csv(path: Path, header: tuple[str, ...], rows: Iterable[tuple[str, ...]]) -> None:
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(header)
        writer.writerows(rows)


def _format_left_out(left_out: list[tuple[str, str, str]]) -> str:
    return (
        "\n  ".join(f"{item}: {reason} {detail}".rstrip() for reason, item, detail in left_out[:MAX_LISTED])
        or "nothing"
    )
