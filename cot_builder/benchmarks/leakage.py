"""The leakage report: what was done so that no evaluation image or category is trained on, and what it cannot show."""

import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from cot_builder.storage.output import write_text

SHOWN = 50
CANNOT_PROVE = (
    "Categories are compared by name. Two names of one object without a word in common would pass; "
    "name them in `select.drop_categories`.",
    "Images are compared with the local copies of the evaluation sets only; where a copy is partial, "
    "the rest was not seen.",
    "The comparison finds copies that were re-encoded, resized or slightly brightened. It does not find cut-outs, "
    "rotated or mirrored copies, or another photograph of the same part.",
    "An image without features (a blank surface) is compared by its bytes alone.",
    "Nothing is known of what a teacher or a backbone model saw before.",
)


def write_leakage(folder: Path, facts: dict[str, Any]) -> None:
    """Write ``leakage.json`` with all facts and ``leakage.md`` for a reviewer."""
    facts = facts | {"cannot_prove": list(CANNOT_PROVE)}
    write_text(folder / "leakage.json", json.dumps(facts, indent=1, ensure_ascii=False) + "\n")
    write_text(folder / "leakage.md", _page(facts))


def _page(facts: dict[str, Any]) -> str:
    counts, copies = facts["counts"], facts["copies"]
    straddling = facts["parts"]["in_both_splits"]
    sections = [
        "# Leakage report",
        f"Training pool: {', '.join(facts['training_sets'])}. Of {counts['pulled']} samples {counts['selected']} were "
        f"selected ({counts['train']} train, {counts['validation']} validation). "
        f"Dropped: {len({row['category'] for row in facts['dropped_categories']})} of the categories, "
        f"{len({row['sample_id'] for row in copies})} of the images as copies of evaluation images.",
        "## Checked against",
        _table(
            ("set", "benchmark", "images here", "published", "compared", "categories here", "official categories"),
            (
                (
                    row["set"],
                    row["benchmark"],
                    row["local_images"],
                    row["published_images"] or "unknown",
                    row["images_compared"],
                    len(row["local_categories"]),
                    len(row["official_categories"]) or "unknown",
                )
                for row in facts["evaluation_sets"]
            ),
        )
        if facts["evaluation_sets"]
        else "**No evaluation set is configured: nothing was checked.**",
        "## Categories dropped",
        _table(
            ("category", "samples", "is", "of", "rule"),
            (
                (
                    row["category"],
                    row["samples"],
                    row["evaluation_category"] or "–",
                    ", ".join(row["evaluation_sets"]) or "–",
                    row["rule"],
                )
                for row in facts["dropped_categories"]
            ),
        ),
        "Names are compared exactly, then normalised: lower case, singular, without digits and separators, compounds "
        "as one word. `drop_categories` is an override.",
        "## Categories kept",
        ", ".join(f"`{name}`" for name in facts["kept_categories"]) or "None.",
        "Kept although a word is shared with an evaluation category, since the names mean different objects; add "
        "them to `select.drop_categories` where they do not:",
        _table(
            ("category", "evaluation category", "of"),
            (
                (row["category"], row["evaluation_category"], ", ".join(row["evaluation_sets"]))
                for row in facts["names_that_share_a_word"]
            ),
        ),
        "## Overrides",
        f"Kept against the rule: {_names(facts['overrides']['kept'])}. "
        f"Listed to be kept, without need: {_names(facts['overrides']['kept_without_need'])}. "
        f"Dropped by hand: {_names(facts['overrides']['dropped'])}.",
        "## Copies of evaluation images",
        f"{facts['images_compared']} training images were compared by bytes and by 64-bit perceptual hash "
        f"(at most {facts['near_duplicate_bits']} differing bits, confirmed on 32 x 32 thumbnails). "
        f"{sum(row['kind'] == 'bytes' for row in copies)} pairs have the same bytes, "
        f"{sum(row['kind'] == 'perceptual' for row in copies)} look the same; "
        f"{facts['hash_matches_refused']} pairs had close hashes and different pictures. "
        f"{facts['featureless']} training images have no features "
        "and were compared by their bytes alone. "
        "All pairs: `near_duplicates.csv`.",
        _table(
            ("training image", "evaluation image", "kind", "bits", "correlation"),
            (
                (
                    row["source_path"],
                    f"{row['evaluation_set']}: {row['evaluation_source_path']}",
                    row["kind"],
                    row["differing_bits"],
                    row["correlation"],
                )
                for row in copies[:SHOWN]
            ),
            len(copies),
        ),
        "## Repeated training images",
        "Of images with the same bytes one is kept, and none where their labels differ.",
        _table(("left out", "same bytes as"), facts["repeated"][:SHOWN], len(facts["repeated"])),
        "## Physical parts",
        f"{facts['parts']['parts']} parts; {len(straddling)} have images in both splits"
        + (f": {', '.join(straddling[:SHOWN])}." if straddling else "."),
        "## What became of the samples",
        _table(("", "samples"), counts.items()),
        "Single samples and reasons: `excluded.csv`, `left_out.csv`.",
        "## Selected",
        _table(
            ("category", "view", "normal", "anomalous", "of these validation", "defect types"),
            (
                (
                    row["category"],
                    row["view"],
                    row["normal"],
                    row["anomalous"],
                    row["validation"],
                    ", ".join(row["defect_types"]),
                )
                for row in facts["selected"]
            ),
        ),
        "## What this does not prove",
        "\n".join(f"- {line}" for line in facts["cannot_prove"]),
    ]
    return "\n\n".join(sections) + "\n"


def _table(head: Sequence[str], rows: Iterable[Sequence[Any]], total: int = 0) -> str:
    lines = ["| " + " | ".join(str(cell).replace("|", "\\|") for cell in row) + " |" for row in rows]
    if not lines:
        return "None."
    more = f"\n\n… and {total - len(lines)} more." if total > len(lines) else ""
    return "\n".join([f"| {' | '.join(head)} |", "|" + "---|" * len(head), *lines]) + more


def _names(names: Sequence[str]) -> str:
    return ", ".join(f"`{name}`" for name in names) or "none"
