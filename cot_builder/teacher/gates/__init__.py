"""Gates that a draft must pass: small functions, registered by :func:`~cot_builder.teacher.gates.gate.gate`.

A gate sees the trajectory and the supervision. Its findings are stored with the draft and never shown to a student.
A gate is one function, in its own file or next to gates on the same subject. All modules of this package are imported
in the order of their names, and drafts record their gates in that order.
"""

import pkgutil
from importlib import import_module

from cot_builder.teacher.gates.corpus_gates import CORPUS_GATES, duplicates
from cot_builder.teacher.gates.gate import GATES, Case, run_gates

__all__ = ["CORPUS_GATES", "GATES", "Case", "duplicates", "run_gates"]

for _module in pkgutil.iter_modules(__path__):
    import_module(f"{__name__}.{_module.name}")
