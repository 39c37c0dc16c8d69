"""A policy behind an OpenAI-compatible server: concurrent inspections through the client that caches every answer."""

import asyncio
import hashlib
import json
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from cot_builder.endpoint.client import Endpoint, EndpointClient
from cot_builder.endpoint.images import make_query_image
from cot_builder.endpoint.replies import Answer, NotAnsweredError
from cot_builder.endpoint.request import ImageFile, Request
from cot_builder.endpoint.run import run_with_client
from cot_builder.inspection.episode import Episode, GeneratedTurn
from cot_builder.inspection.rendering import Message, flatten_for_endpoint
from cot_builder.storage.header import read_header
from cot_builder.storage.samples import DamagedImageError
from eval.policies import EvalContext, PolicyAnswer, failed_answer, start_episode, to_answer
from schemas.sample import Sample

STEP = "evaluate"
INCOMPLETE_REASONS = ("content_filter", "refusal", "abort", "error")
"""Finish reasons, other than the length, of an incomplete turn. Its text is not a verdict."""


def ask_endpoint(
    context: EvalContext,
    samples: Sequence[Sample],
    take: Callable[[Sample, PolicyAnswer], None],
    description: str,
    tell: Callable[[], str],
    *,
    refresh: bool,
    allow_unpriced: bool,
) -> None:
    """Ask the endpoint about every sample.

    The tools are described in the system message, in the words of Qwen's chat template, and calls are parsed from the
    text. Native tool parameters are not used: each server splits such turns in its own way and drops parts of them.

    Args:
        context: Context of the evaluation.
        samples: Samples to evaluate.
        take: Called with each result as soon as it is complete.
        description: Label of the progress line.
        tell: Gives a text that the progress line ends with.
        refresh: Ignore stored answers.
        allow_unpriced: Allow a model without a price in prices.yaml.

    Raises:
        IndusCotError: no price or key; the budget is spent; the endpoint is unreachable or refuses every request.
    """

    async def work(client: EndpointClient, sample: Sample) -> None:
        started, reason = time.perf_counter(), ""
        try:
            # In a thread: images, tools and encoding take milliseconds of CPU, and other inspections go on meanwhile.
            inspection, request = await asyncio.to_thread(_start_inspection, context, sample)
            while request is not None:
                answer = await client.ask(request)
                reason = answer.finish_reason
                request = await asyncio.to_thread(inspection.next_request, answer)
        except (DamagedImageError, NotAnsweredError) as error:
            take(sample, failed_answer(str(error)))
            return
        stopped = f"stopped by the server ({reason})" if reason in INCOMPLETE_REASONS else ""
        take(sample, to_answer(context, inspection.episode, seconds=time.perf_counter() - started, stopped=stopped))

    settings = context.params.evaluate
    run_with_client(
        Endpoint(settings.base_url, settings.api_key_env, [settings.model], "evaluate"),
        context.params,
        context.workspace,
        samples,
        work,
        lambda _: None,
        description=description,
        unit="images",
        total=len(samples),
        refresh=refresh,
        allow_unpriced=allow_unpriced,
        status=tell,
    )


def _start_inspection(context: EvalContext, sample: Sample) -> tuple["_Inspection", Request | None]:
    inspection = _Inspection(context, sample)
    return inspection, inspection.make_request()


class _Inspection:
    """An episode with its encoded images; each image is read and encoded once."""

    def __init__(self, context: EvalContext, sample: Sample) -> None:
        self.episode = start_episode(context, sample)
        self._exam = context
        self._files = [make_query_image(sample, context.images)]

    def next_request(self, answer: Answer) -> Request | None:
        """Add an answer to the episode; returns the next request, None at the end."""
        self.episode.add_turn(_to_written(answer))
        return self.make_request()

    def make_request(self) -> Request | None:
        """The next request; None at the end of the episode."""
        if self.episode.done:
            return None
        settings = self._exam.params.evaluate
        observed = list(_observed_images(self.episode))
        self._files += [_png_file(*shown) for shown in observed[len(self._files) - 1 :]]
        for file in self._files:
            # Encode here, in a thread, rather than on the event loop that sends the request.
            _ = file.data_url
        left = iter(self._files)
        return Request(
            step=STEP,
            model=settings.model,
            messages=[
                _to_request_message(message, left)
                for message in flatten_for_endpoint(self.episode.chat, self._exam.schemas)
            ],
            images={file.sha256: file for file in self._files},
            max_tokens=settings.max_tokens,
            temperature=settings.temperature,
            candidate=_cache_variant(self._exam),
        )


def _cache_variant(context: EvalContext) -> int:
    """Number that separates cached answers to equal requests by weights behind a name, and by seed if sampled."""
    seed = None if context.params.evaluate.temperature == 0 else context.params.run.seed
    if context.weights is None and seed is None:
        return 0
    return int(hashlib.sha256(f"{context.weights}/{seed}".encode()).hexdigest()[:12], 16)


def _to_request_message(message: Message, images: Iterator[ImageFile]) -> Message:
    parts = [next(images).content_part if part["type"] == "image" else part for part in message["content"]]
    if all(part["type"] == "text" for part in parts):
        # Some servers reject a list of texts in a system or assistant message.
        return {"role": message["role"], "content": "".join(part["text"] for part in parts)}
    return {"role": message["role"], "content": parts}


def _observed_images(episode: Episode) -> Iterator[tuple[str, bytes]]:
    """Digest and PNG of each observed image, in order."""
    for step in episode.steps:
        for observation, png in step.observations:
            if png is not None and observation.image_sha256 is not None:
                yield observation.image_sha256, png


def _png_file(digest: str, png: bytes) -> ImageFile:
    header = read_header(png)
    return ImageFile(digest, header.width, header.height, lambda: (png, "image/png"))


def _to_written(answer: Answer) -> GeneratedTurn:
    return GeneratedTurn(
        restore_text(answer.text, answer.message),
        answer.usage.input,
        answer.usage.output,
        cut=answer.finish_reason in ("length", *INCOMPLETE_REASONS),
        usd=answer.usd,
    )


def restore_text(text: str, message: Mapping[str, Any]) -> str:
    """Rebuild the model's text from a message whose thought and calls the server has moved into fields of their own."""
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
