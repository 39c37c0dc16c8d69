"""Builds a small corpus with everything that the report reads.

The real stages pull, select and assemble it. The drafts are written here, so that their thoughts can be hostile.
"""

import csv
import hashlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

import cv2
import numpy as np

from cot_builder.inspection.toolbox import Toolbox
from cot_builder.inspection.tools import TOOLBOX_VERSION
from cot_builder.params import Params, PullSet, load_params
from cot_builder.stages.assemble import assemble
from cot_builder.stages.pull import pull
from cot_builder.stages.select import select
from cot_builder.storage.images import encode_png
from cot_builder.storage.output import stage_output, write_text
from cot_builder.storage.samples import SampleImages
from cot_builder.storage.shards import ShardWriter
from cot_builder.storage.workspace import Workspace
from cot_builder.teacher.gates import CORPUS_GATES, GATES
from schemas.patch import PATCH, PatchPair
from schemas.prior import PRIOR, NormalcyPrior
from schemas.sample import SAMPLE, Sample
from schemas.supervision import SUPERVISION, Supervision
from schemas.trajectory import (
    DRAFT,
    OBSERVATION,
    Draft,
    ObservationImage,
    ToolCall,
    Trajectory,
    Turn,
    Verdict,
    Violation,
)
from tests.helpers.paths import ROOT

HOSTILE = '<script>document.title = "owned"</script><img src="http://127.0.0.1:9/x.png" onerror="alert(1)"> & "quoted"'
CATEGORIES = ("widget", "flange", "bolt_head")
VIEWS = ("C1", "C2")
PER_GROUP = 2
SIZE = 160


def params(**report: int) -> Params:
    """Return the default parameters with two sets of the user's own images."""
    loaded = load_params(root=ROOT)
    sets = {
        "mine": PullSet(benchmark="folder", source="mine", role="train"),
        "held_out": PullSet(benchmark="folder", source="held_out", role="evaluate"),
    }
    return loaded.model_copy(update={"pull": sets, "report": loaded.report.model_copy(update=report)})


def build(root: Path, **stated: str) -> Workspace:
    """Create a workspace under ``root`` with the output of every stage, including gates.json, but without a report.

    ``stated`` are the licence fields of the set `mine` that its owner gives.
    """
    workspace, settings = Workspace(root), params()
    settings.pull["mine"] = settings.pull["mine"].model_copy(update=stated)
    # Give both sets a common category and a common image, so that `select` has something to report.
    _write_set(root / "mine", [*CATEGORIES, "gear"], 0)
    _write_set(root / "held_out", ["gears", "plate"], 1000)
    copied = root / "mine" / "widget" / "0.png"
    (root / "held_out" / "plate" / "1.png").write_bytes(copied.read_bytes())
    sources = {
        name: item.model_copy(update={"source": str(root / name / "parts.csv")}) for name, item in settings.pull.items()
    }
    settings = settings.model_copy(update={"pull": sources})
    for name in sources:
        pull(name, settings, workspace)
    select(settings, workspace)
    samples = SAMPLE.records(SAMPLE.read(workspace.select / "sample.parquet"))
    truth = {
        row.sample_id: row for row in SUPERVISION.records(SUPERVISION.read(workspace.select / "supervision.parquet"))
    }
    _write_prior(workspace)
    _write_patch(workspace, samples)
    _write_draft(workspace, samples, truth)
    assemble(settings, workspace)
    return workspace


def _write_set(folder: Path, categories: Sequence[str], seed: int) -> None:
    rows = []
    for category in categories:
        (folder / category).mkdir(parents=True)
        cases = [(view, bad) for view in VIEWS for bad in (False, True) for _ in range(PER_GROUP)]
        for number, (view, bad) in enumerate(cases):
            rng = np.random.default_rng([seed, number, *category.encode()])
            image = _part(rng)
            box = [int(value) for value in rng.integers(45, 90, 2)]
            if bad:
                cv2.line(image, (box[0], box[1]), (box[0] + 24, box[1] + 18), (20, 20, 30), 3)
            (folder / category / f"{number}.png").write_bytes(encode_png(image))
            rows.append(
                {
                    "image": f"{category}/{number}.png",
                    "label": "bad" if bad else "good",
                    "boxes": f"{box[0] - 3} {box[1] - 3} {box[0] + 28} {box[1] + 22}" if bad else "",
                    "type": ("scratch", "dent")[number % 2] if bad else "",
                    "category": category,
                    "view": view,
                }
            )
    with (folder / "parts.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)


def _part(rng: np.random.Generator) -> np.ndarray:
    image = np.full((SIZE, SIZE + 40, 3), 205, np.uint8)
    colour = tuple(int(value) for value in rng.integers(60, 170, 3))
    centre = tuple(int(value) for value in rng.integers(75, 100, 2))
    cv2.ellipse(image, centre, (62, int(rng.integers(38, 60))), int(rng.integers(180)), 0, 360, colour, -1)
    cv2.circle(image, centre, int(rng.integers(8, 18)), (230, 230, 230), -1)
    return np.clip(image + rng.normal(0, 5, image.shape), 0, 255).astype(np.uint8)


def _write_prior(workspace: Workspace) -> None:
    rows = [
        NormalcyPrior(
            prior_id=f"mine/{category}/{view}",
            source_set="mine",
            category=category,
            view=view,
            text=f"A sound {category} seen from {view} is an even ellipse with a pale hub & nothing <else>.",
            facts="{}",
            image_count=2,
            image_sha256=["0" * 64],
            author="measured",
            version="1",
        )
        for category in CATEGORIES
        for view in VIEWS
    ]
    with stage_output(workspace.prior, stage="prior", params={}, inputs={}) as output:
        PRIOR.write(PRIOR.frame(rows), output.path / "prior.parquet")
        output.counts["priors"] = len(rows)


def _write_patch(workspace: Workspace, samples: Sequence[Sample]) -> None:
    kinds: tuple[Literal["proposal", "hard_normal"], ...] = ("proposal", "hard_normal")
    rows = [
        PatchPair(
            patch_id=f"{sample.sample_id}#{number}",
            sample_id=sample.sample_id,
            kind=kind,
            box=(200 + 100 * number, 250, 500 + 100 * number, 600),
            rank=0,
            score=4.5,
            method="foreground",
            width=60,
            height=56,
            shard="local-00000.parquet",
            row=0,
            global_shard="global-00000.parquet",
            global_row=0,
        )
        for sample in samples
        for number, kind in enumerate(kinds)
    ]
    with stage_output(workspace.patch, stage="patch", params={}, inputs={}) as output:
        PATCH.write(PATCH.frame(rows), output.path / "patch.parquet")
        output.counts["patches"] = len(rows)
        output.leave_out("too <small>", "mine/widget", "<b>12</b> px")


def _write_draft(workspace: Workspace, samples: Sequence[Sample], truth: dict[str, Supervision]) -> None:
    images = SampleImages(workspace)
    priors = {(category, view): f"A sound {category} from {view}." for category in CATEGORIES for view in VIEWS}
    rows, observations = [], {}
    with stage_output(workspace.draft, stage="draft", params={}, inputs={}) as output:
        with ShardWriter(output.path, "observations") as writer:
            for number, sample in enumerate(samples):
                toolbox = Toolbox(images.pixels(sample), priors)
                turns = []
                for step, call in enumerate(_calls(number, sample), 1):
                    observation, png = toolbox.observe(call)
                    turns.append(Turn(thought=_thought(number, step), call=call, observation=observation))
                    if png:
                        digest = hashlib.sha256(png).hexdigest()
                        shard, row = writer.add(digest, png)
                        observations[digest] = ObservationImage(sha256=digest, shard=shard, row=row)
                rows.append(_draft(sample, truth[sample.sample_id], turns, number))
        bad = [Violation(gate="leak", reason=f"thought 1 says {HOSTILE!r}"), Violation(gate="length", reason="long")]
        rejected = [rows[0].model_copy(update={"draft_id": f"{rows[0].sample_id}#9", "violations": bad})]
        DRAFT.write(DRAFT.frame(rows), output.path / "trajectory.parquet")
        DRAFT.write(DRAFT.frame(rejected), output.path / "rejected.parquet")
        OBSERVATION.write(OBSERVATION.frame(observations.values()), output.path / "observation.parquet")
        output.counts |= {"samples": len(rows), "trajectories": len(rows), "rejected": 1}
    failed = dict.fromkeys((*GATES, *CORPUS_GATES), 0) | {"leak": 1, "length": 1}
    figures = {
        "samples": len(rows),
        "drafts": len(rows) + 1,
        "passed": len(rows),
        "rejected": 1,
        "samples_without_trajectory": 0,
        "failed": failed,
        "teacher": {"usd": 0.0, "candidates_without_draft": 0, "corrections": {"0": len(rows) + 1}},
    }
    write_text(workspace.reports / "gates.json", json.dumps(figures))


def _calls(number: int, sample: Sample) -> list[ToolCall]:
    """Return 0 to 4 calls of different tools; for inspection 1, one call that the tool refuses."""
    calls = [
        ToolCall(tool="crop", arguments={"region": [200, 0, 600, 700]}),
        ToolCall(tool="prior", arguments={"category": sample.category, "view": sample.view}),
        ToolCall(tool="enhance", arguments={"operator": "clahe", "region": [100, 100, 900, 900]}),
        ToolCall(tool="measure", arguments={"points": [[100, 200], [800, 400], [500, 900]]}),
    ]
    if number == 1:
        return [ToolCall(tool="crop", arguments={"region": [HOSTILE]})]
    return calls[: number % 5]


def _thought(number: int, step: int) -> str:
    return f"{HOSTILE if number == 0 else 'Something is off'} in thought {step} of inspection {number}."


def _draft(sample: Sample, truth: Supervision, turns: list[Turn], number: int) -> Draft:
    bad = truth.label == "anomalous"
    trajectory = Trajectory(
        turns=[*turns, Turn(thought=f"{HOSTILE if number == 0 else 'So'} it ends for inspection {number}.")],
        verdict=Verdict(answer="Yes" if bad else "No", boxes=truth.boxes if bad else [], defect_type=truth.defect_type),
    )
    text = trajectory.model_dump_json()
    return Draft(
        draft_id=f"{sample.sample_id}#0",
        sample_id=sample.sample_id,
        candidate=0,
        trajectory=text,
        answer=trajectory.verdict.answer,
        defect_type=trajectory.verdict.defect_type,
        boxes=trajectory.verdict.boxes,
        tools=[call.tool for call in trajectory.calls],
        observations=[
            turn.observation.image_sha256 for turn in turns if turn.observation and turn.observation.image_sha256
        ],
        gates=["grammar"],
        violations=[],
        judge_scores=[],
        judge_disagreement=None,
        blind_answer=None,
        corrections=0,
        sent_back_by=[],
        draft_sha256=hashlib.sha256(text.encode()).hexdigest(),
        teacher="offline",
        prompt_version="1",
        toolbox_version=TOOLBOX_VERSION,
        cost_usd=0.0,
    )
