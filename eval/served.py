"""A policy behind an OpenAI-compatible server: many inspections at once, through the door that keeps every answer."""

import asyncio
import hashlib
import json
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from cot_builder.endpoint.door import Door, Endpoint
from cot_builder.endpoint.images import query_image
from cot_builder.endpoint.replies import Answer, NotAnsweredError
from cot_builder.endpoint.request import ImageFile, Request
from cot_builder.endpoint.run import run_through_door
from cot_builder.inspection.episode import Episode, Written
from cot_builder.inspection.rendering import Message, for_endpoint
from cot_builder.storage.header import read_header
from cot_builder.storage.samples import DamagedImageError
from eval.policies import Exam, Said, begin, failed, told
from schemas.sample import Sample

STEP = "evaluate"
STOPPED = ("content_filter", "refusal", "abort", "error")
"""Reasons to finish, other than the length, after which a turn is no whole one: what it says so far is no verdict."""


def served(
    exam: Exam,
    samples: Sequence[Sample],
    take: Callable[[Sample, Said], None],
    description: str,
    tell: Callable[[], str],
    *,
    refresh: bool,
    allow_unpriced: bool,
) -> None:
    """Ask the endpoint about every sample.

    Tools are told of in the system's turn, in the words of Qwen's template, and calls are read from the text: a server
    that is given tools takes turns apart each in its own way, and what it leaves out would be lost.

    Args:
        exam: What the policy is examined with.
        samples: What to ask about.
        take: Given each result as soon as it is there.
        description: Shown beside the progress.
        tell: What else there is to say at the moment.
        refresh: Ask anew what was answered before.
        allow_unpriced: Ask a model that prices.yaml does not know.

    Raises:
        IndusCotError: no price or key; the budget is spent; the endpoint refuses everybody or is not there.
    """

    async def work(door: Door, sample: Sample) -> None:
        started, reason = time.perf_counter(), ""
        try:
            # Images, tools and encoding take a core for milliseconds: other inspections go on meanwhile.
            inspection, request = await asyncio.to_thread(_begin, exam, sample)
            while request is not None:
                answer = await door.ask(request)
                reason = answer.finish_reason
                request = await asyncio.to_thread(inspection.go_on, answer)
        except (DamagedImageError, NotAnsweredError) as error:
            take(sample, failed(str(error)))
            return
        stopped = f"stopped by the server ({reason})" if reason in STOPPED else ""
        take(sample, told(exam, inspection.episode, seconds=time.perf_counter() - started, stopped=stopped))

    settings = exam.params.evaluate
    run_through_door(
        Endpoint(settings.base_url, settings.api_key_env, [settings.model], "evaluate"),
        exam.params,
        exam.workspace,
        samples,
        work,
        lambda _: None,
        description=description,
        unit="images",
        total=len(samples),
        refresh=refresh,
        allow_unpriced=allow_unpriced,
        tell=tell,
    )


def _begin(exam: Exam, sample: Sample) -> tuple["_Inspection", Request | None]:
    inspection = _Inspection(exam, sample)
    return inspection, inspection.request()


class _Inspection:
    """An episode, with its images as they are sent: each is read and encoded once."""

    def __init__(self, exam: Exam, sample: Sample) -> None:
        self.episode = begin(exam, sample)
        self._exam = exam
        self._files = [query_image(sample, exam.images)]

    def go_on(self, answer: Answer) -> Request | None:
        """Take an answer; what is to be asked next, None at the end."""
        self.episode.take(_written(answer))
        return self.request()

    def request(self) -> Request | None:
        """What is to be asked next, None at the end."""
        if self.episode.done:
            return None
        settings = self._exam.params.evaluate
        seen = list(_observed(self.episode))
        self._files += [_png(*shown) for shown in seen[len(self._files) - 1 :]]
        for file in self._files:
            # Made here, in a thread, and not where the request is sent.
            _ = file.encoded
        left = iter(self._files)
        return Request(
            step=STEP,
            model=settings.model,
            messages=[_sent(message, left) for message in for_endpoint(self.episode.chat, self._exam.schemas)],
            images={file.sha256: file for file in self._files},
            max_tokens=settings.max_tokens,
            temperature=settings.temperature,
            candidate=_apart(self._exam),
        )


def _apart(exam: Exam) -> int:
    """Keeps apart answers to one question that may differ: of other weights under one name, and of other seeds where
    tokens are sampled."""
    seed = None if exam.params.evaluate.temperature == 0 else exam.params.run.seed
    if exam.weights is None and seed is None:
        return 0
    return int(hashlib.sha256(f"{exam.weights}/{seed}".encode()).hexdigest()[:12], 16)


def _sent(message: Message, images: Iterator[ImageFile]) -> Message:
    parts = [next(images).part if part["type"] == "image" else part for part in message["content"]]
    if all(part["type"] == "text" for part in parts):
        # A list of texts is more than some servers take of a system or an assistant.
        return {"role": message["role"], "content": "".join(part["text"] for part in parts)}
    return {"role": message["role"], "content": parts}


def _observed(episode: Episode) -> Iterator[tuple[str, bytes]]:
    """Digest and PNG of each observed image, in order."""
    for step in episode.steps:
        for observation, png in step.observations:
            if png is not None and observation.image_sha256 is not None:
                yield observation.image_sha256, png


def _png(digest: str, png: bytes) -> ImageFile:
    header = read_header(png)
    return ImageFile(digest, header.width, header.height, lambda: (png, "image/png"))


def _written(answer: Answer) -> Written:
    return Written(
        whole_text(answer.text, answer.message),
        answer.usage.input,
        answer.usage.output,
        cut=answer.finish_reason in ("length", *STOPPED),
        usd=answer.usd,
    )


def whole_text(text: str, message: Mapping[str, Any]) -> str:
    """What the model wrote, where a server has taken thought and calls out of it: put back in their order."""
    thought = message.get("reasoning_content") or message.get("reasoning")
    if isinstance(thought, str) and thought.strip():
        text = f"<think>{thought}</think>{text.lstrip()}"
    calls = message.get("tool_calls")
    for call in calls if isinstance(calls, list) else ():
        function = call.get("function") if isinstance(call, dict) else None
        if not isinstance(function, dict):
            continue
        arguments = function.get("arguments")
        if not isinstance(arguments, str):
            arguments = json.dumps(arguments, ensure_ascii=False)
        name = json.dumps(function.get("name"), ensure_ascii=False)
        text += f'\n<tool_call>\n{{"name": {name}, "arguments": {arguments}}}\n</tool_call>'
    return text
