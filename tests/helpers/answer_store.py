"""A store of answers that are known by their number."""

import hashlib
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from cot_builder.endpoint.prices import Usage
from cot_builder.endpoint.store import AnswerStore, StoredAnswer

COUNT = 300
"""Answers in a store that :func:`filled` fills."""
USAGE = Usage(input=100, cached_input=40, output=20)
USD = 0.25


@contextmanager
def opened(path: Path) -> Iterator[AnswerStore]:
    """The store at ``path``, closed in the end."""
    answers = AnswerStore(path)
    try:
        yield answers
    finally:
        answers.close()


def clock(now: float) -> SimpleNamespace:
    """The module `time` with its clock at ``now``."""
    return SimpleNamespace(**vars(time) | {"time": lambda: now})


def key_of(number: int) -> str:
    """Key of an answer."""
    return hashlib.sha256(str(number).encode()).hexdigest()


def marker(number: int) -> bytes:
    """Bytes by which an answer is found in the file."""
    return f"<answer {number:04}>".encode()


def response(number: int) -> dict[str, Any]:
    """A completion as a server sends it."""
    content = f"{marker(number).decode()} a scratch, ein Kratzer, 划痕 " + "x" * 150
    return {"choices": [{"message": {"role": "assistant", "content": content}, "finish_reason": "stop"}]}


def put(answers: AnswerStore, number: int, step: str = "describe", model: str = "small") -> None:
    """Keep an answer."""
    answers.put(key_of(number), step, model, response(number), USAGE, USD)


def filled(path: Path, count: int = COUNT) -> None:
    """Make a store with the answers 0 to ``count``."""
    with opened(path) as answers:
        for number in range(count):
            put(answers, number)


def expected(number: int) -> StoredAnswer:
    """An answer as the store gives it back."""
    return StoredAnswer(response(number), USAGE, USD)
