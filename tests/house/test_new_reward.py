"""A new reward term in one file: the parameters, the trainer, the curves and the pages include it."""

import json
from pathlib import Path
from typing import Any

import pytest

from tests.helpers.pipeline import new_project
from tests.house.product_copy import run_copy

pytestmark = pytest.mark.slow

TERM = '''
"""R_brevity: fewer words."""

from collections.abc import Sequence
from typing import Any

from train.rewards.term import Completion, reward_term


@reward_term(weight="delta", default=0.0, title="Brevity", note="R_acc · R_brevity, few words", limits=(0.0, 1.0))
def brevity_reward(completions: Sequence[Completion], most_words: float = 8.0, **_: Any) -> list[float]:
    """1 less the share of ``most_words`` that were written."""
    counts = [sum(len(message["content"].split()) for message in written) for written in completions]
    return [max(0.0, 1.0 - count / most_words) for count in counts]
'''
FACTS = """
import json
from pathlib import Path

import train
from cot_builder.params import load_params
from cot_builder.storage.workspace import Workspace
from eval.report.training import read_training
from train import grpo, record
from train.grpo import FIGURE_KEYS, TruthScorer
from train.rewards import reward_functions

given = load_params(settings=["grpo.reward.delta=0.3", "grpo.reward.gamma=0"]).grpo.reward
functions, weights = reward_functions(given, lambda **_: [0.0])
scorer = TruthScorer(
    {"row": {"answer": "No", "boxes": [], "defect_type": None}},
    dict(zip([function.__name__ for function in functions], weights, strict=True)),
)
scores = {}
for words in ("All is even.", "All of it is even and clean."):
    for answer in ("No", "Yes"):
        said = f"<think>{words}</think><answer>{answer}</answer>"
        columns = {
            "completions": [[{"role": "assistant", "content": said}]],
            "prompts": [[{"role": "user", "content": "?"}]],
            "id": ["row"],
            "log_metric": lambda *_: None,
        }
        for function in functions:
            scorer.with_truth(function)(**columns)
        scores[f"{words} {answer}"] = scorer.sample_rollouts()[0]["terms"]
history = [{"step": step, "loss": 0.0, "rewards/brevity_reward/mean": step / 8} for step in (1, 2)]
record.write_curves(history, Path("reports"), "grpo", grpo.PLOTTED_COLUMNS, grpo.TERM_COLUMNS)
record.write_curves([{"step": 1, "loss": 0.0}], Path("without"), "grpo", grpo.PLOTTED_COLUMNS, grpo.TERM_COLUMNS)
run = read_training(Workspace()).grpo
print(json.dumps({
    "file": train.__file__,
    "weights": dict(zip([function.__name__ for function in functions], weights, strict=True)),
    "scores": scores,
    "figures": FIGURE_KEYS["brevity"],
    "header": Path("without/grpo/curve.csv").read_text().splitlines()[0].split(","),
    "plotted": Path("reports/grpo/terms/brevity.csv").read_text(),
    "charts": {chart.title: [chart.note, chart.low, chart.high, chart.description] for chart in run.charts},
}))
"""


@pytest.fixture(scope="module")
def before(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the product."""
    return new_project(tmp_path_factory.mktemp("house") / "before")


@pytest.fixture(scope="module")
def after(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy with a sixth term in its own file."""
    project = new_project(tmp_path_factory.mktemp("house") / "after")
    (project / "train" / "rewards" / "brevity.py").write_text(TERM, encoding="utf-8")
    return project


@pytest.fixture(scope="module")
def facts(after: Path) -> dict[str, Any]:
    """Facts about the new term, computed with the copy's code."""
    done = run_copy(after, "-c", FACTS)
    assert done.returncode == 0, done.stderr
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    assert Path(found["file"]).is_relative_to(after)
    return found


def test_weight_of_new_term_is_parameter(before: Path, after: Path) -> None:
    setting = ("-m", "indus_cot", "--set", "grpo.reward.delta=0.3", "params")
    refused = run_copy(before, *setting)
    assert refused.returncode == 1
    assert "grpo.reward: no 'delta'; there are alpha, beta," in refused.stderr and "did you mean" in refused.stderr
    taken = run_copy(after, *setting)
    assert taken.returncode == 0, taken.stderr
    assert json.loads((after / "data" / "params.json").read_text())["grpo"]["reward"]["delta"] == 0.3


def test_trainer_gets_new_term(facts: dict[str, Any]) -> None:
    assert facts["weights"] == {
        "accuracy_reward": 1.0, "location_reward": 0.8, "type_reward": 0.6, "brevity_reward": 0.3, "format_reward": 0.5,
    }  # fmt: skip


def test_rollouts_show_gated_term(facts: dict[str, Any]) -> None:
    brevity = {said: terms["brevity"] for said, terms in facts["scores"].items()}
    assert brevity == {
        "All is even. No": 0.625, "All is even. Yes": 0.0,
        "All of it is even and clean. No": 0.125, "All of it is even and clean. Yes": 0.0,
    }  # fmt: skip
    assert facts["scores"]["All is even. No"]["reward"] == pytest.approx(1 + 0.8 + 0.6 + 0.3 * 0.625)


def test_charts_show_new_term(facts: dict[str, Any]) -> None:
    assert "rewards/brevity_reward/mean" in facts["header"]
    assert facts["figures"] == "rewards/brevity_reward/mean"
    assert facts["plotted"] == "step,value\n1,0.125\n2,0.25\n"
    assert facts["charts"]["Brevity"] == ["R_acc · R_brevity, few words", "0", "1", "steps 1 to 2: 0.125 to 0.25"]
