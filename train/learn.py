"""`make learn`: proof that training teaches. A tiny model, from nothing, on categories it is not tested on.

It learns to see and to point on categories of its own (:mod:`train.pretrain`), as real backbones can;
`sft` teaches it the form of an inspection from Indus-CoT trajectories, `grpo` when to look and what to say. Each is
measured on categories that none of them saw, over several seeds. Of two control arms, one learns the verdicts alone,
without tools; the other is practised by `grpo` just as long, from the same SFT, but none of its calls is answered. What
a seed found is kept, until code or parameters change: a run that was stopped goes on with the next one.
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
from train.guard import last_whole
from train.lessons import CLOSER, ENOUGH, VIEW, Lesson, lessons, vocabulary, write_corpus
from train.model import load_model, load_processor
from train.surfaces import GRID, Size

PRETRAINING, TAUGHT, PRACTISED, TESTED = range(1000, 1060), range(2000, 2040), range(3000, 3040), range(4000, 4030)
"""Categories: of the backbone, of SFT, of GRPO, of the test. No two have one in common."""
TAUGHT_MIX: dict[Size, float] = {"none": 0.5, "small": 0.2, "large": 0.3}
MIX: dict[Size, float] = {"none": 0.5, "small": 0.25, "large": 0.25}
LESSONS, PROMPTS, TESTS = 640, 480, 160
IMAGES, WHOLES, BATCH, LOOKED_AT = 800, 1000, 32, 200
SEE_STEPS, SEE_RATE, SPEAK_STEPS, SPEAK_RATE = 150, 0.001, 150, 0.003
BACKBONE, SEEN, MADE_BY = "backbone", "seen.json", "made_by.json"
CODE = ("train", "cot_builder/inspection", "schemas")
"""What learning depends on: where any of it changes, everything is made anew."""
PHRASES = (
    "<location>[[", "]]</location>", "<type>", "</type>", "<answer>", "</answer>", ", ",
    '\n{"name": "crop", "arguments": {}}\n', CLOSER, ENOUGH,
    *(str(place) for place in range(0, 1001, GRID)),
)  # fmt: skip
"""A token each, so that an inspection is short, and a side of a box is one decision."""
AT_ONCE = 64
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
    "valid": examine.valid,
    "reward": examine.mean_reward,
    "balanced_accuracy": examine.balanced_accuracy,
    "balanced_accuracy_small": examine.balanced_accuracy_small,
    "normal": lambda grades: examine.accuracy(grades, "none"),
    "small": lambda grades: examine.accuracy(grades, "small"),
    "large": lambda grades: examine.accuracy(grades, "large"),
    "calls": examine.calls,
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
"""What must hold: the statistic of the first arm above that of the second, with its whole interval."""


class Policy(NamedTuple):
    """A model, and how it is examined."""

    folder: Path
    tools: bool = True
    """Whether it is told of tools."""
    answered: bool = True
    """Whether its calls are."""
    temperature: float = 0.0


def learn(folder: Path, seeds: int, processes: int, reports: Path, settings: Sequence[str] = ()) -> dict[str, Any]:
    """Train and examine every seed that has not been, and write ``learn.json`` and ``learn.html``.

    What other parameters or other code made is made anew.

    Args:
        folder: Keeps what each seed trained and found.
        seeds: How many.
        processes: Seeds at a time, each on one thread.
        reports: Where the report goes.
        settings: ``section.key=value``, over those of the profile ``learn``.
    """
    started = time.monotonic()
    _begin(folder, settings)
    made_by = recipe(settings)
    for place in (folder / BACKBONE, *(_result(folder, seed).parent for seed in range(seeds))):
        _keep_apart(place, made_by)
    backbone(folder, min(processes, os.cpu_count() or 1))
    waiting = [seed for seed in range(seeds) if not _result(folder, seed).is_file()]
    running: list[subprocess.Popen[bytes]] = []
    alone = {**os.environ, "OMP_NUM_THREADS": "1", "TRL_EXPERIMENTAL_SILENCE": "1", "TOKENIZERS_PARALLELISM": "false"}
    while waiting or running:
        while waiting and len(running) < processes:
            command = [sys.executable, "-m", "train.learn", "--folder", str(folder), "--only", str(waiting.pop(0))]
            command += [word for setting in settings for word in ("--set", setting)]
            running.append(subprocess.Popen(command, env=alone))
        first = running.pop(0)
        if first.wait():
            for other in running:
                other.terminate()
            raise SystemExit(first.returncode)
    found = report([json.loads(_result(folder, seed).read_text("utf-8")) for seed in range(seeds)])
    found["seen"] = json.loads((folder / BACKBONE / SEEN).read_text("utf-8"))
    found["seconds"] = round(time.monotonic() - started)
    write_text(reports / "learn.json", json.dumps(found, indent=1) + "\n")
    return found


def _begin(folder: Path, settings: Sequence[str]) -> None:
    """Keep what is learned with other settings apart.

    Raises:
        IndusCotError: ``folder`` was begun with others; one is not known.
    """
    load_params("learn", settings)
    kept = folder / "settings.json"
    if kept.is_file() and json.loads(kept.read_text("utf-8")) != list(settings):
        raise IndusCotError(
            f"{folder} was begun with other settings, {kept.read_text('utf-8').strip()}; name another --folder, or "
            "delete it"
        )
    folder.mkdir(parents=True, exist_ok=True)
    write_text(kept, json.dumps(list(settings)) + "\n")


def recipe(settings: Sequence[str]) -> str:
    """What decides on what is learned, as JSON: the parameters, and a hash of the code."""
    code = sha256()
    for path in sorted(path for part in CODE for path in Path(part).rglob("*") if path.suffix in (".py", ".yaml")):
        code.update(f"{path}\0{path.stat().st_size}\0".encode() + path.read_bytes())
    params = load_params("learn", settings).model_dump(mode="json", include={"draft", "train", "sft", "grpo"})
    return json.dumps({"code": code.hexdigest(), "params": params})


def _keep_apart(place: Path, made_by: str) -> None:
    """Empty a folder that was made by another recipe, and say so."""
    kept = place / MADE_BY
    if kept.is_file() and kept.read_text("utf-8") == made_by:
        return
    if place.is_dir():
        console.print(f"{place}: made by other code or parameters; made anew", highlight=False)
        shutil.rmtree(place)
    place.mkdir(parents=True)
    write_text(kept, made_by)


def backbone(folder: Path, threads: int) -> None:
    """Pre-train the model that every seed begins with, once, and measure what its tower sees at all."""
    import torch

    target = folder / BACKBONE
    if (target / SEEN).is_file():
        return
    torch.set_num_threads(threads)
    # A word is a token only if it is frequent where the vocabulary is learned.
    known = [*vocabulary(lessons(TAUGHT, 80, TAUGHT_MIX, (0, 0))), *pretrain.vocabulary() * 50]
    tiny.build(target, known, 0, tiny.systems(), PHRASES)
    model, processor = load_model(str(target)), load_processor(str(target))
    pretrain.lay_out(model, processor)
    rng = np.random.default_rng(0)
    views = list(track(pretrain.views(processor, PRETRAINING, IMAGES, rng), "views", 3 * IMAGES))
    views += track(pretrain.wholes(processor, PRETRAINING, WHOLES, rng), "whole views", WHOLES)
    reader = pretrain.new_reader(model, 0)
    for _ in track(pretrain.see(model, processor, reader, views, SEE_STEPS, BATCH, SEE_RATE, 0), "see", SEE_STEPS):
        pass
    seen = pretrain.visibility(model, processor, reader, TESTED, LOOKED_AT)
    told = [view for view in views if pretrain.speakable(view)]
    for _ in track(pretrain.speak(model, processor, told, SPEAK_STEPS, BATCH, SPEAK_RATE, 0), "speak", SPEAK_STEPS):
        pass
    model.save_pretrained(target)
    write_text(target / SEEN, json.dumps(seen) + "\n")


def one(folder: Path, seed: int, settings: Sequence[str] = ()) -> None:
    """Train and examine one seed.

    Raises:
        IndusCotError: the code was changed since the run began.
    """
    import torch

    torch.set_num_threads(1)
    cv2.setNumThreads(1)
    place = _result(folder, seed).parent
    if (place / MADE_BY).is_file() and (place / MADE_BY).read_text("utf-8") != recipe(settings):
        raise IndusCotError(f"{place}: code or parameters were changed since the run began; start `make learn` again")
    own = (f"run.seed={seed}", f"train.model={(folder / BACKBONE).absolute()}")
    params = load_params("learn", [*settings, *own])
    workspace = Workspace(place)
    if not workspace.indus_cot.is_dir():
        write_corpus(workspace.indus_cot, lessons(TAUGHT, LESSONS, TAUGHT_MIX, (seed, 1)), seed)
    fine_tune(params, workspace)
    labels = Workspace(place / "labels")
    if not labels.indus_cot.exists():
        labels.data.mkdir(parents=True)
        labels.indus_cot.symlink_to(workspace.indus_cot.absolute(), target_is_directory=True)
    fine_tune(params.model_copy(update={"train": params.train.model_copy(update={"target": "labels"})}), labels)
    asked = lessons(PRACTISED, PROMPTS, MIX, (seed, 2))
    curve = practise(params, workspace.sft, workspace, asked)
    unanswered = Workspace(place / "unanswered")
    practise(_calls(params, 0), workspace.sft, unanswered, asked)
    tests = lessons(TESTED, TESTS, MIX, (seed, 3))
    models = {
        "untrained": Policy(folder / BACKBONE),
        "labels": Policy(labels.sft, tools=False),
        "sft": Policy(workspace.sft),
        "grpo_unanswered": Policy(unanswered.grpo, answered=False),
        "grpo": Policy(workspace.grpo),
        "sft_sampled": Policy(workspace.sft, temperature=params.grpo.temperature),
        "grpo_sampled": Policy(workspace.grpo, temperature=params.grpo.temperature),
    }
    grades = {name: exam(one, tests, params, seed) for name, one in track(models.items(), "exams", len(models))}
    found = {
        "seed": seed,
        "curve": curve,
        "grades": {name: [asdict(one) for one in all_] for name, all_ in grades.items()},
    }
    write_text(_result(folder, seed), json.dumps(found) + "\n")


def fine_tune(params: Params, workspace: Workspace) -> None:
    """The stage `sft`, unless it was done."""
    from train.sft import sft

    if not workspace.sft.is_dir():
        sft(params, workspace)


def _calls(params: Params, most: int) -> Params:
    """The same with so many answered calls an inspection, also none."""
    return params.model_copy(update={"draft": params.draft.model_copy(update={"max_calls": most})})


def practise(params: Params, start: Path, workspace: Workspace, asked: Sequence[Lesson]) -> list[dict[str, float]]:
    """GRPO from what SFT left in ``start``, as the stage does it; what it logged, a step each."""
    from datasets import Dataset, Features, Json, Value
    from datasets import Image as Picture

    from train.grpo import CHECKPOINTS, FIGURES, PLOTTED, TERM_COLUMNS, build
    from train.record import recorder

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
        trainer = build(params, str(start), processor, rows, truth, {}, target)
        trainer.add_callback(recorder("grpo", workspace.reports, PLOTTED, TERM_COLUMNS))
        checkpoint = last_whole(target / CHECKPOINTS)
        trainer.train(resume_from_checkpoint=str(checkpoint) if checkpoint else None)
        trainer.save_model(str(target))
        logs = [entry for entry in trainer.state.log_history if "reward" in entry]
        steps = [{name: entry[key] for name, key in FIGURES.items() if entry.get(key) is not None} for entry in logs]
        write_text(curve, json.dumps(steps) + "\n")
    found: list[dict[str, float]] = json.loads(curve.read_text("utf-8"))
    return found


def exam(policy: Policy, tests: Sequence[Lesson], params: Params, seed: int) -> list[Grade]:
    """Examine one policy."""
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
        at_once=AT_ONCE,
    )
    if not policy.tools:
        done = [one._replace(completion=add_placeholder_thought(one.completion)) for one in done]
    return examine.grade(tests, done, model, processor, params.grpo.reward, AT_ONCE)


def report(results: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Every statistic of every arm, and every claim, with 95 % intervals."""
    grades = {name: [[Grade(**one) for one in result["grades"][name]] for result in results] for name in ARMS}

    def row(values: tuple[float, float, float]) -> dict[str, float]:
        return dict(zip(("mean", "low", "high"), (round(value, 4) for value in values), strict=True))

    arms = {
        name: {key: row(examine.interval(statistic, grades[name])) for key, statistic in STATISTICS.items()}
        for name in ARMS
    }
    claims = []
    for words, key, after, before in CLAIMS:
        values = examine.interval(STATISTICS[key], grades[after], grades[before])
        claims.append({"claim": words, "statistic": key, **row(values), "holds": values[1] > 0})
    least = arms["sft"]["valid"]["mean"]
    claims.append(
        {"claim": "SFT writes valid trajectories", "statistic": "valid", **arms["sft"]["valid"], "holds": least >= 0.95}
    )
    return {
        "seeds": len(results),
        "images": TESTS,
        "names": ARMS,
        "arms": arms,
        "claims": claims,
        "curves": [result["curve"] for result in results],
    }


def _result(folder: Path, seed: int) -> Path:
    return folder / f"seed-{seed}" / "result.json"


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(prog="python -m train.learn", description=__doc__)
    parser.add_argument("--folder", type=Path, default=Path("models/learn"), help="keeps what each seed trained")
    parser.add_argument("--reports", type=Path, default=Path("reports"))
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--processes", type=int, default=3, help="seeds at a time, each on one thread")
    parser.add_argument("--set", action="append", default=[], help="section.key=value, over profiles/learn.yaml")
    parser.add_argument("--only", type=int, help="train and examine this seed alone, without a report")
    given = parser.parse_args()
    # Read when torch is loaded: threads that spin while they wait would take the other processes' time.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    try:
        if given.only is not None:
            one(given.folder, given.only, given.set)
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
