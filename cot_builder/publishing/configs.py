"""The published configurations: columns, types, and which of them a student may see."""

import hashlib
import json
from collections.abc import Iterable, Mapping
from functools import cache
from typing import Any, Literal

import pyarrow as pa
from datasets import Features, Json, List, Value
from datasets import Image as ImageFeature

from schemas.errors import IndusCotError
from schemas.supervision import Supervision

Config = Literal["sft", "rl", "preference", "review"]
CONFIGS: tuple[Config, ...] = ("sft", "rl", "preference", "review")
STUDENT_CONFIGS: tuple[Config, ...] = ("sft", "preference")
"""Configurations whose columns may all be shown to a policy, as prompt or target."""
SUPERVISION_COLUMNS = frozenset({"answer", *Supervision.model_fields} - {"sample_id"})
"""Columns with the ground truth of an image; `rl` has some of them, only for rewards."""

_TEXT = Value("string")
REFERENCE = {
    "sha256": _TEXT,
    "kind": _TEXT,
    "turn": Value("int32"),
    "path": _TEXT,
    "file_sha256": _TEXT,
    "box": List(Value("int32")),
}
"""How to regenerate an image. ``kind``: file (the original), region (``box`` of it, half-open pixels, as PNG) or
observation (returned by the call of ``turn``, counted from 1). ``file_sha256``: hash of the original file."""
_SAMPLE_COLUMNS = {
    "sample_id": _TEXT,
    "source_set": _TEXT,
    "category": _TEXT,
    "view": _TEXT,
    "licence": _TEXT,
    "image_licence": _TEXT,
    "obtain": _TEXT,
}
"""``licence``: the stricter of the licences of texts and image, as an identifier of the Hub. ``image_licence``: that of
the image, in words."""
_ORIGIN_COLUMNS = {
    "teacher": _TEXT,
    "prompt_version": _TEXT,
    "toolbox_version": _TEXT,
    "review_status": _TEXT,
    "reviewers": Value("int64"),
}
_IMAGES = List(ImageFeature())
_REFERENCES = List(REFERENCE)
COLUMNS: Mapping[Config, dict[str, Any]] = {
    "sft": {
        "id": _TEXT,
        "messages": Json(),
        "images": _IMAGES,
        "tools": Json(),
        "references": _REFERENCES,
        **_SAMPLE_COLUMNS,
        **_ORIGIN_COLUMNS,
    },
    "rl": {
        "id": _TEXT,
        "prompt": Json(),
        "image": ImageFeature(),
        "tools": Json(),
        "answer": _TEXT,
        "boxes": List(List(Value("int64"))),
        "defect_type": _TEXT,
        "references": _REFERENCES,
        **_SAMPLE_COLUMNS,
    },
    "preference": {
        "id": _TEXT,
        "row": _TEXT,
        "prompt": Json(),
        "chosen": Json(),
        "rejected": Json(),
        "images": _IMAGES,
        "chosen_images": _IMAGES,
        "rejected_images": _IMAGES,
        "tools": Json(),
        "origin": _TEXT,
        "reasons": List(_TEXT),
        "references": _REFERENCES,
        "chosen_references": _REFERENCES,
        "rejected_references": _REFERENCES,
        "toolbox_version": _TEXT,
        **_SAMPLE_COLUMNS,
    },
    "review": {
        "id": _TEXT,
        "row": _TEXT,
        "sample_id": _TEXT,
        "reviewer": _TEXT,
        "role": _TEXT,
        "day": _TEXT,
        "seconds": Value("float64"),
        "verdict": _TEXT,
        "reasons": List(_TEXT),
        "evidence_rating": Value("int64"),
        "logic_rating": Value("int64"),
        "changes": List({"field": _TEXT, "before": _TEXT, "after": _TEXT}),
        "caught": Value("bool"),
        "problems": List(_TEXT),
        "licence": _TEXT,
    },
}
IMAGES: Mapping[Config, dict[str, str]] = {
    "sft": {"images": "references"},
    "rl": {"image": "references"},
    "preference": {
        "images": "references",
        "chosen_images": "chosen_references",
        "rejected_images": "rejected_references",
    },
    "review": {},
}
"""Image columns of each configuration, with the column of their references."""


@cache
def features(config: Config) -> Features:
    """Columns of a configuration as `datasets` types.

    Raises:
        IndusCotError: a student-facing configuration has a supervision column.
    """
    columns = COLUMNS[config]
    if config in STUDENT_CONFIGS and (told := sorted(SUPERVISION_COLUMNS & columns.keys())):
        raise IndusCotError(
            f"publish: the configuration {config} is shown to students and must not have the column "
            f"{', '.join(told)}, which is supervision"
        )
    return Features(columns)


@cache
def schema(config: Config) -> pa.Schema:
    """Columns of a configuration as Arrow types, with the metadata that `datasets` needs."""
    return features(config).arrow_schema


def row_hash(row: Mapping[str, Any]) -> str:
    """sha256 of a row as it is stored: JSON with sorted keys, image bytes by their own sha256."""
    return hashlib.sha256(
        json.dumps(row, sort_keys=True, ensure_ascii=False, default=_hash_bytes, allow_nan=False).encode()
    ).hexdigest()


def _hash_bytes(value: Any) -> str:
    assert isinstance(value, bytes), type(value)
    return hashlib.sha256(value).hexdigest()


def combine_hashes(hashes: Iterable[str]) -> str:
    """One sha256 over a sequence of hashes."""
    whole = hashlib.sha256()
    for item in hashes:
        whole.update(item.encode() + b"\n")
    return whole.hexdigest()
