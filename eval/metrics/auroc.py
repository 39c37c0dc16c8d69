"""Figure of the Yes/No margin, for policies that give one."""

from eval.metrics.arrays import PredictionArrays
from eval.metrics.figure import Ordering, figure


@figure("AUROC", needs=("defective", "normal"))
def auroc(images: PredictionArrays) -> Ordering:
    """Area under the ROC curve of the margin: the share of pairs that it puts in the right order."""
    return Ordering(images.margin)
