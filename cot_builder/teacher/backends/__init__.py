"""The teachers that ``teacher.backend`` selects, one module each.

Every module of this folder is a backend. It defines

- ``ASKS``: whether it asks a server. If so, answers are cached, may be missing and cost money, and the options
  ``--dry-run``, ``--refresh`` and ``--only-failed`` apply;
- ``draft_samples(params, workspace, tasks, priors, take, asking)``: drafts all candidates of every task, gates them,
  and passes the :class:`~cot_builder.teacher.drafts.SampleDrafts` of each sample to ``take``, in the order of the
  tasks;
- ``word_priors(params, workspace, measured, groups, output, asking)``: returns the normalcy priors in the teacher's
  words, in the same number and order; a prior keeps its measured text if the teacher has no own text;

and if ``ASKS`` is true, ``estimate_drafts(params, workspace, tasks, priors, asking)`` and
``estimate_priors(params, workspace, measured, groups, asking)``, which estimate the cost without asking anything.
"""

import pkgutil
from collections.abc import Collection
from importlib import import_module
from types import ModuleType
from typing import NamedTuple

from schemas.errors import check_name


class AskOptions(NamedTuple):
    """Options for a backend that asks a server."""

    refresh: bool = False
    """Send every request again."""
    again: Collection[str] = ()
    """Ids of samples to ask about again; if not empty, all other samples use stored answers only."""
    allow_unpriced: bool = False
    """Allow a model whose price is unknown."""


def list_backends() -> list[str]:
    """Return the names of the backends without importing them."""
    return [module.name for module in pkgutil.iter_modules(__path__)]


def load_backend(name: str) -> ModuleType:
    """Import the module of a backend.

    Raises:
        IndusCotError: no backend has that name; the message lists the backends and the closest name.
    """
    check_name("teacher.backend", name, list_backends())
    return import_module(f"{__name__}.{name}")
