"""`make learn`: checks that training teaches, on a tiny model that starts from random weights.

Pre-training (:mod:`train.pretrain`) gives the model the skills of a real backbone: to see and to point. `sft` teaches
it the form of an inspection from Indus-CoT trajectories. `grpo` teaches it when to look closer and what to answer. Each
step trains on its own categories, and every policy is tested on further categories, over several seeds. There are two
control arms: one learns only the verdicts, without tools; the other continues the same SFT model with `grpo` for as
many steps, but its calls are not answered. The result of a seed is cached until code or parameters change, so an
interrupted run continues with the next seed.
"""

import argparse
import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from hashlib import sha256
from pathlib import Path
from typing import Any, NamedTuple

import cv2
import numpy as np

from cot_builder.inspection.parsing import add_placeholder_thought
from cot_builder.inspection.rendering import prompt
from cot_builder.params import Params, load_params
from cot_builder.progress import console, track
from cot_builder.storage.images import encode_png
from cot_builder.storage.output import write_text
from cot_builder.storage.workspace import Workspace
from schemas.errors import IndusCotError
from train import examine, pretrain, tiny
from train.examine import Grade
from train.guard import find_last_checkpoint
from train.lessons import CLOSER, ENOUGH, VIEW, Lesson, collect_vocabulary, draw_lessons, write_corpus
from train.model import load_model, load_processor
from train.surfaces import GRID, Size

PRETRAIN_CATEGORIES, SFT_CATEGORIES, GRPO_CATEGORIES, TEST_CATEGORIES = (
    range(1000, 1060),
    range(2000, 2040),
    range(3000, 3040),
    range(4000, 4030),
)
"""Categories of pre-training, SFT, GRPO and the test; they do not overlap."""
SFT_MIX: dict[Size, float] = {"none": 0.5, "small": 0.2, "large": 0.3}
"""Share of each defect size among the images of SFT."""
MIX: dict[Size, float] = {"none": 0.5, "small": 0.25, "large": 0.25}
"""Share of each defect size among the images of GRPO and the test."""
SFT_IMAGES, GRPO_IMAGES, TEST_IMAGES = 640, 480, 160
PRETRAIN_IMAGES, PRETRAIN_WHOLE_IMAGES, PRETRAIN_BATCH, VISIBILITY_IMAGES = 800, 1000, 32, 200
VISION_STEPS, VISION_RATE, LANGUAGE_STEPS, LANGUAGE_RATE = 150, 0.001, 150, 0.003
BACKBONE, VISIBILITY_FILE, RECIPE_FILE = "backbone", "seen.json", "made_by.json"
CODE_FOLDERS = ("train", "cot_builder/inspection", "schemas")
"""Folders whose code decides the result; a change in any of them invalidates all cached results."""
PHRASES = (
    "<location>[[", "]]</location>", "<type>", "</type>", "<answer>", "</answer>", ", ",
    '\n{"name": "crop", "arguments": {}}\n', CLOSER, ENOUGH,
    *(str(place) for place in range(0, 1001, GRID)),
)  # fmt: skip
"""Texts that become one token each, so that an inspection is short and each side of a box is a single decision."""
EXAM_BATCH = 64
ARMS = {
    "untrained": "not trained",
    "labels": "labels only, without tools",
    "sft": "SFT",
    "grpo_unanswered": "SFT, then GRPO without tools (calls unanswered)",
    "grpo": "SFT, then GRPO",
    "sft_sampled": "SFT, sampled",
    "grpo_sampled": "SFT, then GRPO, sampled",
}
STATISTICS: dict[str, examine.Statistic] = {
    "valid": examine.valid_share,
    "reward": examine.mean_reward,
    "balanced_accuracy": examine.balanced_accuracy,
    "balanced_accuracy_small": examine.balanced_accuracy_small,
    "normal": lambda grades: examine.accuracy(grades, "none"),
    "small": lambda grades: examine.accuracy(grades, "small"),
    "large": lambda grades: examine.accuracy(grades, "large"),
    "calls": examine.mean_calls,
}
CLAIMS = (
    ("SFT beats the untrained model", "reward", "sft", "untrained"),
    ("SFT beats the untrained model", "balanced_accuracy", "sft", "untrained"),
    ("GRPO beats SFT", "reward", "grpo", "sft"),
    ("GRPO beats SFT", "balanced_accuracy", "grpo", "sft"),
    ("GRPO beats SFT when sampled", "reward", "grpo_sampled", "sft_sampled"),
    ("GRPO beats SFT when sampled", "balanced_accuracy", "grpo_sampled", "sft_sampled"),
    ("GRPO with tools beats GRPO without, on small defects", "balanced_accuracy_small", "grpo", "grpo_unanswered"),
    ("GRPO with tools beats GRPO without", "balanced_accuracy", "grpo", "grpo_unanswered"),
)
"""Claims that must hold, as (claim, statistic, arm, compared arm): the whole interval of the difference is above 0."""


class Policy(NamedTuple):
    """A model, and the conditions of its test."""

    folder: Path
    tools: bool = True
    """Whether its prompt describes the tools."""
    answered: bool = True
    """Whether its calls are answered."""
    temperature: float = 0.0


def learn(folder: Path, seeds: int, processes: int, reports: Path, settings: Sequence[str] = ()) -> dict[str, Any]:
    """Train and examine every seed that has no cached result, and write ``learn.json``.

    Results of other parameters or other code are deleted and computed again.

    Args:
        folder: Holds the models and the result of each seed.
        seeds: Number of seeds.
        processes: Number of seeds that run in parallel, each on one thread.
        reports: Folder of the report.
        settings: ``section.key=value``; they override the profile ``learn``.

    Returns:
        The content of ``learn.json``.
    """
    started = time.monotonic()
    _pin_settings(folder, settings)
    made_by = make_recipe(settings)
    for place in (folder / BACKBONE, *(_result_path(folder, seed).parent for seed in range(seeds))):
        _clear_if_outdated(place, made_by)
    pretrain_backbone(folder, min(processes, os.cpu_count() or 1))
    waiting = [seed for seed in range(seeds) if not _result_path(folder, seed).is_file()]
    running: list[subprocess.Popen[bytes]] = []
    environment = {
        **os.environ,
        "OMP_NUM_THREADS": "1",
        "TRL_EXPERIMENTAL_SILENCE": "1",
        "TOKENIZERS_PARALLELISM": "false",
    }
    while waiting or running:
        while waiting and len(running) < processes:
            command = [sys.executable, "-m", "train.learn", "--folder", str(folder), "--only", str(waiting.pop(0))]
            command += [word for setting in settings for word in ("--set", setting)]
            running.append(subprocess.Popen(command, env=environment))
        first = running.pop(0)
        if first.wait():
            for other in running:
                other.terminate()
            raise SystemExit(first.returncode)
    found = summarise([json.loads(_result_path(folder, seed).read_text("utf-8")) for seed in range(seeds)])
    found["seen"] = json.loads((folder / BACKBONE / VISIBILITY_FILE).read_text("utf-8"))
    found["seconds"] = round(time.monotonic() - started)
    write_text(reports / "learn.json", json.dumps(found, indent=1) + "\n")
    return found


def _pin_settings(folder: Path, settings: Sequence[str]) -> None:
    """Record the settings in ``folder``, and refuse a folder that was started with other settings.

    Raises:
        IndusCotError: ``folder`` was started with other settings; a setting is unknown.
    """
    load_params("learn", settings)
    kept = folder / "settings.json"
    if kept.is_file() and json.loads(kept.read_text("utf-8")) != list(settings):
        raise IndusCotError(
            f"{folder} was started with other settings, {kept.read_text('utf-8').strip()}; choose another --folder, or "
            "delete this one"
        )
    folder.mkdir(parents=True, exist_ok=True)
    write_text(kept, json.dumps(list(settings)) + "\n")


def make_recipe(settings: Sequence[str]) -> str:
    """Return everything that decides the result, as JSON: the parameters, and a hash of the code."""
    code = sha256()
    for path in sorted(
        path for part in CODE_FOLDERS for path in Path(part).rglob("*") if path.suffix in (".py", ".yaml")
    ):
        code.update(f"{path}\0{path.stat().st_size}\0".encode() + path.read_bytes())
    params = load_params("learn", settings).model_dump(mode="json", include={"draft", "train", "sft", "grpo"})
    return json.dumps({"code": code.hexdigest(), "params": params})


def _clear_if_outdated(place: Path, made_by: str) -> None:
    """Empty a folder that another recipe made, and print a notice."""
    kept = place / RECIPE_FILE
    if kept.is_file() and kept.read_text("utf-8") == made_by:
        return
    if place.is_dir():
        console.print(f"{place}: made by other code or parameters; starting over", highlight=False)
        shutil.rmtree(place)
    place.mkdir(parents=True)
    write_text(kept, made_by)


def pretrain_backbone(folder: Path, threads: int) -> None:
    """Pre-train, once, the model that every seed starts from, and measure which defects its vision tower detects."""
    import torch

    target = folder / BACKBONE
    if (target / VISIBILITY_FILE).is_file():
        return
    torch.set_num_threads(threads)
    # Repeat the phrases: a word becomes a token only if it is frequent in the texts.
    known = [*collect_vocabulary(draw_lessons(SFT_CATEGORIES, 80, SFT_MIX, (0, 0))), *pretrain.list_phrases() * 50]
    tiny.build(target, known, 0, tiny.list_systems(), PHRASES)
    model, processor = load_model(str(target)), load_processor(str(target))
    pretrain.initialise_positions(model, processor)
    rng = np.random.default_rng(0)
    views = list(
        track(pretrain.draw_views(processor, PRETRAIN_CATEGORIES, PRETRAIN_IMAGES, rng), "views", 3 * PRETRAIN_IMAGES)
    )
    views += track(
        pretrain.draw_whole_views(processor, PRETRAIN_CATEGORIES, PRETRAIN_WHOLE_IMAGES, rng),
        "whole views",
        PRETRAIN_WHOLE_IMAGES,
    )
    reader = pretrain.make_cell_head(model, 0)
    for _ in track(
        pretrain.train_vision(model, processor, reader, views, VISION_STEPS, PRETRAIN_BATCH, VISION_RATE, 0),
        "see",
        VISION_STEPS,
    ):
        pass
    seen = pretrain.measure_visibility(model, processor, reader, TEST_CATEGORIES, VISIBILITY_IMAGES)
    describable = [view for view in views if pretrain.is_describable(view)]
    for _ in track(
        pretrain.train_language(model, processor, describable, LANGUAGE_STEPS, PRETRAIN_BATCH, LANGUAGE_RATE, 0),
        "speak",
        LANGUAGE_STEPS,
    ):
        pass
    model.save_pretrained(target)
    write_text(target / VISIBILITY_FILE, json.dumps(seen) + "\n")


def run_seed(folder: Path, seed: int, settings: Sequence[str] = ()) -> None:
    """Train and examine one seed.

    Raises:
        IndusCotError: code or parameters changed since the run started.
    """
    import torch

    torch.set_num_threads(1)
    cv2.setNumThreads(1)
    place = _result_path(folder, seed).parent
    if (place / RECIPE_FILE).is_file() and (place / RECIPE_FILE).read_text("utf-8") != make_recipe(settings):
        raise IndusCotError(f"{place}: code or parameters changed since the run started; run `make learn` again")
    own = (f"run.seed={seed}", f"train.model={(folder / BACKBONE).absolute()}")
    params = load_params("learn", [*settings, *own])
    workspace = Workspace(place)
    if not workspace.indus_cot.is_dir():
        write_corpus(workspace.indus_cot, draw_lessons(SFT_CATEGORIES, SFT_IMAGES, SFT_MIX, (seed, 1)), seed)
    fine_tune(params, workspace)
    labels = Workspace(place / "labels")
    if not labels.indus_cot.exists():
        labels.data.mkdir(parents=True)
        labels.indus_cot.symlink_to(workspace.indus_cot.absolute(), target_is_directory=True)
    fine_tune(params.model_copy(update={"train": params.train.model_copy(update={"target": "labels"})}), labels)
    asked = draw_lessons(GRPO_CATEGORIES, GRPO_IMAGES, MIX, (seed, 2))
    curve = reinforce(params, workspace.sft, workspace, asked)
    unanswered = Workspace(place / "unanswered")
    reinforce(_with_max_calls(params, 0), workspace.sft, unanswered, asked)
    tests = draw_lessons(TEST_CATEGORIES, TEST_IMAGES, MIX, (seed, 3))
    models = {
        "untrained": Policy(folder / BACKBONE),
        "labels": Policy(labels.sft, tools=False),
        "sft": Policy(workspace.sft),
        "grpo_unanswered": Policy(unanswered.grpo, answered=False),
        "grpo": Policy(workspace.grpo),
        "sft_sampled": Policy(workspace.sft, temperature=params.grpo.temperature),
        "grpo_sampled": Policy(workspace.grpo, temperature=params.grpo.temperature),
    }
    grades = {
        name: examine_policy(one, tests, params, seed) for name, one in track(models.items(), "exams", len(models))
    }
    found = {
        "seed": seed,
        "curve": curve,
        "grades": {name: [asdict(one) for one in all_] for name, all_ in grades.items()},
    }
    write_text(_result_path(folder, seed), json.dumps(found) + "\n")


def fine_tune(params: Params, workspace: Workspace) -> None:
    """Run the stage `sft`, unless its model exists."""
    from train.sft import sft

    if not workspace.sft.is_dir():
        sft(params, workspace)


def _with_max_calls(params: Params, most: int) -> Params:
    """Return the parameters with another limit on answered calls per inspection, which may be 0."""
    return params.model_copy(update={"draft": params.draft.model_copy(update={"max_calls": most})})


def reinforce(params: Params, start: Path, workspace: Workspace, asked: Sequence[Lesson]) -> list[dict[str, float]]:
    """Run GRPO as the stage does, from the SFT model in ``start``, and return its log, one entry per step."""
    from datasets import Dataset, Features, Json, Value
    from datasets import Image as Picture

    from train.grpo import CHECKPOINTS, FIGURE_KEYS, PLOTTED_COLUMNS, TERM_COLUMNS, build_trainer
    from train.record import make_recorder

    target = workspace.grpo
    curve = target / "curve.json"
    if not curve.is_file():
        rows = Dataset.from_list(
            [
                {
                    "id": lesson.name,
                    "prompt": prompt(lesson.category, VIEW),
                    "image": {"bytes": encode_png(lesson.surface.pixels), "path": None},
                }
                for lesson in asked
            ],
            features=Features({"id": Value("string"), "prompt": Json(), "image": Picture()}),
        )
        truth = {lesson.name: lesson.verdict.model_dump(include={"answer", "boxes", "defect_type"}) for lesson in asked}
        processor = load_processor(str(start))
        trainer = build_trainer(params, str(start), processor, rows, truth, {}, target)
        trainer.add_callback(make_recorder("grpo", workspace.reports, PLOTTED_COLUMNS, TERM_COLUMNS))
        checkpoint = find_last_checkpoint(target / CHECKPOINTS)
        trainer.train(resume_from_checkpoint=str(checkpoint) if checkpoint else None)
        trainer.save_model(str(target))
        logs = [entry for entry in trainer.state.log_history if "reward" in entry]
        steps = [
            {name: entry[key] for name, key in FIGURE_KEYS.items() if entry.get(key) is not None} for entry in logs
        ]
        write_text(curve, json.dumps(steps) + "\n")
    found: list[dict[str, float]] = json.loads(curve.read_text("utf-8"))
    return found


def examine_policy(policy: Policy, tests: Sequence[Lesson], params: Params, seed: int) -> list[Grade]:
    """Examine one policy on the test images."""
    import torch

    torch.manual_seed(seed)
    model, processor = load_model(str(policy.folder)), load_processor(str(policy.folder))
    done = examine.inspect(
        model,
        processor,
        tests,
        temperature=policy.temperature,
        tools=policy.tools,
        calls=params.draft.max_calls if policy.answered else 0,
        at_once=EXAM_BATCH,
    )
    if not policy.tools:
        done = [one._replace(completion=add_placeholder_thought(one.completion)) for one in done]
    return examine.grade(tests, done, model, processor, params.grpo.reward, EXAM_BATCH)


def summarise(results: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Compute every statistic of every arm, and every claim, with 95 % intervals."""
    grades = {name: [[Grade(**one) for one in result["grades"][name]] for result in results] for name in ARMS}

    def row(values: tuple[float, float, float]) -> dict[str, float]:
        return dict(zip(("mean", "low", "high"), (round(value, 4) for value in values), strict=True))

    arms = {
        name: {key: row(examine.bootstrap_interval(statistic, grades[name])) for key, statistic in STATISTICS.items()}
        for name in ARMS
    }
    claims = []
    for words, key, after, before in CLAIMS:
        values = examine.bootstrap_interval(STATISTICS[key], grades[after], grades[before])
        claims.append({"claim": words, "statistic": key, **row(values), "holds": values[1] > 0})
    least = arms["sft"]["valid"]["mean"]
    claims.append(
        {"claim": "SFT writes valid trajectories", "statistic": "valid", **arms["sft"]["valid"], "holds": least >= 0.95}
    )
    return {
        "seeds": len(results),
        "images": TEST_IMAGES,
        "names": ARMS,
        "arms": arms,
        "claims": claims,
        "curves": [result["curve"] for result in results],
    }


def _result_path(folder: Path, seed: int) -> Path:
    return folder / f"seed-{seed}" / "result.json"


def main() -> None:
    """Run the command line."""
    parser = argparse.ArgumentParser(prog="python -m train.learn", description=__doc__)
    parser.add_argument("--folder", type=Path, default=Path("models/learn"), help="folder for models and results")
    parser.add_argument("--reports", type=Path, default=Path("reports"), help="folder for learn.json")
    parser.add_argument("--seeds", type=int, default=3, help="number of seeds")
    parser.add_argument("--processes", type=int, default=3, help="seeds to run in parallel, each on one thread")
    parser.add_argument("--set", action="append", default=[], help="section.key=value; overrides profiles/learn.yaml")
    parser.add_argument("--only", type=int, help="train and examine only this seed, without a report")
    given = parser.parse_args()
    # Set this before torch is loaded: waiting threads that spin would take time from the other processes.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    try:
        if given.only is not None:
            run_seed(given.folder, given.only, given.set)
            return
        found = learn(given.folder, given.seeds, given.processes, given.reports, given.set)
    except IndusCotError as error:
        raise SystemExit(str(error)) from None
    for claim in found["claims"]:
        spread = f"{claim['mean']:.3f} [{claim['low']:.3f}, {claim['high']:.3f}]"
        held = "holds" if claim["holds"] else "does not hold"
        console.print(f"{claim['claim']}, {claim['statistic'].replace('_', ' ')}: {spread} {held}", highlight=False)


if __name__ == "__main__":
    main()
