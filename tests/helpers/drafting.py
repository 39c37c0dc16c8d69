"""`indus-cot draft` with a teacher behind a server on loopback."""

import base64
import csv
import hashlib
import json
import re
import subprocess
from pathlib import Path
from typing import Any

import polars as pl

from tests.helpers.pipeline import SMALL, new_project, run
from tests.servers.chat_server import ChatServer

KEY = "sk-not-a-real-key-0123456789"
FEW = ("select.samples=24",)
CONCURRENCY = 8


def prepare(folder: Path) -> None:
    """Make ``folder`` a project up to `prior`, with the offline teacher's priors."""
    project = new_project(folder)
    sets = ("real_iad", "mvtec_ad", "visa", "mpdd", "dtd", "sdd")
    for stage in (*(("pull", name) for name in sets), ("select",), ("prior",)):
        done = run(project, *stage, settings=(*SMALL, *FEW))
        assert done.returncode == 0, done.stderr


def settings(server: ChatServer | str, *more: str) -> tuple[str, ...]:
    """Parameters of a run that asks this server."""
    url = server if isinstance(server, str) else server.url
    return (
        *SMALL, *FEW, "teacher.backend=endpoint", f"teacher.base_url={url}", "teacher.model=gpt-4.1",
        f"compute.endpoint.concurrency={CONCURRENCY}", "compute.endpoint.backoff_s=0.01", *more,
    )  # fmt: skip


def draft(
    project: Path, server: ChatServer | str, *flags: str, more: tuple[str, ...] = (), key: str = KEY
) -> subprocess.CompletedProcess[str]:
    """`indus-cot draft` against this server; ``more`` are further parameters."""
    return run(project, "draft", *flags, settings=settings(server, *more), OPENAI_API_KEY=key)


def drafts(project: Path) -> pl.DataFrame:
    """The drafts of a project, in a fixed order."""
    return pl.read_parquet(project / "data/draft/trajectory.parquet").sort("draft_id")


def form(body: dict[str, Any]) -> str:
    """Name of the form that a request asks to be filled in."""
    return body["response_format"]["json_schema"]["name"]


def images(body: dict[str, Any]) -> list[bytes]:
    """Files of the images in a request."""
    urls = [
        part["image_url"]["url"]
        for message in body["messages"]
        if not isinstance(message["content"], str)
        for part in message["content"]
        if part["type"] == "image_url"
    ]
    return [base64.b64decode(url.partition(",")[2]) for url in urls]


def key_of(body: dict[str, Any]) -> str:
    """The key under which the answer to a request of candidate 0 is kept."""
    text = json.dumps(body)
    for url in set(re.findall(r"data:image/\w+;base64,[A-Za-z0-9+/=]+", text)):
        digest = hashlib.sha256(base64.b64decode(url.partition(",")[2])).hexdigest()
        text = text.replace(url, f"sha256:{digest}")
    return hashlib.sha256(json.dumps([json.loads(text), 0], sort_keys=True).encode()).hexdigest()


def ledger(project: Path) -> dict[str, str]:
    """Why each sample has no draft."""
    with (project / "reports/failures.csv").open(newline="", encoding="utf-8") as file:
        return {row["sample_id"]: row["why"] for row in csv.DictReader(file)}


def asked(result: subprocess.CompletedProcess[str]) -> int:
    """Requests that an estimate says would be sent."""
    found = re.search(r"to ask: (\d+) requests", result.stdout)
    assert found, result.stdout + result.stderr
    return int(found.group(1))
