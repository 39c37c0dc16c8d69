"""Gates a draft must pass: small functions that :func:`~cot_builder.teacher.gates.gate.gate` marks.

A gate sees the trajectory and the supervision; what it returns is kept with the draft and never shown to a student.
Every module of this package is imported, in the order of their names, which is the order in which drafts record their
gates: a gate is one function, in a file of its own or beside one of its subject.
"""

import pkgutil
from importlib import import_module

from cot_builder.teacher.gates.corpus_gates import CORPUS_GATES, duplicates
from cot_builder.teacher.gates.gate import GATES, Case, run_gates

__all__ = ["CORPUS_GATES", "GATES", "Case", "duplicates", "run_gates"]

for _module in pkgutil.iter_modules(__path__):
    import_module(f"{__name__}.{_module.name}")
