"""Results that the teacher backends return to the stage `draft`."""

from dataclasses import dataclass
from typing import Literal

from cot_builder.corpus.drafts import derive_columns
from cot_builder.inspection.tools import TOOLBOX_VERSION
from cot_builder.teacher.endpoint import Attempt
from cot_builder.teacher.gates import CORPUS_GATES
from schemas.sample import Sample
from schemas.supervision import Supervision
from schemas.trajectory import Draft, Trajectory

Task = tuple[Sample, Supervision]


@dataclass(frozen=True)
class SampleDrafts:
    """The drafts of one sample."""

    sample_id: str
    drafts: list[Draft]
    images: dict[str, bytes]
    """PNG bytes of the observation images, by sha256."""
    damage: str = ""
    """Why the sample's image cannot be read; empty if it can."""
    failures: tuple[str, ...] = ()
    """Reasons why candidates have no draft."""
    unanswered: int = 0
    """Number of candidates without a draft."""


def to_draft(
    trajectory: Trajectory,
    sample: Sample,
    attempt: Attempt,
    gates: list[str],
    teacher: str,
    prompts: str,
    blind_answer: Literal["Yes", "No"] | None = None,
) -> Draft:
    """Build the row of a draft from its trajectory and its attempt.

    Args:
        trajectory: The drafted trajectory.
        sample: Its sample.
        attempt: Candidate number, violations, scores, corrections and cost.
        gates: Names of the gates that were applied.
        teacher: Name of the teacher or its model.
        prompts: Version of the prompts or sentences.
        blind_answer: The teacher's answer without knowing the truth, if it was asked.
    """
    scores = attempt.scores
    return Draft(
        draft_id=f"{sample.sample_id}#{attempt.candidate}",
        sample_id=sample.sample_id,
        candidate=attempt.candidate,
        **derive_columns(trajectory),
        gates=[*gates, *CORPUS_GATES],
        violations=attempt.violations,
        judge_scores=scores,
        judge_disagreement=max(scores) - min(scores) if scores else None,
        blind_answer=blind_answer,
        corrections=attempt.corrections,
        sent_back_by=attempt.sent_back_by,
        teacher=teacher,
        prompt_version=prompts,
        toolbox_version=TOOLBOX_VERSION,
        cost_usd=attempt.usd,
    )
