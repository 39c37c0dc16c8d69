"""Checks that names in the parameters exist. `params` cannot check them: it must not import the tables of names."""

from typing import TYPE_CHECKING

from schemas.errors import check_name

if TYPE_CHECKING:
    from cot_builder.params import Params


def check_names(params: "Params") -> None:
    """Check the names of data sets, backends, tools and rewards in the parameters.

    Raises:
        IndusCotError: a name is unknown; the message lists the known names and the closest match.
    """
    # Import here: `--help` does not need these modules.
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
