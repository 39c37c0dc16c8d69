"""Policies in this process: `transformers`, batched, on the CPU or a GPU; and vLLM, where it is installed."""

import importlib.util
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from cot_builder.inspection.episode import MOST_CALLS, Episode, Write, Written, inspect_by_round
from cot_builder.inspection.rendering import Message, for_endpoint
from cot_builder.storage.samples import DamagedImageError
from eval.policies import Exam, Said, begin, failed, told, turns_with_calls
from schemas.errors import IndusCotError
from schemas.sample import Sample
from train.guard import NO_MEMORY
from train.margin import margins, until_observed
from train.model import load_model, load_processor
from train.writing import writer

Confidence = Callable[[Sequence[Episode]], Sequence[tuple[float | None, float | None]]]
"""Margins of inspections before any observation and at the verdict, None where the policy gives none."""
VLLM_AT_ONCE = 256
"""Inspections under way; vLLM makes its own batches of them."""


def local(exam: Exam, samples: Sequence[Sample]) -> Iterator[tuple[Sample, Said]]:
    """Ask a model through `transformers`.

    The margin is that of :mod:`train.margin`, at the verdict and before any observation; a plain question, whose answer
    stands in no known place, has none.

    Raises:
        IndusCotError: the model cannot be loaded, or knows no tools where the mode has some; the memory is too small.
    """
    import torch

    settings = exam.params.evaluate
    assert settings.temperature is not None
    torch.manual_seed(exam.params.run.seed)
    processor = load_processor(exam.model, tools=bool(exam.tools), verdicts=not exam.direct)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    model = load_model(exam.model, dtype=exam.params.train.dtype).to(device).eval()
    write = writer(model, processor, exam.schemas, settings.max_tokens, settings.temperature)

    def confidence(episodes: Sequence[Episode]) -> list[tuple[float | None, float | None]]:
        if exam.direct:
            return [(None, None)] * len(episodes)
        return confidences(model, processor, episodes, exam.schemas, settings.batch)

    try:
        yield from _asked(exam, samples, write, settings.batch, confidence)
    except (MemoryError, RuntimeError) as error:
        if not (isinstance(error, MemoryError) or NO_MEMORY.search(str(error))):
            raise
        raise IndusCotError(
            f"out of memory ({' '.join(str(error).split())[:160]}). Lower evaluate.batch (now {settings.batch}) or "
            "evaluate.max_tokens; finished images are kept"
        ) from error


def confidences(
    model: Any, processor: Any, episodes: Sequence[Episode], tools: Sequence[dict[str, Any]] | None, at_once: int
) -> list[tuple[float | None, float | None]]:
    """``log p(Yes) - log p(No)`` before any observation and at the verdict, of inspections that have ended."""
    before = margins(model, processor, [episode.prompt for episode in episodes], at_once, tools)
    looked = [place for place, episode in enumerate(episodes) if any(step.observations for step in episode.steps)]
    chats = [until_observed(episodes[place].prompt, _heard(episodes[place])) for place in looked]
    after = dict(zip(looked, margins(model, processor, chats, at_once, tools), strict=True))
    return [(low, after.get(place, low)) for place, low in enumerate(before)]


def _heard(episode: Episode) -> list[Message]:
    """What followed the prompt, as the policy read it."""
    return episode.chat[len(episode.prompt) :]


def vllm(exam: Exam, samples: Sequence[Sample]) -> Iterator[tuple[Sample, Said]]:
    """Ask a model through vLLM, without margins. Not run where this was written: it needs a GPU.

    Raises:
        IndusCotError: vLLM is not installed.
    """
    if importlib.util.find_spec("vllm") is None:
        raise IndusCotError(
            "evaluate.policy: vllm is not installed: `pip install vllm` on a machine with a GPU, or set "
            "evaluate.policy=transformers; a vLLM server elsewhere is asked with evaluate.policy=endpoint"
        )
    from vllm import LLM, SamplingParams

    settings, seed = exam.params.evaluate, exam.params.run.seed
    engine = LLM(
        exam.model,
        dtype=exam.params.train.dtype,
        seed=seed,
        trust_remote_code=False,
        limit_mm_per_prompt={"image": 1 + turns_with_calls(settings) * MOST_CALLS},
    )
    sampling = SamplingParams(max_tokens=settings.max_tokens, temperature=settings.temperature, seed=seed)

    def write(chats: Sequence[Sequence[Message]]) -> list[Written]:
        # Written out as for a server: vLLM takes no image in a tool turn.
        asked = [[_pil(message) for message in for_endpoint(chat, exam.schemas)] for chat in chats]
        return [
            Written(
                done.outputs[0].text,
                len(done.prompt_token_ids or ()),
                len(done.outputs[0].token_ids),
                cut=done.outputs[0].finish_reason == "length",
            )
            for done in engine.chat(asked, sampling, use_tqdm=False)
        ]

    return _asked(exam, samples, write, VLLM_AT_ONCE, lambda episodes: [(None, None)] * len(episodes))


def _pil(message: Message) -> Message:
    content = [
        {"type": "image_pil", "image_pil": part["image"]} if part["type"] == "image" else part
        for part in message["content"]
    ]
    return {**message, "content": content}


def _asked(
    exam: Exam, samples: Sequence[Sample], write: Write, at_once: int, confidence: Confidence
) -> Iterator[tuple[Sample, Said]]:
    """Carry out inspections, and tell of each as soon as it has ended, with its confidence: what is held back here,
    a killed run would lose."""
    of: dict[int, Sample] = {}
    damaged: list[tuple[Sample, Said]] = []

    def begun() -> Iterator[Episode]:
        for sample in samples:
            try:
                episode = begin(exam, sample)
            except DamagedImageError as error:
                damaged.append((sample, failed(str(error))))
                continue
            of[id(episode)] = sample
            yield episode

    last = time.perf_counter()
    for group in inspect_by_round(begun(), write, at_once):
        pairs = confidence(group)
        now = time.perf_counter()
        share, last = (now - last) / len(group), now
        for episode, (before, after) in zip(group, pairs, strict=True):
            yield of.pop(id(episode)), told(exam, episode, seconds=share, margin=after, before=before)
    yield from damaged
