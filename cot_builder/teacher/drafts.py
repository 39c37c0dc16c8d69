"""What the teacher's backends hand to the stage `draft`."""

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
    """All drafts of one sample."""

    sample_id: str
    drafts: list[Draft]
    images: dict[str, bytes]
    """PNG bytes of the observation images by sha256."""
    damage: str = ""
    """Why the sample's image cannot be read; empty where it can."""
    failures: tuple[str, ...] = ()
    """Why candidates never became a draft."""
    unanswered: int = 0
    """How many candidates never became a draft."""


def to_draft(
    trajectory: Trajectory,
    sample: Sample,
    attempt: Attempt,
    gates: list[str],
    teacher: str,
    prompts: str,
    blind_answer: Literal["Yes", "No"] | None = None,
) -> Draft:
    """The row of a draft, from its trajectory and what happened to it.

    Args:
        trajectory: What was drafted.
        sample: Its sample.
        attempt: Its number, violations, scores, corrections and cost.
        gates: Names of the gates that it went through.
        teacher: Who drafted it.
        prompts: Version of the prompts or sentences that it was drafted with.
        blind_answer: What the teacher answered without knowing the truth, where it was asked.
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
