"""Answers of policies under evaluation, and readers of what `indus-cot evaluate` wrote."""

from pathlib import Path

import polars as pl

from schemas.metrics import Metrics
from tests.servers.chat_server import Body, ChatServer, get_text

KEY = "sk-not-a-real-key-0123456789"
YES = "<think>A mark.</think><location>[[10, 10, 90, 90]]</location><type>scratch</type><answer>Yes</answer>"
NO = "<think>All is even.</think><answer>No</answer>"
CALL = '<think>Closer.</think>\n<tool_call>\n{"name": "crop", "arguments": {"region": [0, 0, 500, 500]}}\n</tool_call>'


def read_held_out(results: str = "results") -> Metrics:
    """Read the figures of the set ``held_out``."""
    return Metrics.model_validate_json(Path(results, "held_out", "metrics.json").read_bytes())


def read_rows(results: str = "results", name: str = "held_out") -> pl.DataFrame:
    """Read the predictions on a set."""
    return pl.read_parquet(Path(results, name, "predictions.parquet"))


def endpoint_settings(server: ChatServer | str, *more: str) -> tuple[str, ...]:
    """Return the parameters of an evaluation that asks this server."""
    url = server if isinstance(server, str) else server.url
    return (
        "evaluate.policy=endpoint", "evaluate.model=some-model", f"evaluate.base_url={url}",
        "compute.endpoint.backoff_s=0.01", "compute.endpoint.attempts=3", *more,
    )  # fmt: skip


def look_twice(body: Body) -> str:
    """Reply with two calls, then with Yes."""
    return (CALL, CALL, YES)[get_text(body).count("<tool_response>")]
