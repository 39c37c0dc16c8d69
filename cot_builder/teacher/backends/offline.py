"""The offline teacher: a deterministic inspector that runs in worker processes and asks no server."""

from collections.abc import Callable
from dataclasses import dataclass

from cot_builder.corpus.priors import Groups, Priors
from cot_builder.params import Draft as DraftParams
from cot_builder.params import Params
from cot_builder.progress import track
from cot_builder.storage.images import UndecodableError
from cot_builder.storage.output import Output
from cot_builder.storage.parallel import process_map
from cot_builder.storage.samples import SampleImages
from cot_builder.storage.workspace import Workspace
from cot_builder.teacher.backends import AskOptions
from cot_builder.teacher.drafts import SampleDrafts, Task, to_draft
from cot_builder.teacher.endpoint import Attempt
from cot_builder.teacher.gates import GATES, Case, run_gates
from cot_builder.teacher.offline import PROMPT_VERSION, TEACHER, draft_offline
from schemas.prior import NormalcyPrior
from schemas.trajectory import Draft

ASKS = False
DRAFT_CHUNK = 8
"""Number of samples sent to a worker process at once."""


def draft_samples(
    params: Params,
    workspace: Workspace,
    tasks: list[Task],
    priors: Priors,
    take: Callable[[SampleDrafts], None],
    _asking: AskOptions,
) -> None:
    """Draft candidates of every sample until one passes the gates."""
    results = process_map(
        _draft_one,
        tasks,
        params.compute.workers,
        initializer=_start,
        initargs=(workspace, priors, params),
        chunksize=DRAFT_CHUNK,
    )
    for result in track(results, "draft", len(tasks)):
        take(result)


def word_priors(
    _params: Params,
    _workspace: Workspace,
    measured: list[NormalcyPrior],
    _groups: Groups,
    _output: Output,
    _asking: AskOptions,
) -> list[NormalcyPrior]:
    """Return the measured priors: this teacher does not rewrite them."""
    return measured


@dataclass
class _Worker:
    images: SampleImages
    priors: Priors
    params: DraftParams
    seed: int


_worker: _Worker | None = None


def _start(workspace: Workspace, priors: Priors, params: Params) -> None:
    global _worker  # noqa: PLW0603 - workers of a process pool can keep state only in a global
    _worker = _Worker(SampleImages(workspace), priors, params.draft, params.run.seed)


def _draft_one(task: Task) -> SampleDrafts:
    assert _worker is not None
    sample, supervision = task
    try:
        image = _worker.images.pixels(sample)
    except UndecodableError as error:
        return SampleDrafts(sample.sample_id, [], {}, str(error))
    drafts: list[Draft] = []
    shown: dict[str, bytes] = {}
    for candidate in range(_worker.params.candidates):
        trajectory, images = draft_offline(
            image,
            sample,
            supervision,
            _worker.priors,
            seed=_worker.seed,
            candidate=candidate,
            max_calls=_worker.params.max_calls,
        )
        violations = run_gates(Case(trajectory, sample, supervision, _worker.params))
        attempt = Attempt(candidate, trajectory, violations=violations)
        drafts.append(to_draft(trajectory, sample, attempt, [*GATES], TEACHER, PROMPT_VERSION))
        shown |= images
        if not violations:
            break
    return SampleDrafts(sample.sample_id, drafts, shown)
