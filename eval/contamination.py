"""Overlap of a set with the training data of the evaluated model, and of its images with the published test list.

The manifest of a model of this project names its training corpus and its base model. The corpus is compared if it
still lies in ``data/indus_cot`` and has the named hash; otherwise nothing is claimed. The training data of the backbone
are unknown: *zero-shot* refers to what this project's training added, as is usual in the field.
"""

from collections.abc import Iterable, Sequence
from pathlib import Path

import polars as pl

from cot_builder.benchmarks.benchmark import SYNTHETIC
from cot_builder.benchmarks.same_category import find_overlaps
from cot_builder.benchmarks.table import load_benchmarks
from cot_builder.corpus.models import find_training_corpus, is_trained_here
from cot_builder.corpus.reading import read_columns
from cot_builder.storage.output import read_manifest
from cot_builder.storage.samples import read_samples
from cot_builder.storage.workspace import Workspace
from schemas.metrics import Contamination, EvaluatedImages
from schemas.sample import Sample

MAX_NAMED = 20
"""Maximum number of image ids that are listed."""


def contamination(
    predictions: pl.DataFrame,
    samples: Sequence[Sample],
    model_folder: Path | None,
    workspace: Workspace,
    priors: Iterable[str] = (),
) -> Contamination:
    """Find which evaluated categories and images the model was trained on, and which the prior tool describes.

    A category counts by its exact or normalised name (:mod:`cot_builder.benchmarks.same_category`), an
    image by its bytes.

    Args:
        predictions: The evaluated images.
        samples: Samples of at least the evaluated images.
        model_folder: Folder of the weights, with the ``manifest.json`` of the stage that trained them; None for a
            model that is not on this machine.
        workspace: Holds the corpus and the base model of the training.
        priors: Categories that the texts of the prior tool describe.

    Raises:
        IndusCotError: the corpus is damaged.
    """
    described = sorted({category for _, category, _ in find_overlaps(priors, predictions["category"].unique())})
    named, here = None, False
    if model_folder is not None and is_trained_here(model_folder):
        named, here = find_training_corpus(model_folder, workspace)
    if not here:
        return Contamination(trained_on=named, categories=[], images=0, prior_categories=described, zero_shot=None)
    seen = read_columns(workspace.indus_cot, ("category", "image_sha256"))
    evaluated = set(predictions["sample_id"])
    digests = {sample.image_sha256 for sample in samples if sample.sample_id in evaluated}
    copies = digests & set(seen["image_sha256"])
    held = {sample.sample_id for sample in samples if sample.image_sha256 in copies} & evaluated
    shared = find_overlaps(seen["category"].unique(), predictions["category"].unique())
    categories = sorted({category for _, category, _ in shared})
    return Contamination(
        trained_on=named,
        categories=categories,
        images=len(held),
        image_ids=sorted(held)[:MAX_NAMED],
        prior_categories=described,
        zero_shot=not categories and not held,
    )


def listing(predictions: pl.DataFrame, workspace: Workspace) -> EvaluatedImages:
    """Compare the evaluated images with the pulled set and the published list.

    Counts by category and label decide whether they are the published list: ``pull`` takes the test images that the
    official files name, for VisA and SDD those of the published lists. A rendered set is never the published list.

    Args:
        predictions: Predictions of one pulled set.
        workspace: Holds the set.

    Raises:
        IndusCotError: the set was not pulled.
    """
    name = predictions["source_set"][0]
    manifest = read_manifest(workspace.pull(name))
    test = read_samples(workspace, name).filter(pl.col("split") == "test")
    counts = {
        label: count
        for label in ("normal", "anomalous")
        if (count := manifest["counts"]["published"].get(f"test {label}"))
    }
    if manifest["params"].get("source") == SYNTHETIC:
        return EvaluatedImages(evaluated=predictions.height, available=test.height, published=None, same_list=False)
    if not counts:
        return EvaluatedImages(evaluated=predictions.height, available=test.height, published=None, same_list=None)
    yes = int((predictions["true_answer"] == "Yes").sum())
    official = load_benchmarks()[manifest["counts"]["benchmark"]["name"]].BENCHMARK
    same = (
        set(predictions["sample_id"]) == set(test["sample_id"])
        and counts == {"normal": predictions.height - yes, "anomalous": yes}
        and set(predictions["category"]) == set(official.categories)
        and (not official.published_test or _counts_by_category(predictions) == official.published_test)
    )
    return EvaluatedImages(
        evaluated=predictions.height, available=test.height, published=sum(counts.values()), same_list=same
    )


def _counts_by_category(predictions: pl.DataFrame) -> dict[str, tuple[int, int]]:
    """Normal and anomalous images of each category."""
    yes = pl.col("true_answer") == "Yes"
    found = predictions.group_by("category").agg(normal=(~yes).sum(), anomalous=yes.sum())
    return {category: (normal, anomalous) for category, normal, anomalous in found.iter_rows()}
