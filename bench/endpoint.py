"""The client to a model against the ideal and against other libraries: the same job, the same server, in turn."""

import asyncio
import functools
import hashlib
import json
import math
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bench.latency_server import HOST, latency_server
from bench.paired import Row
from bench.rivals.measured import CONCURRENCY, MAX_TOKENS, MODEL, measured
from cot_builder.endpoint.client import Endpoint, EndpointClient
from cot_builder.endpoint.flow import run_in_order
from cot_builder.endpoint.prices import Patches, Price
from cot_builder.endpoint.replies import Answer
from cot_builder.endpoint.request import ImageFile, Request
from cot_builder.endpoint.store import AnswerStore
from cot_builder.params import load_params
from cot_builder.progress import console

SAMPLES, MANY = 2_000, 20_000
LATENCY_S = 0.5
IMAGES, IMAGE_BYTES, SIDE = 64, 100_000, 512
RUNS = 3
BARE = 640
"""Requests enough to see what the server and the machine can do."""
JOB = f"{SAMPLES:,} two-image samples, {CONCURRENCY} at once, {LATENCY_S:g} s latency"
KEY_ENV = "BENCH_ENDPOINT_KEY"
PRICE = Price(input=1.0, output=1.0, image=Patches(formula="patches", side=32, most=16384))
RIVALS = Path(__file__).parent / "rivals"
QUIET = {
    "CURATOR_DISABLE_CACHE": "1",
    "CURATOR_VIEWER": "0",
    "CURATOR_DISABLE_RICH_DISPLAY": "1",
    "TELEMETRY_ENABLED": "false",
    "LITELLM_LOCAL_MODEL_COST_MAP": "True",
    "HF_HUB_OFFLINE": "1",
    "HF_HUB_DISABLE_TELEMETRY": "1",
    "DISTILABEL_LOG_LEVEL": "WARNING",
    "NO_PROXY": HOST,
}
"""No cache, no telemetry, nothing fetched: the rivals only do the job."""


class NotMeasuredError(Exception):
    """A rival cannot be installed or does not do the job. Its text says why."""


@dataclass(frozen=True)
class Run:
    """One run of a job, in a process of its own."""

    seconds: float
    cpu_s: float
    peak_kib: int
    version: str
    bytes_a_request: float


def write_samples(folder: Path, samples: int) -> None:
    """Images of the size of a patch, and a line for each sample with its question and two of them."""
    images = []
    for index in range(IMAGES):
        path = folder / f"{index:03d}.png"
        # Nobody decodes them.
        path.write_bytes(os.urandom(IMAGE_BYTES))
        images.append((str(path), hashlib.sha256(path.read_bytes()).hexdigest()))
    with (folder / "samples.jsonl").open("w") as file:
        for index in range(samples):
            first, second = images[index % IMAGES], images[(index // IMAGES + index + 1) % IMAGES]
            prompt = f"Sample {index}: the whole part and an enlarged region of it. Describe every defect you see."
            row = {
                "prompt": prompt,
                "image_1": first[0],
                "sha256_1": first[1],
                "image_2": second[0],
                "sha256_2": second[1],
            }
            file.write(json.dumps(row) + "\n")


def ask_all(address: str, folder: Path, store: Path) -> int:
    """Ask the client about every sample of ``folder``; returns how many were answered."""
    params = load_params()
    endpoint = Endpoint(address, KEY_ENV, [MODEL], "teacher")
    pace = params.compute.endpoint.model_copy(update={"concurrency": CONCURRENCY})
    budget = params.budget.model_copy(update={"usd": 1e6})
    answers = AnswerStore(store)
    answered = 0
    with (folder / "samples.jsonl").open() as lines:
        total = sum(1 for _ in lines)

    def take(answer: Answer) -> None:
        nonlocal answered
        answered += bool(answer.text)

    async def run() -> None:
        async with EndpointClient(endpoint, pace, budget, answers, price=lambda _: PRICE) as client:
            with (folder / "samples.jsonl").open() as lines:
                await run_in_order(
                    lines,
                    lambda line: client.ask(_request(json.loads(line))),
                    take,
                    client,
                    CONCURRENCY,
                    "bench",
                    total,
                )

    asyncio.run(run())
    answers.close()
    return answered


def endpoint_rate() -> Row:
    """Ideal time over ours; beside it what bare sockets reach, so that the server and the machine are known."""
    with tempfile.TemporaryDirectory() as name, latency_server(LATENCY_S) as server:
        write_samples(Path(name), 1)
        body = _request(json.loads((Path(name) / "samples.jsonl").read_text())).encode_body()
        bare = _ideal(BARE) / asyncio.run(_bare(server.port, body))
    ratio = statistics.median(_ideal(SAMPLES) / first.seconds for first, _ in _first_and_cached())
    against = f"the ideal {_ideal(SAMPLES):g} s (bare sockets: {bare:.2f})"
    return Row("endpoint_rate", f"requests/s ({JOB})", against, ratio, 0.95, "higher")


def endpoint_cached() -> Row:
    """Time of the first run over that of a second one that finds every answer kept."""
    ratio = statistics.median(first.seconds / cached.seconds for first, cached in _first_and_cached())
    return Row("endpoint_cached", f"a fully cached run ({JOB})", "the first run", ratio, 20, "higher")


def endpoint_memory() -> Row:
    """Peak memory at 20,000 samples and at 2,000, from a server without latency."""
    peaks = []
    for samples in (SAMPLES, MANY):
        with tempfile.TemporaryDirectory() as name:
            folder = Path(name)
            write_samples(folder, samples)
            peaks.append(_ours(folder, folder / "answers.sqlite", samples, 0.0).peak_kib)
    what = f"peak memory at {MANY:,} two-image samples, {CONCURRENCY} at once"
    return Row("endpoint_memory", what, f"at {SAMPLES:,}", peaks[1] / peaks[0], 1.2, "lower")


def endpoint_against_curator() -> Row:
    """Time of theirs over time of ours, imports apart."""
    against = functools.partial(_against, "bespokelabs-curator", "with_curator.py")
    return _row("endpoint_against_curator", f"samples/s ({JOB})", against, _speed, 1.0, "higher")


def endpoint_cpu_against_curator() -> Row:
    """Processor time of our client over theirs, from the same runs."""
    against = functools.partial(_against, "bespokelabs-curator", "with_curator.py")
    return _row("endpoint_cpu_against_curator", f"client CPU a request ({JOB})", against, _cpu, 1.0, "lower")


def endpoint_against_distilabel() -> Row:
    """Time of theirs over time of ours, imports apart; starting its workers is part of their job."""
    # It imports requests without asking for it.
    against = functools.partial(_against, "distilabel[openai]", "with_distilabel.py", ("requests",))
    return _row("endpoint_against_distilabel", f"samples/s ({JOB})", against, _speed, 1.3, "higher")


def _row(
    name: str,
    what: str,
    against: Callable[[], list[tuple[Run, Run]]],
    ratio: Callable[[Run, Run], float],
    target: float,
    better: Any,
) -> Row:
    try:
        pairs = against()
    except NotMeasuredError as reason:
        return Row(name, what, f"NOT MEASURED: {reason}", math.nan, target, better)
    median = statistics.median(ratio(ours, theirs) for ours, theirs in pairs)
    return Row(name, what, pairs[0][1].version, median, target, better)


def _speed(ours: Run, theirs: Run) -> float:
    return theirs.seconds / ours.seconds


def _cpu(ours: Run, theirs: Run) -> float:
    return ours.cpu_s / theirs.cpu_s


def _ideal(requests: int) -> float:
    return math.ceil(requests / CONCURRENCY) * LATENCY_S


@functools.cache
def _first_and_cached() -> list[tuple[Run, Run]]:
    runs = []
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_samples(folder, SAMPLES)
        for turn in range(RUNS):
            store = folder / f"{turn}.sqlite"
            runs.append((_ours(folder, store, SAMPLES), _ours(folder, store, 0)))
    return runs


@functools.cache
def _against(package: str, script: str, beside: tuple[str, ...] = ()) -> list[tuple[Run, Run]]:
    """Ours and theirs in turn, which of them begins alternating."""
    pairs = []
    with tempfile.TemporaryDirectory() as name, _environment(package, *beside) as python:
        folder = Path(name)
        write_samples(folder, SAMPLES)
        for turn in range(RUNS):
            ours = functools.partial(_ours, folder, folder / f"{turn}.sqlite", SAMPLES)
            theirs = functools.partial(_theirs, python, script, package, folder)
            if turn % 2:
                second, first = theirs(), ours()
            else:
                first, second = ours(), theirs()
            if not 0.95 < second.bytes_a_request / first.bytes_a_request < 1.05:
                raise NotMeasuredError(
                    f"{second.version} sends {second.bytes_a_request:.0f} bytes a request, ours "
                    f"{first.bytes_a_request:.0f}: not the same job"
                )
            pairs.append((first, second))
    return pairs


@contextmanager
def _environment(*packages: str) -> Iterator[Path]:
    """The Python of a throw-away environment that holds ``packages``."""
    uv = Path(sys.executable).parent / "uv"
    find_links = os.environ.get("UV_FIND_LINKS") or os.environ.get("PIP_FIND_LINKS")
    environment = os.environ | ({"UV_FIND_LINKS": find_links} if find_links else {})
    with tempfile.TemporaryDirectory() as name:
        python = Path(name) / "bin" / "python"
        for command in (
            ["venv", "--quiet", "--python", sys.executable, name],
            ["pip", "install", "--quiet", "--python", str(python), *packages],
        ):
            done = subprocess.run([str(uv), *command], env=environment, capture_output=True, text=True, check=False)
            if done.returncode:
                raise NotMeasuredError(f"{packages[0]} cannot be installed ({_last_line(done.stderr)})")
        yield python


def _ours(folder: Path, store: Path, sent: int, latency_s: float = LATENCY_S) -> Run:
    command = [sys.executable, "-m", "bench.endpoint", str(folder), str(store)]
    return _run(command, {KEY_ENV: "none"}, sent, "indus-cot", latency_s, folder)


def _theirs(python: Path, script: str, package: str, folder: Path) -> Run:
    with tempfile.TemporaryDirectory() as home:
        environment = QUIET | {"HOME": home, "CURATOR_CACHE_DIR": f"{home}/curator", "HF_HOME": f"{home}/hf"}
        command = [str(python), str(RIVALS / script), str(folder)]
        return _run(command, environment, SAMPLES, package.partition("[")[0], LATENCY_S, folder)


def _run(command: list[str], environment: dict[str, str], sent: int, name: str, latency_s: float, folder: Path) -> Run:
    with latency_server(latency_s) as server:
        told_where = os.environ | environment | {"BENCH_ADDRESS": server.address}
        done = subprocess.run(command, env=told_where, capture_output=True, text=True, check=False)
        counts = server.counts()
    if done.returncode:
        raise NotMeasuredError(f"{name} stopped ({_last_line(done.stderr)})")
    told = json.loads(done.stdout.splitlines()[-1])
    samples = (folder / "samples.jsonl").read_bytes().count(b"\n")
    # One more: a rival asks once for its limits.
    if told["answers"] != samples or not sent <= counts.answered <= sent + 1 or counts.most > CONCURRENCY:
        raise NotMeasuredError(
            f"{name} did another job: {told['answers']} answers to {samples} samples, "
            f"{counts.answered} requests, {counts.most} at once"
        )
    return Run(
        told["seconds"],
        told["cpu_s"],
        told["peak_kib"],
        f"{name} {told['version']}",
        counts.received / max(counts.answered, 1),
    )


def _request(row: dict[str, str]) -> Request:
    images = [_image(row[f"image_{number}"], row[f"sha256_{number}"]) for number in (1, 2)]
    content = [{"type": "text", "text": row["prompt"]}, *(image.content_part for image in images)]
    return Request(
        step="bench",
        model=MODEL,
        messages=[{"role": "user", "content": content}],
        images={image.sha256: image for image in images},
        max_tokens=MAX_TOKENS,
    )


def _image(path: str, sha256: str) -> ImageFile:
    return ImageFile(sha256, SIDE, SIDE, lambda: (Path(path).read_bytes(), "image/png"))


async def _bare(port: int, body: bytes) -> float:
    """Seconds that sockets with nothing around them take for ``BARE`` requests."""
    left = iter(range(BARE))
    request = b"POST /v1/chat/completions HTTP/1.1\r\nHost: bench\r\nContent-Length: %d\r\n\r\n%b" % (len(body), body)

    async def connection() -> None:
        reader, writer = await asyncio.open_connection(HOST, port)
        for _ in left:
            writer.write(request)
            head = await reader.readuntil(b"\r\n\r\n")
            await reader.readexactly(int(head.rpartition(b": ")[2]))
        writer.close()

    started = time.perf_counter()
    await asyncio.gather(*(connection() for _ in range(CONCURRENCY)))
    return time.perf_counter() - started


def _last_line(text: str) -> str:
    lines = text.strip().splitlines()
    return lines[-1][:300] if lines else "no message"


if __name__ == "__main__":
    console.quiet = True
    measured(lambda: ask_all(os.environ["BENCH_ADDRESS"], Path(sys.argv[1]), Path(sys.argv[2])), "indus-cot")
