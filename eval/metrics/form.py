"""Figure of the written form: does the policy follow the agent's grammar to the character?"""

from eval.metrics.arrays import PredictionArrays
from eval.metrics.figure import Share, figure


@figure("exact form", needs=("formatted",))
def exact_form(images: PredictionArrays) -> Share:
    """Share of the inspections whose whole text has the exact form of the agent's grammar; not defined for `direct`."""
    return Share(images.in_exact_form & images.formatted, images.formatted)
