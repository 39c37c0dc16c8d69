"""Describe what a defect-free part looks like, per category and view, from normal training images only."""

import json
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence

import numpy as np

from cot_builder.corpus.prior_reviews import EXPERT, ReviewKey, read_prior_reviews, review_key, select_latest_reviews
from cot_builder.corpus.priors import MACHINE_FILE, Groups, draw_samples, read_normal_samples
from cot_builder.endpoint.run import Estimate
from cot_builder.inspection.normalcy import NORMALCY_VERSION, describe_normalcy, measure_normalcy
from cot_builder.params import Params
from cot_builder.progress import track
from cot_builder.storage.images import UndecodableError
from cot_builder.storage.output import Output, stage_output, write_text
from cot_builder.storage.samples import SampleImages
from cot_builder.storage.workspace import Workspace, file_hash
from cot_builder.teacher.backends import AskOptions, load_backend
from schemas.errors import IndusCotError
from schemas.prior import PRIOR, NormalcyPrior
from schemas.prior_review import PriorReview
from schemas.sample import Sample

MEASURED = "measured"


def prior(params: Params, workspace: Workspace, *, refresh: bool = False, allow_unpriced: bool = False) -> None:
    """Write ``data/prior``: ``prior.parquet``, a readable version of it, ``priors.md``, and ``machine.parquet``.

    An endpoint teacher writes the text from several of the measured images in one request. If it fails, the measured
    text is kept, and the prior is listed in ``left_out.csv``.

    An expert's review is applied if the text has not changed since the review; otherwise it is only counted. The
    expert's text replaces the reviewed text, with author ``expert``; facts and images stay the same. If the text of a
    model was rejected, the measured text replaces it. A rejected measured text is kept, because the tool would
    otherwise answer with the prior of another category; it is listed in ``left_out.csv`` and in the report until
    somebody corrects it. ``machine.parquet`` contains all texts before reviews are applied.

    In the training pool, the normal images of the split train (made by `select`) are measured; in an evaluation set,
    the normal images of the benchmark's own training split. A category and view without normal images is listed in
    ``left_out.csv``.

    Args:
        params: The parameters.
        workspace: The project.
        refresh: Ignore cached answers of the endpoint and request all of them again.
        allow_unpriced: Use a model even if its price is unknown.

    Raises:
        IndusCotError: an earlier stage has not run; no category has a normal training image; the endpoint stopped
            the run.
    """
    backend = load_backend(params.teacher.backend)
    inputs = {name: file_hash(workspace.pull(name) / "sample.parquet") for name in params.pull}
    inputs |= {name: file_hash(workspace.select / f"{name}.parquet") for name in ("sample", "split")}
    if workspace.prior_reviews.is_file():
        inputs["reviews"] = file_hash(workspace.prior_reviews)
    settings = params.prior.model_dump() | {"seed": params.run.seed, "teacher": params.teacher.model_dump()}
    with stage_output(
        workspace.prior, stage="prior", params=settings, inputs=inputs, strict=params.run.strict
    ) as output:
        measured, groups = _measure_priors(params, workspace, output)
        made = backend.word_priors(
            params, workspace, measured, groups, output, AskOptions(refresh, allow_unpriced=allow_unpriced)
        )
        PRIOR.write(PRIOR.frame(made), output.path / MACHINE_FILE)
        rows = apply_reviews(made, measured, read_prior_reviews(workspace), output)
        PRIOR.write(PRIOR.frame(rows), output.path / "prior.parquet")
        write_text(output.path / "priors.md", _render_markdown(rows))
        output.counts |= {"priors": len(rows), "images": sum(row.image_count for row in rows)}


def estimate_prior(
    params: Params, workspace: Workspace, *, refresh: bool = False, allow_unpriced: bool = False
) -> Estimate:
    """Estimate requests, tokens and cost of an endpoint teacher's texts, without sending a request.

    The images are measured as in the run.

    Raises:
        IndusCotError: an earlier stage has not run; no category has a normal training image; the model or its price
            is missing.
    """
    rows, groups = _measure_priors(params, workspace, Output(workspace.prior, params.run.strict))
    found: Estimate = load_backend(params.teacher.backend).estimate_priors(
        params, workspace, rows, groups, AskOptions(refresh, allow_unpriced=allow_unpriced)
    )
    return found


def _measure_priors(params: Params, workspace: Workspace, output: Output) -> tuple[list[NormalcyPrior], Groups]:
    """Measure the priors; return them with the normal images of each group."""
    images = SampleImages(workspace)
    groups = read_normal_samples(params, workspace, output)
    rows = [
        row
        for group in track(groups.values(), "prior", len(groups))
        if (row := _measure_prior(group, images, params.prior.max_images, params.run.seed, output))
    ]
    if not rows:
        raise IndusCotError("prior: no category has a normal image in a training split; see data/pull/SET/left_out.csv")
    return rows, groups


def _measure_prior(
    group: list[Sample], images: SampleImages, most: int, seed: int, output: Output
) -> NormalcyPrior | None:
    drawn = draw_samples(group, most, seed)
    measured: list[str] = []

    def pixels() -> Iterator[np.ndarray]:
        for sample in drawn:
            try:
                image = images.pixels(sample)
            except UndecodableError as error:
                output.leave_out("damaged image", sample.sample_id, str(error))
                continue
            measured.append(sample.image_sha256)
            yield image

    try:
        facts = measure_normalcy(pixels())
    except ValueError:
        output.leave_out("no normal image that decodes", f"{group[0].source_set}/{group[0].category}/{group[0].view}")
        return None
    first = group[0]
    return NormalcyPrior(
        prior_id=f"{first.source_set}/{first.category}/{first.view}",
        source_set=first.source_set,
        category=first.category,
        view=first.view,
        text=describe_normalcy(first.category, first.view, facts),
        facts=json.dumps(facts),
        image_count=len(measured),
        image_sha256=measured,
        author=MEASURED,
        version=NORMALCY_VERSION,
    )


def apply_reviews(
    made: Sequence[NormalcyPrior], measured: Sequence[NormalcyPrior], reviews: Sequence[PriorReview], output: Output
) -> list[NormalcyPrior]:
    """Apply the experts' reviews to the priors, and count in ``output`` which reviews were applied."""
    fallback = {row.prior_id: row for row in measured}
    last = select_latest_reviews(reviews)
    used: dict[ReviewKey, PriorReview] = {}
    rows = [_apply_review(row, fallback[row.prior_id], last, used, output) for row in made]
    verdicts = Counter(review.verdict for review in used.values())
    current = used.keys() | {review_key(row) for row in made}
    if reviews:
        output.counts |= {
            f"{verdict}_by_experts": verdicts[verdict] for verdict in ("accepted", "fixed", "rejected")
        } | {
            "reviews_of_changed_texts": sum((row.prior_id, row.text_sha256) not in current for row in reviews),
            "reviews_sent_back": sum(bool(row.problems) for row in reviews),
        }
    return rows


def _apply_review(
    row: NormalcyPrior,
    measured: NormalcyPrior,
    last: Mapping[ReviewKey, PriorReview],
    used: dict[ReviewKey, PriorReview],
    output: Output,
) -> NormalcyPrior:
    review = last.get(review_key(row))
    if review is None:
        return row
    used[review_key(row)] = review
    if review.verdict == "fixed":
        version = f"{row.author} {row.version}"
        return row.model_copy(update={"text": review.after, "author": EXPERT, "version": version})
    if review.verdict == "accepted":
        return row
    if row.text == measured.text:
        output.left_out.append(
            ("measured text rejected by an expert, kept until it is corrected", row.prior_id, review.reason)
        )
        return row
    # A decision, not an error, so a strict run continues.
    output.left_out.append(
        ("text rejected by an expert, the measured one takes its place", row.prior_id, review.reason)
    )
    return _apply_review(measured, measured, last, used, output)


def _render_markdown(rows: list[NormalcyPrior]) -> str:
    parts = ["# Normalcy priors\n\nMeasured on normal images of training splits only; the table is `prior.parquet`.\n"]
    parts += [f"## {row.prior_id}\n\n{row.text}\n\n{row.image_count} images, author {row.author}.\n" for row in rows]
    return "\n".join(parts)
