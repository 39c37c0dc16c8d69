"""The endpoint teacher: a model behind an OpenAI-compatible server, asked about many samples at once."""

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
from cot_builder.teacher.backends import Asking
from cot_builder.teacher.drafts import SampleDrafts, Task, to_draft
from cot_builder.teacher.endpoint import Lesson, draft_with_endpoint, word_prior
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
    asking: Asking,
) -> None:
    """Ask for all candidates of every sample; the best that passes has no violation.

    Raises:
        IndusCotError: no model, price or key; the budget is spent; the endpoint refuses everybody.
    """
    images = SharedImages(workspace)
    gates = [*GATES, *([AUDIT] if params.teacher.audit else [])]
    again = asking.again

    async def work(client: EndpointClient, task: Task) -> SampleDrafts:
        sample, supervision = task
        lesson = _lesson(params, images, priors, sample, supervision)
        try:
            drafted = await draft_with_endpoint(
                client, lesson, {"offline": bool(again) and sample.sample_id not in again}
            )
            if sample.sample_id in again and all(item.violations or item.failure for item in drafted.attempts):
                # What was kept, and what could not be asked last time, does not do: new answers are needed.
                drafted = await draft_with_endpoint(client, lesson, {"refresh": True})
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
    params: Params, workspace: Workspace, tasks: list[Task], priors: Priors, asking: Asking
) -> Estimate:
    """What drafting would ask, take and cost; of samples that are asked about again, no kept answer counts.

    Raises:
        IndusCotError: no model or price.
    """
    if asking.again:
        tasks = [task for task in tasks if task[0].sample_id in asking.again]
    images = SharedImages(workspace)

    def after(step: str) -> list[str]:
        judge = ["judge"] * params.teacher.judge_readings
        chain = ["describe", "compose", *(["audit"] if params.teacher.audit else []), *judge]
        if step in ("blind", "judge"):
            return [step]
        if step in ("correct", "replan"):
            return [step, *chain[2 if step == "correct" else 1 :]]
        return chain[chain.index(step) :]

    async def work(client: EndpointClient, task: Task) -> None:
        await draft_with_endpoint(client, _lesson(params, images, priors, *task), {})

    return estimate(
        params,
        workspace,
        tasks,
        work,
        after,
        reader_steps=(AUDIT, JUDGE),
        ignore_cache=asking.refresh or bool(asking.again),
        allow_unpriced=asking.allow_unpriced,
    )


def _lesson(params: Params, images: SharedImages, priors: Priors, sample: Sample, supervision: Supervision) -> Lesson:
    return Lesson(
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
    asking: Asking,
) -> list[NormalcyPrior]:
    """The priors in the model's words, from several of the measured images each.

    Raises:
        IndusCotError: no model, price or key; the budget is spent; the endpoint refuses everybody.
    """
    worded: list[NormalcyPrior] = []

    def take(result: tuple[NormalcyPrior, str]) -> None:
        row, failure = result
        if failure:
            output.leave_out("no usable text from the teacher, the measured one is kept", row.prior_id, failure)
        worded.append(row)

    run_with_client(
        make_teacher_endpoint(params),
        params,
        workspace,
        measured,
        _wording(groups, params, workspace),
        take,
        description="prior",
        unit="priors",
        total=len(measured),
        refresh=asking.refresh,
        allow_unpriced=asking.allow_unpriced,
    )
    return worded


def estimate_priors(
    params: Params, workspace: Workspace, measured: list[NormalcyPrior], groups: Groups, asking: Asking
) -> Estimate:
    """What wording the priors would ask, take and cost.

    Raises:
        IndusCotError: no model or price.
    """
    return estimate(
        params,
        workspace,
        measured,
        _wording(groups, params, workspace),
        lambda step: [step],
        ignore_cache=asking.refresh,
        allow_unpriced=asking.allow_unpriced,
    )


def _wording(
    groups: Groups, params: Params, workspace: Workspace
) -> Callable[[EndpointClient, NormalcyPrior], Awaitable[tuple[NormalcyPrior, str]]]:
    """Asks for the words of one prior; gives it back as it was, with the reason, where there are none."""
    images = SharedImages(workspace)

    async def work(client: EndpointClient, row: NormalcyPrior) -> tuple[NormalcyPrior, str]:
        by_hash = {item.image_sha256: item for item in groups[row.source_set, row.category, row.view]}
        shown = [by_hash[digest] for digest in row.image_sha256[: params.prior.shown_images]]
        try:
            text = await word_prior(client, params.teacher, row, [make_query_image(item, images) for item in shown])
        except NotAnsweredError as error:
            return row, str(error)
        return row.model_copy(update={"text": text, "author": params.teacher.model, "version": prompt_version()}), ""

    return work
