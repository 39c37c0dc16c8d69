"""Looks through every text that is to leave, many at once, for what must not."""

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
"""Columns of the corpus that are looked through: of what leaves, all others are numbers, hashes, or this project's own
words."""


def scan_batch(batch: pa.RecordBatch, split: str, expression: str) -> None:
    """Look through every text of a batch of the corpus at once.

    Raises:
        IndusCotError: something is found; names column and row.
    """
    columns = {name: _to_json_texts(batch.column(name)) for name in SCANNED_COLUMNS}
    # The expression is compiled anew for each array: it takes longer than looking through this one.
    if not secrets.contains_match(pa.concat_arrays(columns.values()), expression):
        return
    ids = batch.column("id").to_pylist()
    for name, written in columns.items():
        if secrets.contains_match(written, expression):
            for identity, text in zip(ids, written.to_pylist(), strict=True):
                secrets.check_text(text, f"{split}, row {identity}, column {name}", expression)
            raise IndusCotError(
                f"{split}, one of the rows {ids[0]} to {ids[-1]}, column {name}: holds something that must not "
                "leave; nothing was published. Reject their drafts in review, then run again"
            )


def make_scanned_table(config: Config, rows: Sequence[Mapping[str, Any]], expression: str) -> pa.Table:
    """Rows of a small configuration as a table; their texts, which are in no batch of the corpus, are looked through.

    Raises:
        IndusCotError: something is found; names the row.
    """
    texts = [(row["id"], text) for row in rows for text in _iter_texts(row)]
    if secrets.contains_match(pa.array([secrets.to_json_text(text) for _, text in texts], pa.string()), expression):
        for name, text in texts:
            secrets.check_text(text, f"{config}, row {name}", expression)
    return pa.Table.from_pylist(list(rows), schema=schema(config))


def _iter_texts(value: Any) -> Iterator[str]:
    """Every text in a row, on its own: JSON within JSON would have its signs escaped twice."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, Mapping):
        for item in value.values():
            yield from _iter_texts(item)
    elif isinstance(value, list):
        for item in value:
            yield from _iter_texts(item)


def _to_json_texts(texts: pa.Array) -> pa.StringArray:
    """Texts as JSON: those that are none yet are made so."""
    if isinstance(texts, pa.ExtensionArray):
        return texts.storage
    return pa.array([json.dumps(text, ensure_ascii=False) for text in texts.to_pylist()], pa.string())
