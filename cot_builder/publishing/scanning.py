"""Scan the texts of published rows for secrets, in batches."""

import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import pyarrow as pa

from cot_builder.publishing import secrets
from cot_builder.publishing.configs import Config, schema
from schemas.errors import IndusCotError

SCANNED_COLUMNS = (
    "messages",
    "sample_id",
    "source_set",
    "category",
    "view",
    "teacher",
    "prompt_version",
    "licence",
)
"""Scanned columns of the corpus; all other published columns are numbers, hashes or this project's own words."""


def scan_batch(batch: pa.RecordBatch, split: str, expression: str) -> None:
    """Scan every text of a batch of the corpus.

    Raises:
        IndusCotError: a match; names column and row.
    """
    columns = {name: _to_json_texts(batch.column(name)) for name in SCANNED_COLUMNS}
    # Concatenate first: the expression is compiled for each array, which takes longer than the scan.
    if not secrets.contains_match(pa.concat_arrays(columns.values()), expression):
        return
    ids = batch.column("id").to_pylist()
    for name, written in columns.items():
        if secrets.contains_match(written, expression):
            for identity, text in zip(ids, written.to_pylist(), strict=True):
                secrets.check_text(text, f"{split}, row {identity}, column {name}", expression)
            raise IndusCotError(
                f"{split}, one of the rows {ids[0]} to {ids[-1]}, column {name}: holds a text that must not "
                "be published; nothing was published. Reject their drafts in review, then run again"
            )


def make_scanned_table(config: Config, rows: Sequence[Mapping[str, Any]], expression: str) -> pa.Table:
    """Build a table of rows whose texts are not in a corpus batch, and scan these texts.

    Raises:
        IndusCotError: a match; names the row.
    """
    texts = [(row["id"], text) for row in rows for text in _iter_texts(row)]
    if secrets.contains_match(pa.array([secrets.to_json_text(text) for _, text in texts], pa.string()), expression):
        for name, text in texts:
            secrets.check_text(text, f"{config}, row {name}", expression)
    return pa.Table.from_pylist(list(rows), schema=schema(config))


def _iter_texts(value: Any) -> Iterator[str]:
    """Yield each text of a row separately; nested JSON would be escaped twice."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, Mapping):
        for item in value.values():
            yield from _iter_texts(item)
    elif isinstance(value, list):
        for item in value:
            yield from _iter_texts(item)


def _to_json_texts(texts: pa.Array) -> pa.StringArray:
    """Texts in their JSON form."""
    if isinstance(texts, pa.ExtensionArray):
        return texts.storage
    return pa.array([json.dumps(text, ensure_ascii=False) for text in texts.to_pylist()], pa.string())
