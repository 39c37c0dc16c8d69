"""Figures of the place, over defective images with a published place; a missed defect scores 0."""

import numpy as np

from eval.metrics.arrays import PredictionArrays
from eval.metrics.figure import Share, figure
from schemas.geometry import Box

GOOD_IOU = 0.5


@figure("box IoU", needs=("located",))
def box_iou(images: PredictionArrays) -> Share:
    """Mean IoU of the regions that all predicted and all true boxes cover."""
    return Share(images.iou, images.located)


@figure("IoU of at least 0.5", needs=("located",))
def box_accuracy(images: PredictionArrays) -> Share:
    """Share of the images with an IoU of at least :data:`GOOD_IOU`."""
    return Share(images.iou >= GOOD_IOU, images.located)


@figure("pointing", needs=("located",))
def pointing(images: PredictionArrays) -> Share:
    """Share of the images where the centre of the first box lies in a true box."""
    hits = np.zeros(len(images.located), dtype=bool)
    for row, boxes, true in images.named_places():
        hits[row] = any(_points_into(boxes[0], box) for box in true)
    return Share(hits, images.located)


def _points_into(box: Box, true: Box) -> bool:
    x, y = (box[0] + box[2]) / 2, (box[1] + box[3]) / 2
    return true[0] <= x <= true[2] and true[1] <= y <= true[3]
