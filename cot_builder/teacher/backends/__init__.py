"""Teachers to choose from with ``teacher.backend``: one file each.

Every module of this folder is a backend. It has

- ``ASKS``: whether it asks a server. Answers are then kept, may be missing and cost money, and the options
  ``--dry-run``, ``--refresh`` and ``--only-failed`` mean something;
- ``draft_samples(params, workspace, tasks, priors, take, asking)``: drafts all candidates of every task, gates them,
  and hands the :class:`~cot_builder.teacher.drafts.SampleDrafts` of each sample to ``take``, in the order of the tasks;
- ``word_priors(params, workspace, measured, groups, output, asking)``: the normalcy priors in the teacher's words, as
  many and in the same order; the measured text where the teacher has none of its own;

and where it asks, ``estimate_drafts(params, workspace, tasks, priors, asking)`` and
``estimate_priors(params, workspace, measured, groups, asking)``: what that would take, without asking anything.
"""

import pkgutil
from collections.abc import Collection
from importlib import import_module
from types import ModuleType
from typing import NamedTuple

from schemas.errors import check_name


class Asking(NamedTuple):
    """How a backend that asks a server goes about it."""

    refresh: bool = False
    """Ask anew about everything."""
    again: Collection[str] = ()
    """Ids of samples to ask about again; with any, all others come from kept answers."""
    allow_unpriced: bool = False
    """Ask a model whose price is not known."""


def list_backends() -> list[str]:
    """Names of the backends, without importing any."""
    return [module.name for module in pkgutil.iter_modules(__path__)]


def load_backend(name: str) -> ModuleType:
    """The module of a backend.

    Raises:
        IndusCotError: there is none of that name; the message lists those there are and the closest.
    """
    check_name("teacher.backend", name, list_backends())
    return import_module(f"{__name__}.{name}")
