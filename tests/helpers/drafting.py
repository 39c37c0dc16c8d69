"""Run `indus-cot draft` with a teacher behind a server on loopback."""

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


def prepare_project(folder: Path) -> None:
    """Create a project in ``folder`` and run its stages up to `prior`, with the offline teacher's priors."""
    project = new_project(folder)
    sets = ("real_iad", "mvtec_ad", "visa", "mpdd", "dtd", "sdd")
    for stage in (*(("pull", name) for name in sets), ("select",), ("prior",)):
        done = run(project, *stage, settings=(*SMALL, *FEW))
        assert done.returncode == 0, done.stderr


def endpoint_settings(server: ChatServer | str, *more: str) -> tuple[str, ...]:
    """Return the parameters of a run that asks this server."""
    url = server if isinstance(server, str) else server.url
    return (
        *SMALL, *FEW, "teacher.backend=endpoint", f"teacher.base_url={url}", "teacher.model=gpt-4.1",
        f"compute.endpoint.concurrency={CONCURRENCY}", "compute.endpoint.backoff_s=0.01", *more,
    )  # fmt: skip


def run_draft(
    project: Path, server: ChatServer | str, *flags: str, more: tuple[str, ...] = (), key: str = KEY
) -> subprocess.CompletedProcess[str]:
    """Run `indus-cot draft` against this server; ``more`` are further parameters."""
    return run(project, "draft", *flags, settings=endpoint_settings(server, *more), OPENAI_API_KEY=key)


def read_drafts(project: Path) -> pl.DataFrame:
    """Read the drafts of a project, in a fixed order."""
    return pl.read_parquet(project / "data/draft/trajectory.parquet").sort("draft_id")


def get_form_name(body: dict[str, Any]) -> str:
    """Return the name of the form that a request asks for."""
    return body["response_format"]["json_schema"]["name"]


def decode_images(body: dict[str, Any]) -> list[bytes]:
    """Decode the images of a request to file bytes."""
    urls = [
        part["image_url"]["url"]
        for message in body["messages"]
        if not isinstance(message["content"], str)
        for part in message["content"]
        if part["type"] == "image_url"
    ]
    return [base64.b64decode(url.partition(",")[2]) for url in urls]


def compute_key(body: dict[str, Any]) -> str:
    """Compute the store key of a request of candidate 0 from its body."""
    text = json.dumps(body)
    for url in set(re.findall(r"data:image/\w+;base64,[A-Za-z0-9+/=]+", text)):
        digest = hashlib.sha256(base64.b64decode(url.partition(",")[2])).hexdigest()
        text = text.replace(url, f"sha256:{digest}")
    return hashlib.sha256(json.dumps([json.loads(text), 0], sort_keys=True).encode()).hexdigest()


def read_failures(project: Path) -> dict[str, str]:
    """Read the failures ledger: sample id to the reasons why it has no draft."""
    with (project / "reports/failures.csv").open(newline="", encoding="utf-8") as file:
        return {row["sample_id"]: row["why"] for row in csv.DictReader(file)}


def parse_request_count(result: subprocess.CompletedProcess[str]) -> int:
    """Parse the number of requests to be sent from the output of `--dry-run`."""
    found = re.search(r"to send: (\d+) requests", result.stdout)
    assert found, result.stdout + result.stderr
    return int(found.group(1))
