"""The table of data sets. Every module of this folder with a ``BENCHMARK`` is a data set."""

import pkgutil
import re
from functools import cache
from importlib import import_module
from pathlib import Path
from types import ModuleType

from cot_builder.benchmarks.synthetic.rendering import Rendering
from cot_builder.params import PullSet
from schemas.errors import IndusCotError, check_name

HERE = Path(__file__).parent
_MARK = re.compile(r"^BENCHMARK\b", re.MULTILINE)


@cache
def load_benchmarks() -> dict[str, ModuleType]:
    """Import the modules of all data sets and return them by name.

    Each module has the name of its data set and defines

    - ``BENCHMARK``: the facts, a :class:`~cot_builder.benchmarks.benchmark.Benchmark`;
    - ``classify_path(path)``: returns the role and key of a file of a source, a
      :class:`~cot_builder.benchmarks.benchmark.ClassifiedPath`;
    - ``layout(settings, files)``: returns how to read a source, a :class:`~cot_builder.benchmarks.benchmark.Layout`;
    - ``ignore(settings)``, optional: returns shell patterns of files that are not downloaded;
    - ``RENDERING``, optional: how to render the data set, a
      :class:`~cot_builder.benchmarks.synthetic.rendering.Rendering`.

    Data sets that share the same ``classify_path`` function share a layout. They are told apart by their categories.

    Raises:
        IndusCotError: the name in the facts of a module differs from its file name.
    """
    found = {}
    for module in pkgutil.iter_modules([str(HERE)]):
        # Do not import the other modules of this folder: some are slow to import, and some import this table.
        if not module.ispkg and _MARK.search((HERE / f"{module.name}.py").read_text(encoding="utf-8")):
            found[module.name] = import_module(f"{__package__}.{module.name}")
    for name, loaded in found.items():
        if loaded.BENCHMARK.name != name:
            raise IndusCotError(
                f"{HERE / name}.py: BENCHMARK.name is {loaded.BENCHMARK.name!r}; "
                f"it must be {name!r}, the name of the file"
            )
    return found


def find_rendering(benchmark: str) -> Rendering:
    """Return the rendering of a data set.

    Raises:
        IndusCotError: it has none; the message lists the data sets that can be rendered.
    """
    renderings = {name: module.RENDERING for name, module in load_benchmarks().items() if hasattr(module, "RENDERING")}
    if benchmark not in renderings:
        known = ", ".join(renderings)
        raise IndusCotError(f"synthetic: {benchmark!r} cannot be rendered; choose one of {known}")
    return renderings[benchmark]


def check_pull_set(name: str, settings: PullSet) -> None:
    """Check that the data set of ``pull.<name>`` exists and supports the given settings.

    Raises:
        IndusCotError: the data set is unknown or a setting is unsupported. The message lists the valid data sets.
    """
    benchmarks = {benchmark: module.BENCHMARK for benchmark, module in load_benchmarks().items()}
    check_name(f"pull.{name}.benchmark", settings.benchmark, benchmarks)
    for facts in benchmarks.values():
        for setting, why in facts.settings.items():
            given = getattr(settings, setting) != PullSet.model_fields[setting].default
            if given and setting not in benchmarks[settings.benchmark].settings:
                owners = ", ".join(owner for owner, other in benchmarks.items() if setting in other.settings)
                raise IndusCotError(f"pull.{name}: {setting} is for {owners}; {settings.benchmark} {why}")
