"""Checks that what a parameter names exists. The tables that know lie above `params`, so it cannot ask itself."""

from typing import TYPE_CHECKING

from schemas.errors import check_name

if TYPE_CHECKING:
    from cot_builder.params import Params


def check_names(params: "Params") -> None:
    """Raise for the first parameter that names a thing which no table knows.

    Raises:
        IndusCotError: a name is unknown; the message lists the known ones and the closest.
    """
    # Imported here: `--help` needs no table.
    from cot_builder.benchmarks.table import check_pull_set
    from cot_builder.teacher.backends import list_backends
    from train.rewards import check_parameters

    for name, settings in params.pull.items():
        check_pull_set(name, settings)
    check_name("teacher.backend", params.teacher.backend, list_backends())
    if params.evaluate.mode.startswith("agent-without-"):
        from cot_builder.inspection.tools import offered_tools

        offered_tools(params.evaluate.mode)
    check_parameters(params.grpo.reward)
