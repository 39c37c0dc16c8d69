"""Drafts trajectories with a teacher, gates them, and keeps what failed apart with its reasons."""

import hashlib
import json
from collections import Counter
from collections.abc import Collection, Iterable
from dataclasses import dataclass
from pathlib import Path

import polars as pl

from cot_builder.inspection.tools import TOOLBOX_VERSION
from cot_builder.params import Draft as DraftParams
from cot_builder.params import Params
from cot_builder.progress import track
from cot_builder.storage.output import stage_output, write_text
from cot_builder.storage.parallel import process_map
from cot_builder.storage.shards import ShardReader, ShardWriter
from cot_builder.storage.workspace import SampleImages, Workspace, file_hash
from cot_builder.teacher.gates import CORPUS_GATES, GATES, Case, duplicates, run_gates
from cot_builder.teacher.offline import PROMPT_VERSION, TEACHER, draft_offline
from schemas.errors import IndusCotError
from schemas.prior import PRIOR
from schemas.sample import SAMPLE, Sample
from schemas.supervision import SUPERVISION, Supervision
from schemas.trajectory import DRAFT, OBSERVATION, Draft, ObservationImage, Trajectory, Violation

Priors = dict[tuple[str, str], str]
DRAFT_CHUNK = 8
"""Samples that travel to a worker together."""


def draft(params: Params, workspace: Workspace) -> None:
    """Draft every selected sample; up to ``draft.candidates`` tries each, the first that passes every gate is kept.

    Writes ``trajectory.parquet`` (what passed), ``rejected.parquet`` (what failed, with its violations),
    ``observation.parquet`` with the images' shards, and ``reports/gates.json`` and ``.md``.

    Raises:
        IndusCotError: an earlier stage has not run; nothing passed the gates.
    """
    samples = SAMPLE.read(workspace.select / "sample.parquet")
    supervision = SUPERVISION.read(workspace.select / "supervision.parquet")
    priors = read_priors(workspace, [name for name, source in params.pull.items() if source.role == "train"])
    inputs = {
        name: file_hash(path)
        for name, path in (
            ("sample", workspace.select / "sample.parquet"),
            ("supervision", workspace.select / "supervision.parquet"),
            ("prior", workspace.prior / "prior.parquet"),
        )
    }
    settings = {"seed": params.run.seed, **params.draft.model_dump()}
    truth = {row.sample_id: row for row in SUPERVISION.records(supervision)}
    tasks = [(sample, truth[sample.sample_id]) for sample in SAMPLE.records(samples)]
    with stage_output(
        workspace.draft, stage="draft", params=settings, inputs=inputs, strict=params.run.strict
    ) as output:
        kept: list[Draft] = []
        rejected: list[Draft] = []
        places: dict[str, ObservationImage] = {}
        with ShardWriter(output.path, "observations") as writer:
            results = process_map(
                _draft_one,
                tasks,
                params.compute.workers,
                initializer=_start,
                initargs=(workspace, priors, params),
                chunksize=DRAFT_CHUNK,
            )
            for result in track(results, "draft", len(tasks)):
                if result.damage:
                    output.leave_out("damaged image", result.sample_id, result.damage)
                for candidate in result.drafts:
                    (rejected if candidate.violations else kept).append(candidate)
                for digest, png in result.images.items():
                    if digest not in places:
                        shard, row = writer.add(digest, png)
                        places[digest] = ObservationImage(sha256=digest, shard=shard, row=row)
        kept, rejected = _without_duplicates(kept, rejected)
        if not kept:
            raise IndusCotError(
                f"draft: none of {len(rejected)} drafts passed the gates; the commonest reasons: "
                f"{_reasons(rejected).most_common(3)}. See the `draft` section of params.yaml"
            )
        DRAFT.write(DRAFT.frame(kept), output.path / "trajectory.parquet")
        DRAFT.write(DRAFT.frame(rejected), output.path / "rejected.parquet")
        OBSERVATION.write(OBSERVATION.frame(places.values()), output.path / "observation.parquet")
        output.counts |= {
            "samples": len(tasks),
            "trajectories": len(kept),
            "rejected": len(rejected),
            "observations": len(places),
        }
    _report_gates(workspace, kept, rejected, len(tasks))


@dataclass(frozen=True)
class _Result:
    sample_id: str
    drafts: list[Draft]
    images: dict[str, bytes]
    damage: str = ""


@dataclass
class _Worker:
    images: SampleImages
    priors: Priors
    params: DraftParams
    seed: int


_worker: _Worker | None = None


def _start(workspace: Workspace, priors: Priors, params: Params) -> None:
    global _worker  # noqa: PLW0603 - a process pool hands its workers nothing else to keep state in
    _worker = _Worker(SampleImages(workspace), priors, params.draft, params.run.seed)


def _draft_one(task: tuple[Sample, Supervision]) -> _Result:
    assert _worker is not None
    sample, supervision = task
    try:
        image = _worker.images.pixels(sample)
    except IndusCotError as error:
        return _Result(sample.sample_id, [], {}, str(error))
    drafts: list[Draft] = []
    shown: dict[str, bytes] = {}
    for candidate in range(_worker.params.candidates):
        trajectory, images = draft_offline(
            image,
            sample,
            supervision,
            _worker.priors,
            seed=_worker.seed,
            candidate=candidate,
            max_calls=_worker.params.max_calls,
        )
        violations = run_gates(Case(trajectory, sample, supervision, _worker.params))
        drafts.append(_record(trajectory, sample, candidate, violations))
        shown |= images
        if not violations:
            break
    return _Result(sample.sample_id, drafts, shown)


def _record(trajectory: Trajectory, sample: Sample, candidate: int, violations: list[Violation]) -> Draft:
    text = trajectory.model_dump_json()
    observations = [turn.observation.image_sha256 for turn in trajectory.turns if turn.observation]
    return Draft(
        draft_id=f"{sample.sample_id}#{candidate}",
        sample_id=sample.sample_id,
        candidate=candidate,
        trajectory=text,
        answer=trajectory.verdict.answer,
        defect_type=trajectory.verdict.defect_type,
        boxes=trajectory.verdict.boxes,
        tools=[call.tool for call in trajectory.calls],
        observations=[digest for digest in observations if digest],
        gates=[*GATES, *CORPUS_GATES],
        violations=violations,
        draft_sha256=hashlib.sha256(text.encode()).hexdigest(),
        teacher=TEACHER,
        prompt_version=PROMPT_VERSION,
        toolbox_version=TOOLBOX_VERSION,
        cost_usd=0.0,
    )


def _without_duplicates(kept: list[Draft], rejected: list[Draft]) -> tuple[list[Draft], list[Draft]]:
    texts = [" ".join(turn.thought for turn in read_trajectory(item).turns) for item in kept]
    unique: list[Draft] = []
    for item, reason in zip(kept, duplicates(texts), strict=True):
        if reason is None:
            unique.append(item)
        else:
            violation = Violation(gate="duplicates", reason=reason)
            rejected = [*rejected, item.model_copy(update={"violations": [violation]})]
    return unique, rejected


def read_trajectory(row: Draft) -> Trajectory:
    """The trajectory of a draft."""
    return Trajectory.model_validate_json(row.trajectory)


def read_priors(workspace: Workspace, sets: Collection[str]) -> Priors:
    """Normalcy text by (category, view), of the given sets only: training never reads an evaluation set's prior."""
    table = PRIOR.read(workspace.prior / "prior.parquet").filter(pl.col("source_set").is_in(list(sets)))
    shared = table.filter(table.select("category", "view").is_duplicated())
    if not shared.is_empty():
        first = shared.row(0, named=True)
        raise IndusCotError(
            f"prior: several training sets have the category {first['category']!r}, view {first['view']!r} "
            f"({', '.join(sorted(set(shared['source_set'])))}); rename it in all but one of them"
        )
    return {(row["category"], row["view"]): row["text"] for row in table.iter_rows(named=True)}


class ObservationImages:
    """PNG bytes of observation images by sha256."""

    def __init__(self, folder: Path) -> None:
        table = OBSERVATION.read(folder / "observation.parquet")
        self._places = {row["sha256"]: (row["shard"], row["row"]) for row in table.iter_rows(named=True)}
        self._reader = ShardReader(folder)

    def get(self, digest: str) -> bytes:
        """The PNG stored under ``digest``.

        Raises:
            IndusCotError: there is none, or what is stored has another hash.
        """
        if digest not in self._places:
            raise IndusCotError(f"no observation image {digest}; run `indus-cot draft` again")
        png = self._reader.get(*self._places[digest])
        if hashlib.sha256(png).hexdigest() != digest:
            raise IndusCotError(f"observation image {digest} was changed on disk; run `indus-cot draft` again")
        return png


def _reasons(rejected: Iterable[Draft]) -> Counter[str]:
    return Counter(name for item in rejected for name in {violation.gate for violation in item.violations})


def _report_gates(workspace: Workspace, kept: list[Draft], rejected: list[Draft], samples: int) -> None:
    failed = _reasons(rejected)
    without = samples - len({item.sample_id for item in kept})
    figures = {
        "samples": samples,
        "drafts": len(kept) + len(rejected),
        "passed": len(kept),
        "rejected": len(rejected),
        "samples_without_trajectory": without,
        "failed": {name: failed.get(name, 0) for name in (*GATES, *CORPUS_GATES)},
    }
    write_text(workspace.reports / "gates.json", json.dumps(figures, indent=1) + "\n")
    lines = [f"| {name} | {failed.get(name, 0)} |" for name in (*GATES, *CORPUS_GATES)]
    examples = [
        f"- `{item.draft_id}` {violation.gate}: {violation.reason}"
        for item in rejected[:50]
        for violation in item.violations
    ]
    write_text(
        workspace.reports / "gates.md",
        f"# Gates\n\n{len(kept)} of {len(kept) + len(rejected)} drafts of {samples} samples passed; "
        f"{without} samples have no trajectory. A draft may fail several gates.\n\n"
        "| gate | drafts that failed it |\n|---|---|\n" + "\n".join(lines) + "\n"
        + ("\n## Reasons\n\n" + "\n".join(examples) + "\n" if examples else ""),
    )  # fmt: skip
