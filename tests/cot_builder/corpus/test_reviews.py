"""Tests of decisions from several reviews, of the order of the review queue, and of empty review tables."""

from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from annotation.queue import rank_draft
from cot_builder.corpus.reviews import decide_drafts, ensure_review_table, read_reviews
from cot_builder.params import load_params
from cot_builder.storage.workspace import Workspace
from schemas.errors import IndusCotError
from schemas.review import Review
from schemas.trajectory import Draft
from tests.helpers.paths import ROOT

A, B = "a" * 64, "b" * 64
PARAMS = load_params(root=ROOT).review


def make_review(number: int, **changes: Any) -> Review:
    values = {
        "review_id": f"1/{number}", "draft_id": "real_iad/nut/0123456789abcdef#0", "draft_sha256": A, "role": "review",
        "reviewer": "ada@example.org", "reviewed_at": f"2026-11-01T00:00:{number:02}+00:00", "seconds": 10.0,
        "verdict": "accepted", "reasons": [], "evidence_rating": None, "logic_rating": None, "comment": "",
        "changes": [], "trajectory": "as drafted", "result": "[]", "caught": None, "problems": [],
    }  # fmt: skip
    return Review.model_validate(values | changes)


def make_draft(sample: str = "real_iad/nut/0123456789abcdef", **changes: Any) -> Draft:
    values = {
        "draft_id": f"{sample}#0", "sample_id": sample, "candidate": 0, "trajectory": "{}", "answer": "No",
        "defect_type": None, "boxes": [], "tools": [], "observations": [], "gates": [], "violations": [],
        "judge_scores": [], "judge_disagreement": None, "blind_answer": None, "corrections": 0, "sent_back_by": [],
        "draft_sha256": A,
        "teacher": "t", "prompt_version": "p", "toolbox_version": "1", "cost_usd": 0.0,
    }  # fmt: skip
    return Draft.model_validate(values | changes)


def test_latest_review_counts() -> None:
    first = make_review(1, verdict="rejected", reasons=["wrong type"])
    assert decide_drafts([make_review(2), first])[A].status == "accepted"
    assert (
        decide_drafts([make_review(2, verdict="rejected", reasons=["wrong type"]), make_review(1)])[A].status
        == "rejected"
    )


def test_one_rejection_rejects_the_draft() -> None:
    no = make_review(1, verdict="rejected", reasons=["wrong type", "poor reasoning"])
    found = decide_drafts([no, make_review(2, reviewer="bo@example.org")])[A]
    assert (found.status, found.reasons, found.reviewers) == ("rejected", ["wrong type", "poor reasoning"], 2)


def test_latest_correction_wins() -> None:
    rows = [
        make_review(1, verdict="fixed", trajectory="first"),
        make_review(3, reviewer="bo@example.org"),
        make_review(2, reviewer="cy@example.org", verdict="fixed", trajectory="second"),
    ]
    found = decide_drafts(rows)[A]
    assert (found.status, found.trajectory, found.reviewers) == ("fixed", "second", 3)


def test_inapplicable_review_is_ignored() -> None:
    assert decide_drafts([make_review(1, problems=["grammar: a tag"])]) == {}
    assert decide_drafts([make_review(1), make_review(2, problems=["grammar: a tag"])])[A].reviewers == 1


def test_decisions_follow_the_draft_hash() -> None:
    found = decide_drafts([make_review(1), make_review(2, draft_sha256=B, verdict="rejected", reasons=["wrong type"])])
    assert (found[A].status, found[B].status) == ("accepted", "rejected")


def test_suspect_drafts_have_priority() -> None:
    plain = make_draft()
    audited = PARAMS.model_copy(update={"audit_share": 0.0})
    suspects = [
        make_draft(blind_answer="Yes"),
        make_draft(judge_scores=[0.9, 0.4], judge_disagreement=0.5),
        make_draft(judge_scores=[0.3, 0.3], judge_disagreement=0.0),
        make_draft(corrections=2, sent_back_by=["location"]),
    ]
    for suspect in suspects:
        found = rank_draft(suspect, audited, seed=0)
        assert found.priority > 1 > rank_draft(plain, audited, seed=0).priority
        assert found.reasons
    assert rank_draft(plain, audited, seed=0).reasons == {}
    worst = make_draft(judge_scores=[0.1, 0.9], judge_disagreement=0.8, blind_answer="Yes")
    assert rank_draft(worst, audited, seed=0).priority > max(
        rank_draft(one, audited, seed=0).priority for one in suspects
    )


@given(share=st.sampled_from([0.05, 0.1, 0.5]), seed=st.integers(0, 1000))
def test_audit_draw_ignores_suspicion(share: float, seed: int) -> None:
    params = PARAMS.model_copy(update={"audit_share": share})
    names = [f"real_iad/nut/{number:016x}" for number in range(1000)]
    drawn = [rank_draft(make_draft(name), params, seed).audit for name in names]
    # Tolerance: five standard deviations of the binomial distribution.
    assert abs(sum(drawn) - 1000 * share) < 5 * (1000 * share * (1 - share)) ** 0.5
    assert drawn == [rank_draft(make_draft(name, corrections=1), params, seed).audit for name in names]


def test_empty_table_only_without_locked_reviews(tmp_path: Path) -> None:
    workspace = Workspace(tmp_path)
    ensure_review_table(workspace)
    assert read_reviews(workspace) == []
    workspace.reviews.unlink()
    (tmp_path / "dvc.lock").write_text("stages:\n  review:\n    outs: []\n")
    ensure_review_table(workspace)
    assert not workspace.reviews.exists()


def test_damaged_review_table(tmp_path: Path) -> None:
    workspace = Workspace(tmp_path)
    ensure_review_table(workspace)
    path = workspace.reviews
    path.write_bytes(path.read_bytes()[:100])
    with pytest.raises(IndusCotError, match="not a readable parquet"):
        read_reviews(workspace)
