"""The endpoint teacher: asks a model behind an OpenAI-compatible server about many samples at once."""

from collections.abc import Awaitable, Callable

from cot_builder.corpus.priors import Groups, Priors
from cot_builder.endpoint.client import EndpointClient
from cot_builder.endpoint.images import make_query_image
from cot_builder.endpoint.replies import CacheMissError, NotAnsweredError
from cot_builder.endpoint.run import Estimate, estimate, make_teacher_endpoint, run_with_client
from cot_builder.params import Params
from cot_builder.storage.output import Output
from cot_builder.storage.samples import DamagedImageError, SharedImages
from cot_builder.storage.workspace import Workspace
from cot_builder.teacher.backends import AskOptions
from cot_builder.teacher.drafts import SampleDrafts, Task, to_draft
from cot_builder.teacher.endpoint import DraftContext, draft_with_endpoint, write_prior_text
from cot_builder.teacher.gates import GATES
from cot_builder.teacher.gates.gate import AUDIT, JUDGE
from cot_builder.teacher.prompts import prompt_version
from schemas.prior import NormalcyPrior
from schemas.sample import Sample
from schemas.supervision import Supervision

ASKS = True


def draft_samples(
    params: Params,
    workspace: Workspace,
    tasks: list[Task],
    priors: Priors,
    take: Callable[[SampleDrafts], None],
    asking: AskOptions,
) -> None:
    """Draft all candidates of every sample; the best one that passes has no violation.

    Raises:
        IndusCotError: no model, price or key; the budget limit is reached; the endpoint refuses every request.
    """
    images = SharedImages(workspace)
    gates = [*GATES, *([AUDIT] if params.teacher.audit else [])]
    again = asking.again

    async def work(client: EndpointClient, task: Task) -> SampleDrafts:
        sample, supervision = task
        context = _make_context(params, images, priors, sample, supervision)
        try:
            drafted = await draft_with_endpoint(
                client, context, {"offline": bool(again) and sample.sample_id not in again}
            )
            if sample.sample_id in again and all(item.violations or item.failure for item in drafted.attempts):
                # The stored answers gave no usable draft, so ask for new ones.
                drafted = await draft_with_endpoint(client, context, {"refresh": True})
        except DamagedImageError as error:
            return SampleDrafts(sample.sample_id, [], {}, str(error))
        except CacheMissError as error:
            if again and sample.sample_id not in again:
                return SampleDrafts(sample.sample_id, [], {}, failures=(f"{error}: not asked, --only-failed",))
            raise
        records = [
            to_draft(item.trajectory, sample, item, gates, params.teacher.model, prompt_version(), drafted.blind_answer)
            for item in drafted.attempts
            if item.trajectory is not None
        ]
        shown = {digest: png for item in drafted.attempts for digest, png in item.images.items()}
        failures = tuple(f"candidate {item.candidate}: {item.failure}" for item in drafted.attempts if item.failure)
        return SampleDrafts(sample.sample_id, records, shown, failures=failures, unanswered=len(failures))

    run_with_client(
        make_teacher_endpoint(params),
        params,
        workspace,
        tasks,
        work,
        take,
        description="draft",
        unit="samples",
        total=len(tasks),
        refresh=asking.refresh,
        allow_unpriced=asking.allow_unpriced,
    )


def estimate_drafts(
    params: Params, workspace: Workspace, tasks: list[Task], priors: Priors, asking: AskOptions
) -> Estimate:
    """Estimate the requests, tokens and cost of drafting; samples to retry are counted as if nothing was stored.

    Raises:
        IndusCotError: no model or price.
    """
    if asking.again:
        tasks = [task for task in tasks if task[0].sample_id in asking.again]
    images = SharedImages(workspace)

    def next_steps(step: str) -> list[str]:
        judge = ["judge"] * params.teacher.judge_readings
        chain = ["describe", "compose", *(["audit"] if params.teacher.audit else []), *judge]
        if step in ("blind", "judge"):
            return [step]
        if step in ("correct", "replan"):
            return [step, *chain[2 if step == "correct" else 1 :]]
        return chain[chain.index(step) :]

    async def work(client: EndpointClient, task: Task) -> None:
        await draft_with_endpoint(client, _make_context(params, images, priors, *task), {})

    return estimate(
        params,
        workspace,
        tasks,
        work,
        next_steps,
        reader_steps=(AUDIT, JUDGE),
        ignore_cache=asking.refresh or bool(asking.again),
        allow_unpriced=asking.allow_unpriced,
    )


def _make_context(
    params: Params, images: SharedImages, priors: Priors, sample: Sample, supervision: Supervision
) -> DraftContext:
    return DraftContext(
        sample,
        supervision,
        images=images,
        priors=priors,
        teacher=params.teacher,
        params=params.draft,
    )


def word_priors(
    params: Params,
    workspace: Workspace,
    measured: list[NormalcyPrior],
    groups: Groups,
    output: Output,
    asking: AskOptions,
) -> list[NormalcyPrior]:
    """Let the model write the text of each prior, from several of the measured images.

    Raises:
        IndusCotError: no model, price or key; the budget limit is reached; the endpoint refuses every request.
    """
    worded: list[NormalcyPrior] = []

    def take(result: tuple[NormalcyPrior, str]) -> None:
        row, failure = result
        if failure:
            output.leave_out("the teacher returned no usable text; kept the measured text", row.prior_id, failure)
        worded.append(row)

    run_with_client(
        make_teacher_endpoint(params),
        params,
        workspace,
        measured,
        _make_prior_work(groups, params, workspace),
        take,
        description="prior",
        unit="priors",
        total=len(measured),
        refresh=asking.refresh,
        allow_unpriced=asking.allow_unpriced,
    )
    return worded


def estimate_priors(
    params: Params, workspace: Workspace, measured: list[NormalcyPrior], groups: Groups, asking: AskOptions
) -> Estimate:
    """Estimate the requests, tokens and cost of writing the priors.

    Raises:
        IndusCotError: no model or price.
    """
    return estimate(
        params,
        workspace,
        measured,
        _make_prior_work(groups, params, workspace),
        lambda step: [step],
        ignore_cache=asking.refresh,
        allow_unpriced=asking.allow_unpriced,
    )


def _make_prior_work(
    groups: Groups, params: Params, workspace: Workspace
) -> Callable[[EndpointClient, NormalcyPrior], Awaitable[tuple[NormalcyPrior, str]]]:
    """Return a function that lets the model write one prior; on failure it returns the prior unchanged and the reason."""
    images = SharedImages(workspace)

    async def work(client: EndpointClient, row: NormalcyPrior) -> tuple[NormalcyPrior, str]:
        by_hash = {item.image_sha256: item for item in groups[row.source_set, row.category, row.view]}
        shown = [by_hash[digest] for digest in row.image_sha256[: params.prior.shown_images]]
        try:
            text = await write_prior_text(
                client, params.teacher, row, [make_query_image(item, images) for item in shown]
            )
        except NotAnsweredError as error:
            return row, str(error)
        return row.model_copy(update={"text": text, "author": params.teacher.model, "version": prompt_version()}), ""

    return work
