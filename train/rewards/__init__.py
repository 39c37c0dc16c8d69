"""The accuracy-gated reward of IndusAgent (arXiv 2605.20682), a file a term: whatever lies in this folder counts.

``R = R_acc (1 + alpha R_loc + beta R_type + gamma R_tool) + R_format`` is a weighted sum of the terms once the gate
is multiplied out: a term behind the gate scores 0 unless the verdict is right, TRL adds the terms with the weights and
logs each by itself. An ablation is a weight of 0. Scores come from the messages of the completion, strictly read
(:mod:`cot_builder.inspection.parsing`): an environment also remembers calls whose observation was rolled back.

A completion without a verdict that can be read in one way only (two answers, hedging, an answer inside a thought,
missing or trailing text, cut off, ended by an observation that did not fit) scores 0 in every gated term and -1 in
``format_reward``: no way of writing it earns more than a wrong verdict in perfect tags.

:func:`train.rewards.term.reward_term` says how to write a term. Its weight, parameters, chart, column of the curve,
row of figures and place among the rollouts follow from its declaration. No term may import torch or trl: the report
is made without them.
"""

import importlib
import pkgutil
from collections.abc import Mapping, Sequence
from functools import wraps
from typing import Any

from schemas.errors import check_name
from train.rewards.term import DECLARED, Completion, RewardFunction, Term

for _module in pkgutil.iter_modules(__path__):
    importlib.import_module(f"{__name__}.{_module.name}")


def _place(term: Term) -> tuple[bool, bool, str]:
    return term.weight is not None, not term.gated, term.weight or ""


def declared_terms() -> list[Term]:
    """The gate, the terms behind it, those outside; each by the name of its weight. Terms of other code count."""
    return sorted(DECLARED.values(), key=_place)


TERMS: Sequence[Term] = declared_terms()
"""The terms of this folder, in that order."""


def reward_parameters() -> dict[str, float]:
    """Every parameter of ``grpo.reward`` with its default."""
    found: dict[str, float] = {}
    for term in declared_terms():
        found |= ({term.weight: term.default} if term.weight else {}) | dict(term.parameters)
    return found


def check_parameters(given: Mapping[str, float]) -> None:
    """Raise for the first name that is no parameter of the reward.

    Raises:
        IndusCotError: a name is unknown; the message lists the known ones and the closest.
    """
    for name in given:
        check_name("grpo.reward", name, reward_parameters())


def reward_functions(
    given: Mapping[str, float] | None = None, dconf: RewardFunction | None = None
) -> tuple[list[RewardFunction], list[float]]:
    """Functions and weights for ``GRPOTrainer(reward_funcs=…)`` and ``GRPOConfig(reward_weights=…)``.

    Each function takes ``completions`` (a list of chat messages each) and the columns of the data set that it needs:
    ``answer`` (Yes or No), ``boxes`` (of the truth, integers 0-1000) and ``defect_type`` (of the taxonomy, or None),
    a value for each completion. It returns a score for each completion.

    Args:
        given: Parameters of ``grpo.reward``, such as ``{"alpha": 0.5}``; one that is not named has its default. A term
            of weight 0 is left out.
        dconf: Computes the gain in confidence of each completion from what TRL gives a reward. It is called only if a
            term asks for it. Without it, the terms that ask for it, such as the one for tools, are left out.

    Raises:
        IndusCotError: a parameter is unknown.
    """
    given = given or {}
    check_parameters(given)
    values = reward_parameters() | dict(given)
    weighted = [(term, values[term.weight] if term.weight else term.default) for term in declared_terms()]
    kept = [(term, weight) for term, weight in weighted if weight and (dconf or not term.asks_confidence)]
    return [_bound(term, values, dconf) for term, _ in kept], [weight for _, weight in kept]


def _bound(term: Term, values: Mapping[str, float], dconf: RewardFunction | None) -> RewardFunction:
    """The function of ``term`` with its parameters, and with the gains in confidence if it asks for them."""
    own = {name: values[name] for name in term.parameters}
    if not own and not term.asks_confidence:
        return term.function

    # TRL names its metrics after the functions.
    @wraps(term.function)
    def bound(completions: Sequence[Completion], answer: Sequence[str], **columns: Any) -> list[float]:
        if term.asks_confidence and dconf:
            columns["dconf"] = dconf(completions=completions, answer=answer, **columns)
        return term.function(completions=completions, answer=answer, **columns, **own)

    return bound
