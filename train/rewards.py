"""The accuracy-gated reward of IndusAgent (arXiv 2605.20682), one plain function a term.

``R = R_acc (1 + alpha R_loc + beta R_type + gamma R_tool) + R_format`` is a weighted sum of the terms once the gate
is multiplied out, so each function returns its term behind the gate, TRL adds them with the weights and logs each by
itself. An ablation is a weight of 0. Scores come from the messages of the completion, strictly read
(:mod:`cot_builder.inspection.parsing`): an environment also remembers calls whose observation was rolled back.

Each function takes ``completions`` and the truth (:mod:`train.truth`), a value a completion, and returns a score a
completion. A completion without a verdict that can be read in one way only (two answers, hedging, an answer inside
a thought, missing or trailing text, cut off, ended by an observation that did not fit) scores 0 in every gated term
and -1 in :func:`format_reward`: no way of writing it earns more than a wrong verdict in perfect tags.
"""

from collections.abc import Callable, Sequence
from typing import Any

from cot_builder.inspection.parsing import Reading, read
from cot_builder.inspection.rendering import Message
from cot_builder.params import GrpoReward
from schemas.geometry import Box, union_iou
from schemas.taxonomy import similarity

Completion = Sequence[Message]
RewardFunction = Callable[..., list[float]]


def accuracy_reward(completions: Sequence[Completion], answer: Sequence[str], **_: Any) -> list[float]:
    """R_acc, the gate: 1 where the one verdict is the true one, otherwise 0."""
    return [float(_is_right(read(written), truth)) for written, truth in zip(completions, answer, strict=True)]


def location_reward(
    completions: Sequence[Completion], answer: Sequence[str], boxes: Sequence[Sequence[Box]], **_: Any
) -> list[float]:
    """R_acc R_loc, in [0, 1].

    IoU of the regions that the boxes cover together: a box named twice, or split in two, changes nothing, and boxes
    scattered to hit something pay with their area. A right No agrees with a truth without boxes and has 1, as much as
    a perfect Yes: whoever is unsure gains nothing by preferring one of them. A location on a normal image is a wrong
    Yes and has 0, and so has one written beside a No, which is malformed. A Yes on a defect whose place was never
    published has 0 wherever it points: nothing is paid that cannot be checked.
    """
    return [
        union_iou(reading.verdict.boxes, true) if reading.verdict and _is_right(reading, truth) else 0.0
        for reading, truth, true in zip(map(read, completions), answer, boxes, strict=True)
    ]


def type_reward(
    completions: Sequence[Completion], answer: Sequence[str], defect_type: Sequence[str | None], **_: Any
) -> list[float]:
    """R_acc R_type, in [0, 1]: likeness of the types in the taxonomy; 1 for a right No, as for the location.

    Naming ``unspecified`` to be safe earns less than naming the right family.
    """
    return [
        _likeness(reading.verdict.defect_type, true) if reading.verdict and _is_right(reading, truth) else 0.0
        for reading, truth, true in zip(map(read, completions), answer, defect_type, strict=True)
    ]


def tool_reward(
    completions: Sequence[Completion],
    answer: Sequence[str],
    dconf: Sequence[float],
    lambda_: float,
    eta: float,
    **_: Any,
) -> list[float]:
    """R_acc R_tool = R_acc (lambda 1[dconf > 0] - eta |C|), at most lambda - eta, without a lower bound.

    |C| counts every call in the right syntax, so that a call costs whatever it returns: one that the tool refused
    (``error: …``) counts too, else failing would be free. One in the wrong syntax costs in :func:`format_reward`.
    The bonus needs an observation that is no error, is paid once however many calls there are, and an undefined dconf
    (NaN) earns none.

    Args:
        dconf: By how much the calls and observations raised the margin of the true answer over the other,
            ``m(y | image, question, calls, observations) - m(y | image, question)``.
        lambda_: Bonus for calls that helped.
        eta: Cost of a call.
    """
    return [
        _usefulness(reading, gain, lambda_, eta) if _is_right(reading, truth) else 0.0
        for reading, truth, gain in zip(map(read, completions), answer, dconf, strict=True)
    ]


def format_reward(completions: Sequence[Completion], **_: Any) -> list[float]:
    """R_format before its weight, outside the gate: -1 where anything is malformed, otherwise 0.

    Malformed are a last turn that is not one thought and one verdict, a turn with a call that is not one thought and
    one call, and a call of an unknown tool or with other arguments than it takes. However much is malformed, the
    penalty is the same: a second slip cannot make up for a first one.
    """
    return [-1.0 if read(written).faults else 0.0 for written in completions]


def reward_functions(weights: GrpoReward, dconf: RewardFunction) -> tuple[list[RewardFunction], list[float]]:
    """Functions and weights for ``GRPOTrainer(reward_funcs=…)`` and ``GRPOConfig(reward_weights=…)``.

    Args:
        weights: A term of weight 0 is left out, and without gamma ``dconf`` is never called.
        dconf: The gain in confidence of each completion, called with what TRL gives a reward.
    """

    def confident_tool_reward(completions: Sequence[Completion], answer: Sequence[str], **columns: Any) -> list[float]:
        gains = dconf(completions=completions, answer=answer, **columns)
        return tool_reward(completions, answer, gains, weights.lambda_, weights.eta)

    # TRL names its metrics after the functions.
    confident_tool_reward.__name__ = tool_reward.__name__
    weighted: list[tuple[RewardFunction, float]] = [
        (accuracy_reward, 1.0),
        (location_reward, weights.alpha),
        (type_reward, weights.beta),
        (confident_tool_reward, weights.gamma),
        (format_reward, weights.format_penalty),
    ]
    kept = [(function, weight) for function, weight in weighted if weight]
    return [function for function, _ in kept], [weight for _, weight in kept]


def _is_right(reading: Reading, truth: str) -> bool:
    return reading.verdict is not None and reading.verdict.answer == truth


def _likeness(named: str | None, true: str | None) -> float:
    if named is None or true is None:
        return float(named == true)
    return similarity(named, true)


def _usefulness(reading: Reading, gain: float, lambda_: float, eta: float) -> float:
    return lambda_ * (gain > 0 and reading.observed > 0) - eta * reading.calls
