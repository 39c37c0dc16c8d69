"""The table of data sets: every module of this folder that has a ``BENCHMARK``."""

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
    """The module of every data set, by its name, which is the module's.

    Each has

    - ``BENCHMARK``, the facts: a :class:`~cot_builder.benchmarks.benchmark.Benchmark`;
    - ``classify_path(path)``: returns the role and key of a file of a source, a
      :class:`~cot_builder.benchmarks.benchmark.ClassifiedPath`;
    - ``layout(settings, files)``: how a source is read, a :class:`~cot_builder.benchmarks.benchmark.Layout`;
    - ``ignore(settings)``, where it saves a download: shell patterns of files that need not be fetched;
    - ``RENDERING``, where it can be rendered: a :class:`~cot_builder.benchmarks.synthetic.rendering.Rendering`.

    Data sets that share the same ``classify_path`` function share a layout. They are told apart by their categories.

    Raises:
        IndusCotError: a module's facts do not name it as its file does.
    """
    found = {}
    for module in pkgutil.iter_modules([str(HERE)]):
        # The other modules of this folder are not imported: some are slow, and some need this table.
        if not module.ispkg and _MARK.search((HERE / f"{module.name}.py").read_text(encoding="utf-8")):
            found[module.name] = import_module(f"{__package__}.{module.name}")
    for name, loaded in found.items():
        if loaded.BENCHMARK.name != name:
            raise IndusCotError(
                f"{HERE / name}.py: BENCHMARK.name is {loaded.BENCHMARK.name!r}; a data set has the name of its file"
            )
    return found


def find_rendering(benchmark: str) -> Rendering:
    """How the data set is rendered.

    Raises:
        IndusCotError: it cannot be; the message names those that can.
    """
    renderings = {name: module.RENDERING for name, module in load_benchmarks().items() if hasattr(module, "RENDERING")}
    if benchmark not in renderings:
        known = ", ".join(renderings)
        raise IndusCotError(f"synthetic: there is no layout of {benchmark!r} to render; there are {known}")
    return renderings[benchmark]


def check_pull_set(name: str, settings: PullSet) -> None:
    """Raise unless the data set of ``pull.<name>`` exists and has the settings that are given.

    Raises:
        IndusCotError: it does not; the message names the data sets there are, or those that have the setting.
    """
    benchmarks = {benchmark: module.BENCHMARK for benchmark, module in load_benchmarks().items()}
    check_name(f"pull.{name}.benchmark", settings.benchmark, benchmarks)
    for facts in benchmarks.values():
        for setting, why in facts.settings.items():
            given = getattr(settings, setting) != PullSet.model_fields[setting].default
            if given and setting not in benchmarks[settings.benchmark].settings:
                owners = ", ".join(owner for owner, other in benchmarks.items() if setting in other.settings)
                raise IndusCotError(f"pull.{name}: {setting} is for {owners}; {settings.benchmark} {why}")
