"""Figures of the verdict, Yes or No. An image without a parsed verdict counts as wrong."""

import numpy as np

from eval.metrics.arrays import PredictionArrays
from eval.metrics.figure import Mean, Share, figure


@figure("balanced accuracy", needs=("defective", "normal"))
def balanced_accuracy(images: PredictionArrays) -> Mean:
    """Mean of recall and specificity: 0.5 is chance, however many images are defective."""
    return Mean((recall(images), specificity(images)))


@figure("recall", needs=("defective",))
def recall(images: PredictionArrays) -> Share:
    """Share of the defective images that were found."""
    return Share(images.defective & images.said_yes, images.defective)


@figure("specificity", needs=("normal",))
def specificity(images: PredictionArrays) -> Share:
    """Share of the normal images that were passed."""
    return Share(images.normal & ~images.said_yes, images.normal)


@figure("precision", needs=("defective", "normal"))
def precision(images: PredictionArrays) -> Share:
    """Share of the images called defective that are defective."""
    return Share(images.defective & images.said_yes, images.said_yes)


@figure("F1", needs=("defective", "normal"))
def f1(images: PredictionArrays) -> Share:
    """Harmonic mean of recall and precision."""
    found = 2.0 * (images.defective & images.said_yes)
    wrong = images.defective != images.said_yes
    return Share(found, found + wrong, images=np.ones_like(wrong))
