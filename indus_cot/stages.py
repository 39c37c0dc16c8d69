"""The stages of dvc.yaml: the module that each runs, and the code key that tells whether it is out of date."""

from cot_builder.storage.code import compute_code_key

STAGES = {
    **{name: f"cot_builder.stages.{name}" for name in ("pull", "select", "patch", "prior", "draft", "assemble")},
    "sft": "train.sft",
    "grpo": "train.grpo",
    "evaluate": "eval.evaluate",
    "report": "eval.report.report",
}
"""Module by stage. `params` always runs; `review` and `prior_review` are frozen, because people decide when to pull."""


def code_keys() -> dict[str, str]:
    """Return the code key of each stage."""
    return {stage: compute_code_key(module) for stage, module in STAGES.items()}
