"""Finds warnings that a reader of the figures needs."""

import numpy as np

from eval.metrics.arrays import PredictionArrays
from schemas.metrics import Contamination, EvaluatedImages, Run, Scores

MAX_UNPARSED_SHARE = 0.02
FEW_PARTS = 30
"""Warn below this number of parts per label: bootstrap intervals of so few parts are too narrow."""
MAX_NAMED_IMAGES = 3
"""Limit on the images that a flag names."""


def find_flags(
    images: PredictionArrays, overall: Scores, run: Run, listing: EvaluatedImages, contamination: Contamination
) -> list[str]:
    """Return the warnings to read before relying on a figure."""
    found = []
    if overall.balanced_accuracy and f"{100 * overall.balanced_accuracy.value:.1f}" == "50.0":
        found.append("balanced accuracy is exactly 50.0, which one answer for everything would get")
    answers = images.frame["answer"].drop_nulls().unique().to_list()
    if len(answers) == 1 and images.frame.height > 1:
        score = "recall 100, specificity 0" if answers == ["Yes"] else "recall 0, specificity 100"
        found.append(f"always the same answer, {answers[0]}" + ("" if images.unread.any() else f": {score}"))
    if overall.unparsed > MAX_UNPARSED_SHARE * overall.images:
        share = 100 * overall.unparsed / overall.images
        failed = int((images.frame["parse"] == "failed").sum())
        found.append(
            f"{overall.unparsed} of {overall.images} verdicts ({share:.1f} %) could not be read and count as wrong"
            + (f"; {failed} of them were never given" if failed else "")
        )
    found += _find_reservations(run, listing, contamination)
    for label, mask in (("defective", images.defective), ("normal", ~images.defective)):
        if (parts := len(np.unique(images.parts.of[mask]))) < FEW_PARTS:
            found.append(f"only {parts} parts with {label} images: intervals are rough")
    if 0 < (given := int((~np.isnan(images.margin)).sum())) < overall.images:
        found.append(f"AUROC and calibration are of the {given} of {overall.images} images that have a margin")
    return found


def _find_reservations(run: Run, listing: EvaluatedImages, contamination: Contamination) -> list[str]:
    """Return reasons against comparing the figures with others."""
    found = []
    if run.model is None:
        found.append("what was run is not recorded beside the predictions: model, mode, list and training are unknown")
    if listing.available is not None and listing.evaluated < listing.available:
        found.append(f"incomplete: {listing.evaluated} of the {listing.available} test images here")
    if listing.same_list is False and listing.published is None:
        found.append("rendered images, not those of the benchmark: figures cannot be set beside published ones")
    elif listing.same_list is False:
        found.append(
            f"the list is not the published one: {listing.evaluated} images were evaluated, {listing.published} are "
            "published; figures cannot be set beside published ones"
        )
    if contamination.zero_shot is False:
        what = [f"categories {', '.join(contamination.categories)}"] if contamination.categories else []
        what += [_count_images(contamination)] if contamination.images else []
        found.append(f"not zero-shot: the model was trained on {' and '.join(what)}")
    if contamination.trained_on and contamination.zero_shot is None:
        found.append("not known to be zero-shot: the corpus that the model was trained on is not here")
    if contamination.prior_categories:
        found.append(
            f"the texts of the prior tool describe evaluated categories: {', '.join(contamination.prior_categories)}"
        )
    return found


def _count_images(contamination: Contamination) -> str:
    named = ", ".join(contamination.image_ids[:MAX_NAMED_IMAGES])
    more = ", …" if contamination.images > MAX_NAMED_IMAGES else ""
    return f"{contamination.images} of the evaluated images" + (f" ({named}{more})" if named else "")
