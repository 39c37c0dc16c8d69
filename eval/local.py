"""Policies that run in this process: batched `transformers` on CPU or GPU, and vLLM if it is installed."""

import importlib.util
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from cot_builder.inspection.episode import MAX_CALLS, Episode, GeneratedTurn, TurnGenerator, run_episodes_by_round
from cot_builder.inspection.rendering import Message, flatten_for_endpoint
from cot_builder.storage.samples import DamagedImageError
from eval.policies import EvalContext, PolicyAnswer, failed_answer, start_episode, to_answer, turns_with_calls
from schemas.errors import IndusCotError
from schemas.sample import Sample
from train.guard import OUT_OF_MEMORY
from train.margin import cut_after_observation, measure_margins
from train.model import load_model, load_processor
from train.writing import make_writer

MarginFunction = Callable[[Sequence[Episode]], Sequence[tuple[float | None, float | None]]]
"""Gives the margins of finished inspections, before any observation and at the verdict; None if not available."""
VLLM_BATCH = 256
"""Number of concurrent inspections; vLLM batches them itself."""


def ask_transformers(context: EvalContext, samples: Sequence[Sample]) -> Iterator[tuple[Sample, PolicyAnswer]]:
    """Evaluate a model with `transformers`.

    The margin is that of :mod:`train.margin`, at the verdict and before any observation. In mode ``direct`` there is
    none, because the position of the answer in the text is unknown.

    Raises:
        IndusCotError: the model cannot be loaded, its template renders no tools although the mode offers some, or the
            memory is too small.
    """
    import torch

    settings = context.params.evaluate
    assert settings.temperature is not None
    torch.manual_seed(context.params.run.seed)
    processor = load_processor(context.model, tools=bool(context.tools), verdicts=not context.direct)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    model = load_model(context.model, dtype=context.params.train.dtype).to(device).eval()
    write = make_writer(model, processor, context.schemas, settings.max_tokens, settings.temperature)

    def margins_of(episodes: Sequence[Episode]) -> list[tuple[float | None, float | None]]:
        if context.direct:
            return [(None, None)] * len(episodes)
        return confidences(model, processor, episodes, context.schemas, settings.batch)

    try:
        yield from _run_inspections(context, samples, write, settings.batch, margins_of)
    except (MemoryError, RuntimeError) as error:
        if not (isinstance(error, MemoryError) or OUT_OF_MEMORY.search(str(error))):
            raise
        raise IndusCotError(
            f"out of memory ({' '.join(str(error).split())[:160]}). Lower evaluate.batch (now {settings.batch}) or "
            "evaluate.max_tokens; finished images are kept"
        ) from error


def confidences(
    model: Any, processor: Any, episodes: Sequence[Episode], tools: Sequence[dict[str, Any]] | None, at_once: int
) -> list[tuple[float | None, float | None]]:
    """``log p(Yes) - log p(No)`` of finished inspections, before any observation and at the verdict."""
    before = measure_margins(model, processor, [episode.prompt for episode in episodes], at_once, tools)
    observed = [place for place, episode in enumerate(episodes) if any(step.observations for step in episode.steps)]
    chats = [cut_after_observation(episodes[place].prompt, _after_prompt(episodes[place])) for place in observed]
    after = dict(zip(observed, measure_margins(model, processor, chats, at_once, tools), strict=True))
    return [(low, after.get(place, low)) for place, low in enumerate(before)]


def _after_prompt(episode: Episode) -> list[Message]:
    """The messages after the prompt, as the policy read them."""
    return episode.chat[len(episode.prompt) :]


def ask_vllm(context: EvalContext, samples: Sequence[Sample]) -> Iterator[tuple[Sample, PolicyAnswer]]:
    """Evaluate a model with vLLM, without margins. Not covered by the tests: it needs a GPU.

    Raises:
        IndusCotError: vLLM is not installed.
    """
    if importlib.util.find_spec("vllm") is None:
        raise IndusCotError(
            "evaluate.policy: vllm is not installed: `pip install vllm` on a machine with a GPU, or set "
            "evaluate.policy=transformers; a vLLM server elsewhere is asked with evaluate.policy=endpoint"
        )
    from ask_vllm import LLM, SamplingParams

    settings, seed = context.params.evaluate, context.params.run.seed
    engine = LLM(
        context.model,
        dtype=context.params.train.dtype,
        seed=seed,
        trust_remote_code=False,
        limit_mm_per_prompt={"image": 1 + turns_with_calls(settings) * MAX_CALLS},
    )
    sampling = SamplingParams(max_tokens=settings.max_tokens, temperature=settings.temperature, seed=seed)

    def write(chats: Sequence[Sequence[Message]]) -> list[GeneratedTurn]:
        # Rendered as for a server: vLLM accepts no image in a tool turn.
        asked = [
            [_with_pil_images(message) for message in flatten_for_endpoint(chat, context.schemas)] for chat in chats
        ]
        return [
            GeneratedTurn(
                done.outputs[0].text,
                len(done.prompt_token_ids or ()),
                len(done.outputs[0].token_ids),
                cut=done.outputs[0].finish_reason == "length",
            )
            for done in engine.chat(asked, sampling, use_tqdm=False)
        ]

    return _run_inspections(context, samples, write, VLLM_BATCH, lambda episodes: [(None, None)] * len(episodes))


def _with_pil_images(message: Message) -> Message:
    content = [
        {"type": "image_pil", "image_pil": part["image"]} if part["type"] == "image" else part
        for part in message["content"]
    ]
    return {**message, "content": content}


def _run_inspections(
    context: EvalContext, samples: Sequence[Sample], write: TurnGenerator, at_once: int, margins_of: MarginFunction
) -> Iterator[tuple[Sample, PolicyAnswer]]:
    """Run inspections and yield each as soon as it ends, with its margins: a killed run loses no finished one."""
    of: dict[int, Sample] = {}
    damaged: list[tuple[Sample, PolicyAnswer]] = []

    def start_all() -> Iterator[Episode]:
        for sample in samples:
            try:
                episode = start_episode(context, sample)
            except DamagedImageError as error:
                damaged.append((sample, failed_answer(str(error))))
                continue
            of[id(episode)] = sample
            yield episode

    last = time.perf_counter()
    for group in run_episodes_by_round(start_all(), write, at_once):
        pairs = margins_of(group)
        now = time.perf_counter()
        share, last = (now - last) / len(group), now
        for episode, (before, after) in zip(group, pairs, strict=True):
            yield of.pop(id(episode)), to_answer(context, episode, seconds=share, margin=after, margin_before=before)
    yield from damaged
