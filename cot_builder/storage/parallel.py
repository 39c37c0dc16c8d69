"""Apply a function to many items in parallel, with processes or threads."""

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
"""Chunks per worker submitted ahead of the results: enough that no worker waits, few enough to bound memory."""


def process_map(
    work: Callable[[Item], Result],
    items: Iterable[Item],
    workers: int,
    initializer: Callable[..., None] | None = None,
    initargs: tuple[Any, ...] = (),
    chunksize: int = 1,
) -> Iterator[Result]:
    """Yield ``work(item)`` for every item, in the order of the items; OpenCV uses one thread in each worker.

    Args:
        work: Function to apply; it, the items and the results must be picklable. With one worker it runs in this
            process.
        items: Items, read only as far ahead as the workers need.
        workers: Number of processes, at least 1. They end with this process, also if it is killed.
        initializer: Called once in every worker with ``initargs``, before the first item.
        initargs: Arguments of ``initializer``.
        chunksize: Number of items sent to a worker at a time.

    Raises:
        IndusCotError: the operating system killed a worker.
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
            "the operating system killed a worker process, often because memory ran out; "
            f"lower compute.workers (now {workers}) and run the stage again"
        ) from error
    finally:
        pool.shutdown(cancel_futures=True)


def thread_map(work: Callable[[Item], Result], items: Iterable[Item], workers: int) -> Iterator[Result]:
    """Yield ``work(item)`` for every item, in order, using threads; for OpenCV work, which releases the GIL.

    Args:
        work: Function to apply, called by ``workers`` threads.
        items: Items, read one ahead of the threads, so that memory stays bounded.
        workers: Number of threads, at least 1.
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
    """Limit OpenCV to one thread: if the work already runs in parallel, OpenCV's own threads only waste CPU time."""
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
    global _start_error  # noqa: PLW0603 - a process pool gives its workers no other place for state
    threading.Thread(target=_end_with_parent, daemon=True).start()
    cv2.setNumThreads(1)
    try:
        if initializer is not None:
            initializer(*initargs)
    except Exception as error:
        # Raised with the first item: the pool itself would only report that it broke.
        _start_error = error


def _end_with_parent() -> None:
    """Exit when the parent ends: workers of a killed run would wait forever, and could write during the next run."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)


def _run_chunk(work: Callable[[Item], Result], chunk: tuple[Item, ...]) -> list[Result]:
    if _start_error is not None:
        raise _start_error
    return [work(item) for item in chunk]
