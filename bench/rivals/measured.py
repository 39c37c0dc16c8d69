"""Time and processor time of a job, told on standard output. Needs the standard library only."""

import json
import os
import resource
import time
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path

CONCURRENCY = 64
MODEL = "bench"
MAX_TOKENS = 256


def measured(job: Callable[[], int], package: str) -> None:
    """Run ``job``, which returns how many answers it holds at the end, and print one line of JSON.

    ``seconds`` and ``cpu_s`` (children that have ended included) are of the job alone: imports came before.
    ``peak_kib`` is the most memory the process ever held.
    """
    cpu, started = _cpu_s(), time.perf_counter()
    answers = job()
    told = {
        "seconds": time.perf_counter() - started,
        "cpu_s": _cpu_s() - cpu,
        "peak_kib": _peak_kib(),
        "answers": answers,
        "version": version(package),
    }
    print(json.dumps(told), flush=True)


def rows(folder: Path) -> list[dict[str, str]]:
    """The samples of ``folder``, whole: what a rival is given."""
    return [json.loads(line) for line in (folder / "samples.jsonl").read_text().splitlines()]


def _cpu_s() -> float:
    used = os.times()
    return used.user + used.system + used.children_user + used.children_system


def _peak_kib() -> int:
    # ru_maxrss begins at the size of the process that started this one; VmHWM does not.
    status = Path("/proc/self/status")
    if status.is_file():
        return next(int(line.split()[1]) for line in status.read_text().splitlines() if line.startswith("VmHWM"))
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
