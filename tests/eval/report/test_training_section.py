"""Tests the report's section on trainings: curves, figures, rollouts, and failed claims."""

import json
import re
import shutil
from pathlib import Path

import pytest
from PIL import Image

from cot_builder.storage.workspace import Workspace, file_hash
from eval.report.report import report
from schemas.errors import IndusCotError
from tests.helpers.report_page import Tables, Visit
from tests.helpers.small_corpus import HOSTILE, params
from train import record, rollouts

LOGS = 400


@pytest.fixture(scope="module")
def trained(workspace: Workspace, tmp_path_factory: pytest.TempPathFactory) -> Workspace:
    """The workspace with the outputs of trainings and `make learn`."""
    root = tmp_path_factory.mktemp("trained") / "copy"
    shutil.copytree(workspace.root, root)
    made = Workspace(root)
    steps = range(1, LOGS + 1)
    record.write_curve(
        [{"step": step, "loss": 3 - step / LOGS, "mean_token_accuracy": 0.5} for step in steps],
        made.reports / "sft" / "curve.csv",
    )
    record.write_metrics({"trajectories": 22, "loss": 2.0, "seconds": 12.5}, made.reports / "sft.json")
    record.write_curve(
        [{"step": step, "loss": 0.0, "reward": -0.5 + step / 4, "kl": 0.0, "valid": 0.75} for step in (1, 2, 3)],
        made.reports / "grpo" / "curve.csv",
    )
    both = {"reward": -0.25, "confidence_gain": None}, {"reward": 0.25, "confidence_gain": 0.0012}
    record.write_metrics({"steps": 3, "first": both[0], "last": both[1]}, made.reports / "grpo.json")
    image = Image.new("RGB", (400, 300), "grey")
    asked = [{"role": "user", "content": [{"type": "image", "image": image}, {"type": "text", "text": "Inspect it."}]}]
    for step in (1, 2, 3):
        done = [
            {"role": "assistant", "content": f"{HOSTILE} {'long ' * 400}of step {step}", "tool_calls": []},
            {"role": "tool", "content": [{"type": "image", "image": image}, {"type": "text", "text": "x" * 300}]},
        ]
        kept = [
            rollouts.rollout_to_json(f"row-{n}", asked, done, "No", {"reward": step / 4, "format": -1.0})
            for n in range(8)
        ]
        rollouts.save_step(made.grpo / "rollouts", step, kept)
    values = {"mean": 0.5, "low": 0.25, "high": 0.75}
    (made.reports / "learn.json").write_text(
        json.dumps(
            {
                "seeds": 3,
                "arms": {"sft": {"reward": values, "valid": values}, "grpo": {"reward": values, "valid": values}},
                "claims": [
                    {"claim": "GRPO beats SFT", "statistic": "balanced_accuracy", **values, "holds": True},
                    {"claim": "tools beat none", "statistic": "reward", **values, "low": -0.1, "holds": False},
                ],
                "curves": [[{"reward": seed / 10 + step / 100} for step in range(5)] for seed in range(3)],
                "seen": {"small, global view": 0.52},
            }
        )
    )
    report(params(), made)
    return made


def test_no_training_no_section(page):
    assert '"#sec-training"' not in page and 'id="sec-training"' not in page


def test_section_shows_trainings(trained):
    page = (trained.reports / "index.html").read_text("utf-8")
    tables = Tables(page).rows_by_caption
    assert tables["Fine-tuning in figures"] == [["trajectories", "22"], ["loss", "2"], ["seconds", "12.5"]]
    assert tables["Reinforcement in figures"] == [["reward", "-0.25", "0.25"], ["confidence gain", "–", "0.0012"]]
    described = dict(re.findall(r'<desc id="(\w+-\d+)-d">(.*?)</desc>', page))
    assert described["grpo-1"] == "steps 1 to 3: -0.25 to 0.25"
    assert described["learn-1"] == "steps 1 to 5: 0 to 0.04; 0.1 to 0.14; 0.2 to 0.24"
    drawn = [points.split() for points in re.findall(r'<polyline points="([^"]*)" class="line"', page)]
    assert len(drawn[0]) == 134, "400 steps, three at a time"
    inside = [tuple(map(float, point.split(","))) for points in drawn for point in points]
    assert all(40 <= x <= 324 and 8 <= y <= 112 for x, y in inside)
    first, flat = drawn[0], drawn[1]
    assert float(first[0].split(",")[1]) < float(first[-1].split(",")[1]), "the loss falls"
    assert {point.split(",")[1] for point in flat} == {"60.0"}
    assert "of step 1" in page and "of step 3" in page and "of step 2" not in page
    assert page.count('class="rollout"') == 8
    assert HOSTILE not in page and page.count("<script") == 2


def test_section_shows_failed_claims(trained):
    page = (trained.reports / "index.html").read_text("utf-8")
    tables = Tables(page).rows_by_caption
    assert tables["Claims"] == [
        ["GRPO beats SFT", "balanced accuracy", "0.500 [0.250, 0.750]", "yes"],
        ["tools beat none", "reward", "0.500 [-0.100, 0.750]", "no"],
    ]
    assert tables["Each policy"][1] == ["grpo", "0.500 [0.250, 0.750]", "0.500 [0.250, 0.750]"]


def test_other_corpus_is_flagged(trained, tmp_path):
    copy = Workspace(Path(shutil.copytree(trained.root, tmp_path / "copy")))
    shards = {path.name: file_hash(path) for path in copy.indus_cot.glob("data/*.parquet")}
    manifest = {"seconds": 1.0, "counts": {}, "left_out": {}, "versions": {}}

    def spoken(inputs: dict[str, str]) -> str:
        copy.sft.mkdir(parents=True, exist_ok=True)
        (copy.sft / "manifest.json").write_text(json.dumps({**manifest, "stage": "sft", "inputs": inputs}))
        report(params(), copy)
        return (copy.reports / "index.html").read_text("utf-8")

    assert "trained on another corpus" not in spoken(shards)
    assert "trained on another corpus" in spoken(shards | dict.fromkeys(shards, "0" * 64))


def test_running_and_damaged_training(trained, tmp_path):
    copy = Workspace(Path(shutil.copytree(trained.root, tmp_path / "copy")))
    (copy.reports / "sft.json").unlink()
    report(params(), copy)
    page = (copy.reports / "index.html").read_text("utf-8")
    assert "there are no final figures yet" in page and 'id="sft-1-d"' in page
    (copy.reports / "sft" / "curve.csv").write_text("step,loss\n1,two\n")
    with pytest.raises(IndusCotError, match=r"sft/curve\.csv: invalid curve .* run `indus-cot sft` again"):
        report(params(), copy)


@pytest.mark.parametrize("width", [1280, 390])
def test_section_fits_window(chromium, trained, width):
    context = chromium.new_context(viewport={"width": width, "height": 844})
    visit = Visit(context, trained.reports / "index.html")
    wide = visit.page.evaluate(
        """() => {
          for (const item of document.querySelectorAll("details")) item.open = true;
          return document.documentElement.scrollWidth;
        }"""
    )
    assert wide == width
    assert visit.page.locator(".rollout img").count() == 16
    assert visit.page.evaluate("[...document.querySelectorAll('.rollout img')].every(i => i.naturalWidth > 0)")
    assert visit.external_requests() == [] and visit.errors == []
    context.close()
