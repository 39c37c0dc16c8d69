"""The accuracy-gated reward of IndusAgent (arXiv 2605.20682): every file of this folder adds a term.

``R = R_acc (1 + alpha R_loc + beta R_type + gamma R_tool) + R_format`` becomes a weighted sum of terms once the gate
is multiplied out: a gated term scores 0 unless the verdict is right, and TRL adds the terms with their weights and logs
each of them. To ablate a term, set its weight to 0. Scores come from strictly parsing the messages of the completion
(:mod:`cot_builder.inspection.parsing`). They do not come from the environment, which also remembers calls whose
observation was rolled back.

A completion without an unambiguous verdict (two answers, hedging, an answer inside a thought, missing or trailing text,
cut off, or ended by an observation that did not fit) scores 0 in every gated term and -1 in ``format_reward``. So it
never earns more than a wrong verdict in perfect tags.

:func:`train.rewards.term.reward_term` explains how to write a term. Its weight, parameters, chart, curve column, row of
figures and entry among the rollouts follow from its declaration. A term must not import torch or trl, because the
report is made without them.
"""

import importlib
import pkgutil
from collections.abc import Mapping, Sequence
from functools import wraps
from typing import Any

from schemas.errors import check_name
from train.rewards.term import DECLARED_TERMS, Completion, RewardFunction, Term

for _module in pkgutil.iter_modules(__path__):
    importlib.import_module(f"{__name__}.{_module.name}")


def _sort_key(term: Term) -> tuple[bool, bool, str]:
    return term.weight is not None, not term.gated, term.weight or ""


def list_terms() -> list[Term]:
    """Return all declared terms, also of other code: the gate, the gated terms, the others, each by weight name."""
    return sorted(DECLARED_TERMS.values(), key=_sort_key)


TERMS: Sequence[Term] = list_terms()
"""The terms of this folder, in the order of :func:`list_terms`."""


def reward_parameters() -> dict[str, float]:
    """Return every parameter of ``grpo.reward`` with its default."""
    found: dict[str, float] = {}
    for term in list_terms():
        found |= ({term.weight: term.default} if term.weight else {}) | dict(term.parameters)
    return found


def check_parameters(given: Mapping[str, float]) -> None:
    """Check that every name is a parameter of the reward.

    Raises:
        IndusCotError: a name is unknown; the message lists the known names and the closest one.
    """
    for name in given:
        check_name("grpo.reward", name, reward_parameters())


def reward_functions(
    given: Mapping[str, float] | None = None, dconf: RewardFunction | None = None
) -> tuple[list[RewardFunction], list[float]]:
    """Return functions and weights for ``GRPOTrainer(reward_funcs=…)`` and ``GRPOConfig(reward_weights=…)``.

    Each function takes ``completions`` (each a list of chat messages) and the columns of the data set that it needs:
    ``answer`` (Yes or No), ``boxes`` (the true boxes, integers 0-1000) and ``defect_type`` (of the taxonomy, or None),
    with one value per completion. It returns one score per completion.

    Args:
        given: Parameters of ``grpo.reward``, such as ``{"alpha": 0.5}``; the others have their defaults. A term of
            weight 0 is left out.
        dconf: Computes the gain in confidence of each completion, from the arguments that TRL passes to a reward. It
            is called only if a term asks for it. Without it, terms that ask for it, such as the tool term, are left
            out.

    Raises:
        IndusCotError: a parameter is unknown.
    """
    given = given or {}
    check_parameters(given)
    values = reward_parameters() | dict(given)
    weighted = [(term, values[term.weight] if term.weight else term.default) for term in list_terms()]
    kept = [(term, weight) for term, weight in weighted if weight and (dconf or not term.asks_confidence)]
    return [_bind_parameters(term, values, dconf) for term, _ in kept], [weight for _, weight in kept]


def _bind_parameters(term: Term, values: Mapping[str, float], dconf: RewardFunction | None) -> RewardFunction:
    """Return the function of ``term`` with its parameters set, and with the gains in confidence if it asks for them."""
    own = {name: values[name] for name in term.parameters}
    if not own and not term.asks_confidence:
        return term.function

    # Keep the function's name: TRL names its metrics after it.
    @wraps(term.function)
    def bound(completions: Sequence[Completion], answer: Sequence[str], **columns: Any) -> list[float]:
        if term.asks_confidence and dconf:
            columns["dconf"] = dconf(completions=completions, answer=answer, **columns)
        return term.function(completions=completions, answer=answer, **columns, **own)

    return bound
