"""One function over many items, by a number of processes or threads."""

import multiprocessing
import os
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor, ThreadPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from itertools import islice
from typing import Any, TypeVar

import cv2

from schemas.errors import IndusCotError

Item = TypeVar("Item")
Result = TypeVar("Result")

CHUNKS_AHEAD = 4
"""Chunks a worker that are handed out before their results are taken: memory stays bounded, no worker waits."""


def process_map(
    work: Callable[[Item], Result],
    items: Iterable[Item],
    workers: int,
    initializer: Callable[..., None] | None = None,
    initargs: tuple[Any, ...] = (),
    chunksize: int = 1,
) -> Iterator[Result]:
    """Yield ``work(item)`` of every item, in the order of the items; OpenCV uses one thread a worker.

    Args:
        work: Picklable, as are the items and the results; with one worker it runs in this process.
        items: Drawn only as far ahead as the workers need.
        workers: Processes, at least 1. They end with this process, also where it is killed.
        initializer: Run once in every worker before its first item, with ``initargs``.
        initargs: Arguments of ``initializer``.
        chunksize: Items that travel together.

    Raises:
        IndusCotError: the system ended a worker.
    """
    if workers == 1:
        yield from _map_in_process(work, items, initializer, initargs)
        return
    context = multiprocessing.get_context("spawn")
    pool = ProcessPoolExecutor(workers, context, initializer=_start_worker, initargs=(initializer, initargs))
    pending: deque[Future[list[Result]]] = deque()
    try:
        left = iter(items)
        while chunk := tuple(islice(left, chunksize)):
            pending.append(pool.submit(_run_chunk, work, chunk))
            if len(pending) >= CHUNKS_AHEAD * workers:
                yield from pending.popleft().result()
        while pending:
            yield from pending.popleft().result()
    except BrokenProcessPool as error:
        raise IndusCotError(
            "a worker process was ended by the system, often for lack of memory; "
            f"lower compute.workers (now {workers}) and run the stage again"
        ) from error
    finally:
        pool.shutdown(cancel_futures=True)


def thread_map(work: Callable[[Item], Result], items: Iterable[Item], workers: int) -> Iterator[Result]:
    """Yield ``work(item)`` of every item, in the order of the items: for work in OpenCV, which threads do side by side.

    Args:
        work: Called by ``workers`` threads.
        items: Drawn one ahead of the threads, so that memory stays bounded.
        workers: Threads, at least 1.
    """
    with one_opencv_thread(), ThreadPoolExecutor(workers) as pool:
        pending: deque[Future[Result]] = deque()
        try:
            for item in items:
                pending.append(pool.submit(work, item))
                if len(pending) > workers:
                    yield pending.popleft().result()
            while pending:
                yield pending.popleft().result()
        finally:
            for future in pending:
                future.cancel()


@contextmanager
def one_opencv_thread() -> Iterator[None]:
    """Where the work is already spread over threads or processes, OpenCV's own would only spin beside them."""
    threads = cv2.getNumThreads()
    cv2.setNumThreads(1)
    try:
        yield
    finally:
        cv2.setNumThreads(threads)


def _map_in_process(
    work: Callable[[Item], Result],
    items: Iterable[Item],
    initializer: Callable[..., None] | None,
    initargs: tuple[Any, ...],
) -> Iterator[Result]:
    with one_opencv_thread():
        if initializer is not None:
            initializer(*initargs)
        yield from map(work, items)


_start_error: Exception | None = None


def _start_worker(initializer: Callable[..., None] | None, initargs: tuple[Any, ...]) -> None:
    global _start_error  # noqa: PLW0603 - a process pool hands its workers nothing else to keep state in
    threading.Thread(target=_end_with_parent, daemon=True).start()
    cv2.setNumThreads(1)
    try:
        if initializer is not None:
            initializer(*initargs)
    except Exception as error:
        # Told by the first item: the pool itself would only say that it broke.
        _start_error = error


def _end_with_parent() -> None:
    """Else the workers of a killed run would wait for work for ever, and write beside the next run."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)


def _run_chunk(work: Callable[[Item], Result], chunk: tuple[Item, ...]) -> list[Result]:
    if _start_error is not None:
        raise _start_error
    return [work(item) for item in chunk]
