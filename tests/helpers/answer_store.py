"""Answer stores with numbered answers."""

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
"""Default number of answers that :func:`fill_store` writes."""
USAGE = Usage(input=100, cached_input=40, output=20)
USD = 0.25


@contextmanager
def open_store(path: Path) -> Iterator[AnswerStore]:
    """Open the store at ``path``, and close it at the end."""
    answers = AnswerStore(path)
    try:
        yield answers
    finally:
        answers.close()


def make_clock(now: float) -> SimpleNamespace:
    """Make a copy of the module `time` whose clock stands at ``now``."""
    return SimpleNamespace(**vars(time) | {"time": lambda: now})


def make_key(number: int) -> str:
    """Make the key of an answer."""
    return hashlib.sha256(str(number).encode()).hexdigest()


def make_marker(number: int) -> bytes:
    """Make the bytes by which an answer can be found in the file."""
    return f"<answer {number:04}>".encode()


def make_response(number: int) -> dict[str, Any]:
    """Make a chat completion as a server sends it."""
    content = f"{make_marker(number).decode()} a scratch, ein Kratzer, 划痕 " + "x" * 150
    return {"choices": [{"message": {"role": "assistant", "content": content}, "finish_reason": "stop"}]}


def put_answer(answers: AnswerStore, number: int, step: str = "describe", model: str = "small") -> None:
    """Store the answer with this number."""
    answers.put(make_key(number), step, model, make_response(number), USAGE, USD)


def fill_store(path: Path, count: int = COUNT) -> None:
    """Create a store with the answers 0 to ``count`` - 1."""
    with open_store(path) as answers:
        for number in range(count):
            put_answer(answers, number)


def expected_answer(number: int) -> StoredAnswer:
    """Return an answer as the store returns it."""
    return StoredAnswer(make_response(number), USAGE, USD)
