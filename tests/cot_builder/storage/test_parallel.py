"""Tests of parallel maps: order of results, bounded memory, and messages for errors and killed workers."""

import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import cv2
import psutil
import pytest

from cot_builder.storage.parallel import CHUNKS_AHEAD, process_map, thread_map
from schemas.errors import IndusCotError
from tests.helpers.paths import ROOT

_known: list[int] = []


def remember(value: int) -> None:
    _known[:] = [value]


def refuse() -> None:
    raise IndusCotError("the prior of bracket is missing")


def add(number: int) -> tuple[int, int, int]:
    return number + sum(_known), os.getpid(), cv2.getNumThreads()


def end_at(last: int, number: int) -> int:
    if number == last:
        os.kill(os.getpid(), signal.SIGKILL)
    return number


def fail_at(last: int, number: int) -> int:
    if number == last:
        raise IndusCotError(f"image {number} is missing")
    return number


def wait(number: int) -> int:
    print(os.getpid(), flush=True)  # noqa: T201 - the test reads it
    signal.pause()
    return number


@pytest.mark.parametrize(("workers", "chunksize"), [(1, 1), (1, 4), (2, 1), (2, 4)])
def test_workers_are_initialised_and_ordered(workers: int, chunksize: int) -> None:
    threads = cv2.getNumThreads()
    done = list(process_map(add, range(21), workers, remember, (100,), chunksize))
    assert [value for value, _, _ in done] == list(range(100, 121))
    assert {count for _, _, count in done} == {1}
    assert (os.getpid() in {pid for _, pid, _ in done}) == (workers == 1)
    assert cv2.getNumThreads() == threads


def test_no_items_give_no_results() -> None:
    assert list(process_map(add, [], 2)) == list(process_map(add, [], 1)) == []


def test_processes_limit_items_in_flight() -> None:
    drawn: list[int] = []

    def items() -> Iterator[int]:
        for number in range(10_000):
            drawn.append(number)
            yield number

    results = process_map(add, items(), 2, chunksize=3)
    for _ in range(4):
        next(results)
    assert len(drawn) <= 3 * (2 * CHUNKS_AHEAD + 2)


@pytest.mark.parametrize("workers", [1, 2])
def test_worker_errors_reach_the_caller(workers: int) -> None:
    results = process_map(partial(fail_at, 2), range(50), workers)
    assert [next(results), next(results)] == [0, 1]
    with pytest.raises(IndusCotError, match="image 2 is missing"):
        next(results)
    with pytest.raises(IndusCotError, match="the prior of bracket is missing"):
        list(process_map(add, range(5), workers, refuse))


def test_killed_worker_gives_one_message() -> None:
    with pytest.raises(
        IndusCotError, match=r"killed a worker process, often because memory ran out; lower compute\.workers"
    ):
        list(process_map(partial(end_at, 3), range(40), 2))


@pytest.mark.slow
def test_workers_end_with_a_killed_run(tmp_path: Path) -> None:
    script = tmp_path / "start.py"
    script.write_text(
        "from cot_builder.storage.parallel import process_map\nfrom tests.cot_builder.storage.test_parallel import wait\n"
        "if __name__ == '__main__':\n    list(process_map(wait, range(2), 2))\n"
    )
    with subprocess.Popen(
        [sys.executable, str(script)],
        stdout=subprocess.PIPE,
        text=True,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
    ) as child:
        assert child.stdout
        workers = [psutil.Process(int(child.stdout.readline())) for _ in range(2)]
        child.kill()
        _, alive = psutil.wait_procs(workers, timeout=10)
        for process in alive:
            process.kill()
    assert not alive


def test_threads_run_in_parallel_and_ordered() -> None:
    together = threading.Barrier(2, timeout=30)

    def work(number: int) -> int:
        together.wait()
        return number * number

    assert list(thread_map(work, range(8), 2)) == [number * number for number in range(8)]


def test_threads_limit_items_in_flight() -> None:
    drawn: list[int] = []

    def items() -> Iterator[int]:
        for number in range(100):
            drawn.append(number)
            yield number

    results = thread_map(str, items(), 2)
    assert next(results) == "0" and len(drawn) == 3
    results.close()
    assert len(drawn) == 3


def test_thread_error_keeps_the_order() -> None:
    results = thread_map(lambda number: 6 // number, [3, 2, 0, 1], 2)
    assert (next(results), next(results)) == (2, 3)
    with pytest.raises(ZeroDivisionError):
        next(results)
