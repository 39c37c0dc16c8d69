"""Reward a policy in a way of your own, beside the terms of Indus-CoT: here, thoughts that are not too long.

Runs on its own: `.venv/bin/python examples/own_reward.py`. To train with the term by `indus-cot grpo`, put the function
into a file of its own in `train/rewards/`: every file of that folder counts.
"""

from typing import Any

from indus_cot import read_completion, reward_term, rewards

WORDS = 12


# Behind the gate (`gated`, the default) a completion with the wrong verdict scores 0, so that short nonsense earns
# nothing. An argument with a default, like `most`, is a parameter of the reward.
@reward_term(weight="delta", default=0.2, title="Brevity", note="share of thoughts of few words", limits=(0.0, 1.0))
def brevity_reward(completions: list[Any], most: float = WORDS, **_: Any) -> list[float]:
    """Share of the thoughts that have at most ``most`` words, in [0, 1]."""
    thoughts = [read_completion(written).thoughts for written in completions]
    return [sum(len(thought.split()) <= most for thought in own) / max(len(own), 1) for own in thoughts]


PLACE = "<location>[[100, 100, 300, 300]]</location><type>{}</type><answer>Yes</answer>"
WRITTEN = {
    "right": "<think>A dark line crosses the face.</think>" + PLACE.format("scratch"),
    "right family": "<think>A dark line crosses the face.</think>" + PLACE.format("abrasion"),
    "long": "<think>" + "I look and look again at every part. " * 3 + "</think>" + PLACE.format("scratch"),
    "wrong": "<think>All is even.</think><answer>No</answer>",
    "no tags": "Yes, there is a scratch.",
}

if __name__ == "__main__":
    # TRL takes the two lists as they are: GRPOTrainer(reward_funcs=functions, …) and
    # GRPOConfig(reward_weights=weights, …); its data set has the columns answer, boxes and defect_type.
    functions, weights = rewards.reward_functions({"delta": 0.3, "most": 10})
    truth: dict[str, Any] = {"answer": ["Yes"], "boxes": [[[100, 100, 300, 300]]], "defect_type": ["scratch"]}
    names = [function.__name__.removesuffix("_reward") for function in functions]
    print(f"{'':14}" + "".join(f"{name:>10}" for name in names) + f"{'total':>10}")
    for title, text in WRITTEN.items():
        completion = [{"role": "assistant", "content": text}]
        scores = [function(completions=[completion], **truth)[0] for function in functions]
        total = sum(weight * score for weight, score in zip(weights, scores, strict=True))
        print(f"{title:14}" + "".join(f"{score:>10.2f}" for score in [*scores, total]))
