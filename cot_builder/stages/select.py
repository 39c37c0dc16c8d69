"""Choose and split the training samples.

The samples are category-disjoint from the evaluation sets, contain no copies of evaluation images, show their defects,
are balanced, and are split by physical part.
"""

import csv
import hashlib
from collections import Counter
from collections.abc import Callable, Hashable, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import polars as pl

from cot_builder.benchmarks.same_category import find_overlaps, share_a_word
from cot_builder.benchmarks.table import load_benchmarks
from cot_builder.corpus.leakage import write_leakage
from cot_builder.params import Params
from cot_builder.params import Select as SelectParams
from cot_builder.storage.near_duplicates import Fingerprints, compute_fingerprints, find_near_pairs, is_featureless
from cot_builder.storage.output import Output, stage_output
from cot_builder.storage.samples import read_samples
from cot_builder.storage.workspace import Workspace, file_hash
from schemas.errors import IndusCotError
from schemas.sample import SAMPLE
from schemas.selection import SPLIT, Selection
from schemas.supervision import SUPERVISION

T = TypeVar("T")
NOT_VISIBLE = "defect not visible in this view"
COPY = "copy of an evaluation image"
REPEATED = "same bytes as another training sample"
CONTRADICTED = "same bytes as a training sample with another label"
DAMAGED = "image does not decode"


def select(params: Params, workspace: Workspace) -> None:
    """Write ``data/select``: the chosen samples, their supervision and split, and the leakage report.

    Sets with the role ``train`` form the pool, which must be disjoint from the sets with the role ``evaluate``. The
    result depends on the samples, the parameters and ``run.seed``, not on the order of the rows.

    Raises:
        IndusCotError: no set has the role train; a set was not pulled; an override lists a category that no training
            set has; no samples remain; the run is strict and an image is damaged.
    """
    training = sorted(name for name, item in params.pull.items() if item.role == "train")
    evaluation = sorted(name for name, item in params.pull.items() if item.role == "evaluate")
    if not training:
        raise IndusCotError("select: no set under pull has the role train; set `role: train` for at least one of them")
    tables = {
        f"{name}/{table}": workspace.pull(name) / f"{table}.parquet"
        for name in params.pull
        for table in ("sample", "supervision")
    }
    roles = {name: [item.benchmark, item.role] for name, item in sorted(params.pull.items())}
    with stage_output(
        workspace.select,
        stage="select",
        params=params.select.model_dump() | {"seed": params.run.seed, "sets": roles},
        inputs={name: file_hash(path) for name, path in tables.items()},
        strict=params.run.strict,
    ) as output:
        _select(params, workspace, training, evaluation, output)


@dataclass
class _SelectionLog:
    """Facts for the report, filled during the run."""

    dropped: list[dict[str, Any]] = field(default_factory=list)
    alike: list[dict[str, Any]] = field(default_factory=list)
    copies: list[dict[str, Any]] = field(default_factory=list)
    excluded: list[tuple[str, str, str]] = field(default_factory=list)
    """(reason, sample id, detail)."""


def _select(
    params: Params, workspace: Workspace, training: Sequence[str], evaluation: Sequence[str], output: Output
) -> None:
    report = _SelectionLog()
    pool = pl.concat([_read_set(workspace, name) for name in training]).sort("sample_id")
    others = {name: _read_set(workspace, name).sort("sample_id") for name in evaluation}
    known = _list_evaluation_categories(params, others)
    pulled = pool.height

    kept, overrides = _keep_categories(pool, known, params.select, report)
    pool = pool.filter(pl.col("category").is_in(kept))
    in_categories = pool.height
    pool = _drop_invisible(pool, params.select.min_area_fraction, report)
    pool = _drop_repeated(pool, report)
    pool, checked = _drop_copies(pool, others, params, workspace, output, report)

    chosen = _choose_balanced(pool, params.select.samples, params.run.seed)
    if not chosen:
        raise IndusCotError(
            f"select: no samples remain: {in_categories} of {pulled} samples are of a kept category, and "
            f"{pool.height} of those are usable, but no category and view has both a normal and a visibly anomalous "
            "sample. Check the roles of the sets and select.drop_categories, or pull more data"
        )
    rows = pool.filter(pl.col("sample_id").is_in(chosen)).sort("sample_id")
    splits = _assign_splits(rows, params.select.validation_fraction, params.run.seed)

    SAMPLE.write(rows.select(list(SAMPLE.dtypes)), output.path / "sample.parquet")
    SUPERVISION.write(rows.select(list(SUPERVISION.dtypes)), output.path / "supervision.parquet")
    SPLIT.write(
        SPLIT.frame(Selection.model_validate({"sample_id": key, "split": value}) for key, value in splits.items()),
        output.path / "split.parquet",
    )
    _write_csv(output.path / "dropped_categories.csv", report.dropped, DROPPED_COLUMNS)
    _write_csv(output.path / "near_duplicates.csv", report.copies, COPY_COLUMNS)
    _write_csv(
        output.path / "excluded.csv",
        [dict(zip(EXCLUDED_COLUMNS, row, strict=True)) for row in sorted(report.excluded)],
        EXCLUDED_COLUMNS,
    )
    counts = {
        "pulled": pulled,
        "in kept categories": in_categories,
        **dict(Counter(reason for reason, _, _ in report.excluded)),
        DAMAGED: checked["damaged"],
        "usable": pool.height,
        "selected": rows.height,
        "train": sum(value == "train" for value in splits.values()),
        "validation": sum(value == "validation" for value in splits.values()),
    }
    output.counts |= counts
    write_leakage(
        output.path,
        {
            "training_sets": list(training),
            "evaluation_sets": [_describe_set(params, name, others[name], checked) for name in evaluation],
            "counts": counts,
            "kept_categories": kept,
            "dropped_categories": report.dropped,
            "names_that_share_a_word": report.alike,
            "overrides": overrides,
            "images_compared": checked["own"],
            "near_duplicate_bits": params.select.near_duplicate_bits,
            "copies": report.copies,
            "hash_matches_refused": checked["refused"],
            "featureless": checked["featureless"],
            "repeated": [row[1:] for row in sorted(report.excluded) if row[0] in (REPEATED, CONTRADICTED)],
            "parts": _find_straddling_parts(rows, splits),
            "selected": _summarize_selection(rows, splits),
        },
    )


DROPPED_COLUMNS = ("category", "evaluation_category", "evaluation_sets", "rule", "samples")
EXCLUDED_COLUMNS = ("reason", "sample_id", "detail")
COPY_COLUMNS = (
    "sample_id",
    "source_path",
    "evaluation_set",
    "evaluation_sample_id",
    "evaluation_source_path",
    "kind",
    "differing_bits",
    "correlation",
)


def _read_set(workspace: Workspace, name: str) -> pl.DataFrame:
    samples = read_samples(workspace, name)
    supervision = SUPERVISION.read(workspace.pull(name) / "supervision.parquet")
    without = samples.join(supervision, on="sample_id", how="anti")["sample_id"].to_list()
    if without:
        raise IndusCotError(
            f"{workspace.pull(name) / 'supervision.parquet'}: has no row for {len(without)} sample(s), first "
            f"{min(without)}; run `indus-cot pull {name}` again"
        )
    return samples.join(supervision, on="sample_id", how="inner", maintain_order="left")


def _list_evaluation_categories(params: Params, others: dict[str, pl.DataFrame]) -> dict[str, list[str]]:
    """Map each category, local or published, to the evaluation sets that have it."""
    known: dict[str, list[str]] = {}
    for name, frame in others.items():
        official = load_benchmarks()[params.pull[name].benchmark].BENCHMARK.categories
        for category in sorted({*frame["category"].to_list(), *official}):
            known.setdefault(category, []).append(name)
    return known


def _keep_categories(
    pool: pl.DataFrame, known: dict[str, list[str]], settings: SelectParams, report: _SelectionLog
) -> tuple[list[str], dict[str, list[str]]]:
    sizes = dict(pool.group_by("category").len().sort("category").iter_rows())
    for key in ("keep_categories", "drop_categories"):
        unknown = sorted(set(getattr(settings, key)) - set(sizes))
        if unknown:
            raise IndusCotError(
                f"select.{key} lists {', '.join(unknown)}, but no training set has it; they have: {', '.join(sizes)}"
            )
    both = sorted(set(settings.keep_categories) & set(settings.drop_categories))
    if both:
        raise IndusCotError(
            f"select.keep_categories and select.drop_categories both list {', '.join(both)}; remove it from one of them"
        )
    found = find_overlaps(sizes, known)
    kept_by_override = sorted({category for category, _, _ in found} & set(settings.keep_categories))
    report.dropped = [
        _dropped_row(category, other, known[other], rule, sizes[category])
        for category, other, rule in found
        if category not in kept_by_override
    ] + [
        _dropped_row(category, "", [], "drop_categories", sizes[category])
        for category in sorted(settings.drop_categories)
    ]
    gone = {row["category"] for row in report.dropped}
    kept = [category for category in sizes if category not in gone]
    report.alike = [
        {"category": category, "evaluation_category": other, "evaluation_sets": known[other]}
        for category in kept
        for other in sorted(known)
        if category not in kept_by_override and share_a_word(category, other)
    ]
    overrides = {
        "kept": kept_by_override,
        "kept_without_need": sorted(set(settings.keep_categories) - set(kept_by_override)),
        "dropped": sorted(settings.drop_categories),
    }
    return kept, overrides


def _dropped_row(category: str, other: str, sets: list[str], rule: str, samples: int) -> dict[str, Any]:
    return dict(zip(DROPPED_COLUMNS, (category, other, sets, rule, samples), strict=True))


def _drop_invisible(pool: pl.DataFrame, least: float, report: _SelectionLog) -> pl.DataFrame:
    # Sets with boxes but without masks have no area; there, a box is enough.
    visible = (pl.col("boxes").list.len() > 0) & pl.col("area_fraction").ge(least).fill_null(True)
    hidden = pool.filter((pl.col("label") == "anomalous") & ~visible)
    for row in hidden.select("sample_id", "area_fraction", "boxes").iter_rows(named=True):
        detail = f"mask covers {row['area_fraction'] or 0:.3g} of the image" if row["boxes"] else "no box"
        report.excluded.append((NOT_VISIBLE, row["sample_id"], detail))
    return pool.join(hidden, on="sample_id", how="anti", maintain_order="left")


def _drop_repeated(pool: pl.DataFrame, report: _SelectionLog) -> pl.DataFrame:
    """Keep one sample of each image: the first by id, or none if equal images have different labels."""
    groups: dict[Hashable, list[tuple[str, str]]] = {}
    columns = pool.select("image_sha256", "region", "sample_id", "label").iter_rows()
    for digest, region, sample_id, label in columns:
        groups.setdefault((digest, None if region is None else tuple(region)), []).append((sample_id, label))
    gone: set[str] = set()
    for members in groups.values():
        if len(members) == 1:
            continue
        agreed = len({label for _, label in members}) == 1
        for sample_id, _ in members[1:] if agreed else members:
            twin = next(other for other, _ in members if other != sample_id)
            report.excluded.append((REPEATED if agreed else CONTRADICTED, sample_id, twin))
            gone.add(sample_id)
    return pool.filter(~pl.col("sample_id").is_in(list(gone)))


def _drop_copies(
    pool: pl.DataFrame,
    others: dict[str, pl.DataFrame],
    params: Params,
    workspace: Workspace,
    output: Output,
    report: _SelectionLog,
) -> tuple[pl.DataFrame, dict[str, Any]]:
    workers, paths = params.compute.workers, dict(pool.select("sample_id", "source_path").iter_rows())
    scratch = output.path / ".thumbnails.npy"
    own = compute_fingerprints(workspace, pool, workers, scratch, "hash training images")
    _leave_out(own, output, "not selected")
    found: list[dict[str, Any]] = []
    compared: dict[str, int] = {}
    refused = 0
    for name, frame in others.items():
        theirs = compute_fingerprints(workspace, frame, workers, output.path / ".others.npy", f"hash images of {name}")
        _leave_out(theirs, output, "evaluation image, not compared")
        compared[name] = len(theirs.sample_ids)
        their_paths = dict(frame.select("sample_id", "source_path").iter_rows())
        near = find_near_pairs(own, theirs, params.select.near_duplicate_bits)
        refused += near.refused
        same = pool.select("sample_id", "image_sha256").join(
            frame.select(pl.col("sample_id").alias("other"), "image_sha256"), on="image_sha256"
        )
        alike = {(own.sample_ids[i], theirs.sample_ids[j]): (bits, value) for i, j, bits, value in near.pairs}
        bytewise = set(same.select("sample_id", "other").iter_rows())
        for mine, other in sorted(alike.keys() | bytewise):
            kind = "bytes" if (mine, other) in bytewise else "perceptual"
            bits, value = alike.get((mine, other), ("", ""))
            row = (mine, paths[mine], name, other, their_paths[other], kind, bits, value)
            found.append(dict(zip(COPY_COLUMNS, row, strict=True)))
    for file in (scratch, output.path / ".others.npy"):
        file.unlink(missing_ok=True)
    report.copies = sorted(found, key=lambda row: (row["sample_id"], row["evaluation_sample_id"]))
    gone = {row["sample_id"]: row for row in reversed(report.copies)}
    report.excluded += [(COPY, key, row["evaluation_sample_id"]) for key, row in gone.items()]
    pool = pool.filter(~pl.col("sample_id").is_in([*gone, *own.damaged]))
    return pool, {
        "own": len(own.sample_ids),
        "compared": compared,
        "refused": refused,
        "damaged": len(own.damaged),
        "featureless": int(is_featureless(own).sum()),
    }


def _leave_out(images: Fingerprints, output: Output, consequence: str) -> None:
    for sample_id, fault in sorted(images.damaged.items()):
        output.leave_out(DAMAGED, sample_id, f"{fault}; {consequence}")


def _random_key(seed: int, text: str) -> bytes:
    """Return a pseudo-random sort key that depends only on the seed and the text."""
    return hashlib.blake2b(f"{seed}:{text}".encode(), digest_size=8).digest()


def _spread_evenly(capacities: dict[T, int], total: int) -> dict[T, int]:
    """Distribute ``total`` over the keys as evenly as their capacities allow; earlier keys get the remainder."""
    shares = dict.fromkeys(capacities, 0)
    left = min(total, sum(capacities.values()))
    while left:
        free = [key for key in capacities if shares[key] < capacities[key]]
        each = max(left // len(free), 1)
        for key in free:
            more = min(each, capacities[key] - shares[key], left)
            shares[key] += more
            left -= more
    return shares


def _pick_balanced(
    items: Iterable[T], count: int, group: Callable[[T], str], taken: Counter[str], ever: Counter[str]
) -> list[T]:
    """Pick ``count`` of ``items``, each from the group with the lowest count in ``taken``.

    Ties are broken by the lowest count in ``ever``, then by the order of ``items``. Both counters are updated.
    """
    queues: dict[str, list[T]] = {}
    for item in items:
        queues.setdefault(group(item), []).append(item)
    for queue in queues.values():
        queue.reverse()
    picked = []
    for _ in range(count):
        name = min((name for name, queue in queues.items() if queue), key=lambda name: (taken[name], ever[name]))
        taken[name] += 1
        ever[name] += 1
        picked.append(queues[name].pop())
    return picked


def _choose_balanced(pool: pl.DataFrame, samples: int, seed: int) -> list[str]:
    """Choose ids of up to ``samples`` samples: equally many normal and anomalous ones in each category and view.

    Pairs of one normal and one anomalous sample are spread evenly over categories, then over the views of each. The
    anomalous samples are spread evenly over defect types, the normal samples over the benchmark's own splits.
    """
    cells: dict[str, dict[str, dict[str, list[dict[str, Any]]]]] = {}
    columns = ("sample_id", "source_set", "category", "view", "split", "label", "defect_type")
    for row in sorted(pool.select(columns).iter_rows(named=True), key=lambda row: _random_key(seed, row["sample_id"])):
        category = f"{row['source_set']}/{row['category']}"
        views = cells.setdefault(category, {})
        views.setdefault(row["view"], {"normal": [], "anomalous": []})[row["label"]].append(row)
    room = {
        category: {view: min(map(len, cell.values())) for view, cell in sorted(views.items())}
        for category, views in sorted(cells.items())
    }
    in_order = sorted(room, key=lambda category: _random_key(seed, category))
    quotas = _spread_evenly({category: sum(room[category].values()) for category in in_order}, samples // 2)
    chosen: list[str] = []
    ever: Counter[str] = Counter()
    for category, quota in quotas.items():
        types: Counter[str] = Counter()
        splits: Counter[str] = Counter()
        for view, count in _spread_evenly(room[category], quota).items():
            cell = cells[category][view]
            picked = _pick_balanced(cell["anomalous"], count, lambda row: row["defect_type"], types, ever)
            picked += _pick_balanced(cell["normal"], count, lambda row: row["split"], splits, ever)
            chosen += [row["sample_id"] for row in picked]
    return chosen


@dataclass(frozen=True)
class _Part:
    key: str
    stratum: str
    defect: str
    sample_ids: tuple[str, ...]


def _group_parts(rows: pl.DataFrame) -> list[_Part]:
    """Group samples into physical parts, sorted by key."""
    members: dict[str, list[dict[str, Any]]] = {}
    columns = ("sample_id", "source_set", "category", "part_id", "label", "defect_type")
    for row in rows.select(columns).iter_rows(named=True):
        members.setdefault(f"{row['source_set']}/{row['part_id']}", []).append(row)
    parts = []
    for key, items in sorted(members.items()):
        defects = sorted(item["defect_type"] for item in items if item["label"] == "anomalous")
        kind = "anomalous" if defects else "normal"
        stratum = f"{items[0]['source_set']}/{items[0]['category']}/{kind}"
        defect = defects[0] if defects else ""
        parts.append(_Part(key, stratum, defect, tuple(item["sample_id"] for item in items)))
    return parts


def _assign_splits(rows: pl.DataFrame, fraction: float, seed: int) -> dict[str, str]:
    """Assign each sample id to a split; all samples of a physical part go to the same split.

    Both splits contain normal and defective parts of each category, if there are at least two of them. The validation
    parts are spread over defect types as far as possible.
    """
    strata: dict[str, list[_Part]] = {}
    for part in sorted(_group_parts(rows), key=lambda part: _random_key(seed, part.key)):
        strata.setdefault(part.stratum, []).append(part)
    validation: list[_Part] = []
    ever: Counter[str] = Counter()
    if fraction > 0:
        for _, parts in sorted(strata.items()):
            count = min(max(round(len(parts) * fraction), 1), len(parts) - 1)
            validation += _pick_balanced(parts, count, lambda part: part.defect, Counter(), ever)
        everything = [part for parts in strata.values() for part in parts]
        if not validation and len(everything) > 1:
            validation = [min(everything, key=lambda part: _random_key(seed, part.key))]
    validation_ids = {sample_id for part in validation for sample_id in part.sample_ids}
    return {key: "validation" if key in validation_ids else "train" for key in rows["sample_id"].to_list()}


def _find_straddling_parts(rows: pl.DataFrame, splits: dict[str, str]) -> dict[str, Any]:
    parts = _group_parts(rows)
    both = [part.key for part in parts if len({splits[key] for key in part.sample_ids}) > 1]
    return {"parts": len(parts), "in_both_splits": both}


def _summarize_selection(rows: pl.DataFrame, splits: dict[str, str]) -> list[dict[str, Any]]:
    table = rows.with_columns(pl.col("sample_id").replace_strict(splits).alias("corpus_split"))
    grouped = table.group_by("category", "view").agg(
        (pl.col("label") == "normal").sum().alias("normal"),
        (pl.col("label") == "anomalous").sum().alias("anomalous"),
        (pl.col("corpus_split") == "validation").sum().alias("validation"),
        pl.col("defect_type").drop_nulls().unique().sort().alias("defect_types"),
    )
    return grouped.sort("category", "view").to_dicts()


def _describe_set(params: Params, name: str, frame: pl.DataFrame, checked: dict[str, Any]) -> dict[str, Any]:
    benchmark = load_benchmarks()[params.pull[name].benchmark].BENCHMARK
    return {
        "set": name,
        "benchmark": benchmark.title,
        "local_images": frame.height,
        "published_images": sum(benchmark.published.values()) or None,
        "images_compared": checked["compared"][name],
        "local_categories": sorted(set(frame["category"].to_list())),
        "official_categories": sorted(benchmark.categories),
    }


def _write_csv(path: Path, rows: Sequence[dict[str, Any]], columns: Sequence[str]) -> None:
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, columns)
        writer.writeheader()
        writer.writerows({key: " ".join(v) if isinstance(v, list) else v for key, v in row.items()} for row in rows)
