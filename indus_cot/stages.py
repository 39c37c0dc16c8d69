"""The stages of dvc.yaml: which module each of them runs, and the code key that makes it stale."""

from cot_builder.storage.code import compute_code_key

STAGES = {
    **{name: f"cot_builder.stages.{name}" for name in ("pull", "select", "patch", "prior", "draft", "assemble")},
    "sft": "train.sft",
    "grpo": "train.grpo",
    "evaluate": "eval.evaluate",
    "report": "eval.report.report",
}
"""Module by stage. `params` always runs; `review` and `prior_review` are frozen, since people decide when to pull."""


def code_keys() -> dict[str, str]:
    """The code key of each stage."""
    return {stage: compute_code_key(module) for stage, module in STAGES.items()}
