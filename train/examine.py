"""Examines a policy: it inspects with the real tools, and every answer is read and rewarded as in training."""

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
from train.margin import gain, margins, until_observed
from train.rewards import reward_functions
from train.writing import writer

MOST_TOKENS = 72
"""Of one turn; the longest a learner of the lessons writes has 64."""


class Inspection(NamedTuple):
    """One inspection that has ended, images in place."""

    prompt: list[Message]
    heard: list[Message]
    """What followed, as the policy read it."""
    completion: list[Message]
    """The same with calls apart from the text, as it is read and rewarded."""


@dataclass(frozen=True)
class Grade:
    """How one inspection went."""

    size: str
    answer: str
    said: str | None
    """None where no verdict could be read."""
    valid: bool
    calls: int
    reward: float
    location: float
    """IoU with the truth; 0 where the verdict is wrong."""
    type: float


def inspect(
    model: Any, processor: Any, asked: Sequence[Lesson], *, temperature: float, tools: bool, calls: int, at_once: int
) -> list[Inspection]:
    """Let a policy inspect.

    Args:
        model: The policy.
        processor: Its processor.
        asked: What it is asked about; it sees the image and the category.
        temperature: Of sampling; 0: the likeliest token each time.
        tools: Whether it is told of tools.
        calls: Turns with a call that are answered, at most.
        at_once: Inspections at a time.
    """
    model.eval()
    named = tuple(TOOLS) if tools else ()
    write = writer(model, processor, select_schemas(named), MOST_TOKENS, temperature)
    begun = [Episode(_asked(lesson, tools), Toolbox(lesson.surface.pixels, {}), named, calls) for lesson in asked]
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
    """Read and reward inspections, with the functions and parameters (``grpo.reward``) that GRPO is rewarded by."""
    completions = [one.completion for one in done]
    truths = [lesson.verdict for lesson in asked]

    def dconf(**_: Any) -> list[float]:
        gains = [0.0] * len(done)
        looked = [place for place, one in enumerate(done) if any(said["role"] == "tool" for said in one.completion)]
        before = margins(model, processor, [done[place].prompt for place in looked], at_once)
        seen = [until_observed(done[place].prompt, done[place].heard) for place in looked]
        after = margins(model, processor, seen, at_once)
        for place, low, high in zip(looked, before, after, strict=True):
            gains[place] = gain(truths[place].answer, low, high)
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


def _asked(lesson: Lesson, tools: bool) -> list[Message]:
    return [_filled(message, lesson) for message in prompt(lesson.category, VIEW, tools=tools)]


def _filled(message: Message, lesson: Lesson) -> Message:
    image = Image.fromarray(np.ascontiguousarray(lesson.surface.pixels[..., ::-1]))
    parts = [{"type": "image", "image": image} if part["type"] == "image" else part for part in message["content"]]
    return {**message, "content": parts}


Pick = tuple[int, Sequence[int]]
"""A seed, and places among its grades."""
Statistic = Callable[[Sequence[Grade]], float]


def accuracy(grades: Sequence[Grade], size: str) -> float:
    """Share of right verdicts on one size of defect, or on ``none``."""
    found = [grade.said == grade.answer for grade in grades if grade.size == size]
    return sum(found) / len(found)


def balanced_accuracy(grades: Sequence[Grade]) -> float:
    """Mean of the shares of right verdicts on defects and on clean surfaces."""
    defects = [grade.said == grade.answer for grade in grades if grade.size != "none"]
    return (sum(defects) / len(defects) + accuracy(grades, "none")) / 2


def balanced_accuracy_small(grades: Sequence[Grade]) -> float:
    """The same with the small defects only."""
    return (accuracy(grades, "small") + accuracy(grades, "none")) / 2


def mean_reward(grades: Sequence[Grade]) -> float:
    """Mean reward."""
    return sum(grade.reward for grade in grades) / len(grades)


def valid(grades: Sequence[Grade]) -> float:
    """Share of outputs that follow the grammar throughout."""
    return sum(grade.valid for grade in grades) / len(grades)


def calls(grades: Sequence[Grade]) -> float:
    """Calls an inspection."""
    return sum(grade.calls for grade in grades) / len(grades)


def interval(
    statistic: Statistic,
    after: Sequence[Sequence[Grade]],
    before: Sequence[Sequence[Grade]] | None = None,
    draws: int = 1000,
) -> tuple[float, float, float]:
    """A statistic's mean over seeds, or by how much it rose, with its bootstrap 95 % interval.

    Seeds are drawn with replacement, then within each the images, the same before and after.

    Args:
        statistic: Of the grades of one seed.
        after: Grades by seed.
        before: Of the same images by another policy.
        draws: Resamples.
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
    resampled = [once(picks) for picks in _resamples(sizes, draws)]
    low, high = np.quantile(resampled, (0.025, 0.975))
    return whole, float(low), float(high)


@cache
def _resamples(sizes: tuple[tuple[str, ...], ...], draws: int) -> list[list[Pick]]:
    """So often, seeds drawn with replacement, then places within each: as many of each size of defect as there are."""
    rng = np.random.default_rng(0)
    groups = [[np.flatnonzero(np.array(own) == size) for size in np.unique(own)] for own in sizes]
    return [
        [
            (seed, [place for group in groups[seed] for place in rng.choice(group, len(group)).tolist()])
            for seed in rng.integers(0, len(sizes), len(sizes)).tolist()
        ]
        for _ in range(draws)
    ]
