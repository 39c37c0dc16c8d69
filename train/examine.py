"""Examines a policy: it inspects with the real tools, and its answers are parsed and rewarded as in training."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any, NamedTuple

import numpy as np
from PIL import Image

from cot_builder.inspection import episode
from cot_builder.inspection.episode import Episode, select_schemas
from cot_builder.inspection.parsing import parse_completion
from cot_builder.inspection.rendering import Message, prompt
from cot_builder.inspection.toolbox import Toolbox
from cot_builder.inspection.tools import TOOLS
from train.lessons import VIEW, Lesson
from train.margin import cut_after_observation, margin_gain, measure_margins
from train.rewards import reward_functions
from train.writing import make_writer

MAX_TURN_TOKENS = 72
"""Token limit of one turn; the longest turn of the lessons has 64 tokens."""


class Inspection(NamedTuple):
    """One finished inspection, with its images in place."""

    prompt: list[Message]
    transcript: list[Message]
    """Messages after the prompt, as the policy read them."""
    completion: list[Message]
    """The same messages with the calls split from the text, as they are parsed and rewarded."""


@dataclass(frozen=True)
class Grade:
    """Result of one inspection."""

    size: str
    answer: str
    said: str | None
    """Answer of the policy; None if no verdict could be parsed."""
    valid: bool
    calls: int
    reward: float
    location: float
    """IoU with the true boxes; 0 if the verdict is wrong."""
    type: float


def inspect(
    model: Any, processor: Any, asked: Sequence[Lesson], *, temperature: float, tools: bool, calls: int, at_once: int
) -> list[Inspection]:
    """Let a policy inspect images.

    Args:
        model: The policy.
        processor: Its processor.
        asked: Images to inspect; the policy sees the image and the category.
        temperature: Sampling temperature; 0 takes the likeliest token.
        tools: Whether the prompt describes the tools.
        calls: Limit on the turns whose calls are answered.
        at_once: Inspections that run in one batch.
    """
    model.eval()
    named = tuple(TOOLS) if tools else ()
    write = make_writer(model, processor, select_schemas(named), MAX_TURN_TOKENS, temperature)
    begun = [Episode(_make_prompt(lesson, tools), Toolbox(lesson.surface.pixels, {}), named, calls) for lesson in asked]
    for _ in episode.run_episodes(begun, write, at_once):
        pass
    return [Inspection(one.prompt, one.chat[len(one.prompt) :], one.completion) for one in begun]


def grade(
    asked: Sequence[Lesson],
    done: Sequence[Inspection],
    model: Any,
    processor: Any,
    given: Mapping[str, float],
    at_once: int,
) -> list[Grade]:
    """Parse inspections and reward them as GRPO does; ``given`` holds the parameters of ``grpo.reward``."""
    completions = [one.completion for one in done]
    truths = [lesson.verdict for lesson in asked]

    def dconf(**_: Any) -> list[float]:
        gains = [0.0] * len(done)
        looked = [place for place, one in enumerate(done) if any(turn["role"] == "tool" for turn in one.completion)]
        before = measure_margins(model, processor, [done[place].prompt for place in looked], at_once)
        seen = [cut_after_observation(done[place].prompt, done[place].transcript) for place in looked]
        after = measure_margins(model, processor, seen, at_once)
        for place, low, high in zip(looked, before, after, strict=True):
            gains[place] = margin_gain(truths[place].answer, low, high)
        return gains

    functions, shares = reward_functions(given, dconf)
    columns = {
        "answer": [truth.answer for truth in truths],
        "boxes": [truth.boxes for truth in truths],
        "defect_type": [truth.defect_type for truth in truths],
    }
    terms = {function.__name__: function(completions=completions, **columns) for function in functions}
    rewards = np.array(shares) @ np.array(list(terms.values()))
    grades = []
    for number, (lesson, completion) in enumerate(zip(asked, completions, strict=True)):
        reading = parse_completion(completion)
        grades.append(
            Grade(
                size=lesson.surface.size,
                answer=truths[number].answer,
                said=reading.verdict.answer if reading.verdict else None,
                valid=not reading.faults,
                calls=reading.calls,
                reward=float(rewards[number]),
                location=float(terms["location_reward"][number]),
                type=float(terms["type_reward"][number]),
            )
        )
    return grades


def _make_prompt(lesson: Lesson, tools: bool) -> list[Message]:
    return [_insert_image(message, lesson) for message in prompt(lesson.category, VIEW, tools=tools)]


def _insert_image(message: Message, lesson: Lesson) -> Message:
    image = Image.fromarray(np.ascontiguousarray(lesson.surface.pixels[..., ::-1]))
    parts = [{"type": "image", "image": image} if part["type"] == "image" else part for part in message["content"]]
    return {**message, "content": parts}


Pick = tuple[int, Sequence[int]]
"""A seed, and indices of its grades."""
Statistic = Callable[[Sequence[Grade]], float]


def accuracy(grades: Sequence[Grade], size: str) -> float:
    """Share of right verdicts on images of one defect size, or on clean images (``none``)."""
    found = [grade.said == grade.answer for grade in grades if grade.size == size]
    return sum(found) / len(found)


def balanced_accuracy(grades: Sequence[Grade]) -> float:
    """Mean of the shares of right verdicts on defects and on clean surfaces."""
    defects = [grade.said == grade.answer for grade in grades if grade.size != "none"]
    return (sum(defects) / len(defects) + accuracy(grades, "none")) / 2


def balanced_accuracy_small(grades: Sequence[Grade]) -> float:
    """Balanced accuracy on small defects and clean surfaces only."""
    return (accuracy(grades, "small") + accuracy(grades, "none")) / 2


def mean_reward(grades: Sequence[Grade]) -> float:
    """Mean reward."""
    return sum(grade.reward for grade in grades) / len(grades)


def valid_share(grades: Sequence[Grade]) -> float:
    """Share of completions that follow the output grammar."""
    return sum(grade.valid for grade in grades) / len(grades)


def mean_calls(grades: Sequence[Grade]) -> float:
    """Mean number of calls per inspection."""
    return sum(grade.calls for grade in grades) / len(grades)


def bootstrap_interval(
    statistic: Statistic,
    after: Sequence[Sequence[Grade]],
    before: Sequence[Sequence[Grade]] | None = None,
    draws: int = 1000,
) -> tuple[float, float, float]:
    """Return a statistic's mean over seeds, or its rise, with the bootstrap 95 % interval: (mean, low, high).

    Seeds are drawn with replacement, then the images of each drawn seed; ``before`` and ``after`` share the draws.

    Args:
        statistic: Computes a figure from the grades of one seed.
        after: Grades by seed.
        before: Grades of another policy on the same images; if given, the rise from them is returned.
        draws: Number of resamples.
    """

    def once(picks: Iterable[Pick]) -> float:
        values = []
        for seed, items in picks:
            value = statistic([after[seed][item] for item in items])
            if before is not None:
                value -= statistic([before[seed][item] for item in items])
            values.append(value)
        return sum(values) / len(values)

    whole = once([(seed, range(len(grades))) for seed, grades in enumerate(after)])
    sizes = tuple(tuple(grade.size for grade in grades) for grades in after)
    resampled = [once(picks) for picks in _draw_resamples(sizes, draws)]
    low, high = np.quantile(resampled, (0.025, 0.975))
    return whole, float(low), float(high)


@cache
def _draw_resamples(sizes: tuple[tuple[str, ...], ...], draws: int) -> list[list[Pick]]:
    """Draw seeds with replacement, then indices within each seed, ``draws`` times.

    Indices are drawn within each defect size, so that a resample has as many images of a size as the original.
    """
    rng = np.random.default_rng(0)
    groups = [[np.flatnonzero(np.array(own) == size) for size in np.unique(own)] for own in sizes]
    return [
        [
            (seed, [place for group in groups[seed] for place in rng.choice(group, len(group)).tolist()])
            for seed in rng.integers(0, len(sizes), len(sizes)).tolist()
        ]
        for _ in range(draws)
    ]
