"""Draft trajectories with a teacher, check them with gates, and record failed drafts with their reasons."""

import csv
import io
import json
from collections import Counter
from collections.abc import Iterable, Mapping
from statistics import mean
from typing import Any

from cot_builder.corpus.drafts import read_trajectory
from cot_builder.corpus.priors import Priors, read_priors
from cot_builder.endpoint.run import Estimate
from cot_builder.params import Params
from cot_builder.storage.output import Output, stage_output, write_text
from cot_builder.storage.shards import ShardWriter
from cot_builder.storage.workspace import Workspace, file_hash
from cot_builder.teacher.backends import AskOptions, load_backend
from cot_builder.teacher.drafts import SampleDrafts, Task
from cot_builder.teacher.endpoint import join_reasons
from cot_builder.teacher.gates import duplicates
from cot_builder.teacher.gates.gate import JUDGE
from schemas.errors import IndusCotError
from schemas.sample import SAMPLE
from schemas.supervision import SUPERVISION
from schemas.trajectory import DRAFT, OBSERVATION, Draft, ObservationImage, Violation

FAILURES = "failures.csv"


def draft(
    params: Params,
    workspace: Workspace,
    *,
    refresh: bool = False,
    only_failed: bool = False,
    allow_unpriced: bool = False,
) -> None:
    """Draft ``draft.candidates`` candidates for every selected sample, and keep one that passes the gates.

    With the offline teacher, the first candidate that passes is kept; with an endpoint, the best. Writes
    ``trajectory.parquet`` (kept drafts), ``rejected.parquet`` (rejected drafts with reasons),
    ``observation.parquet`` and the shards of the images, ``reports/gates.json`` and ``.md``, and
    ``reports/failures.csv``: each sample without a trajectory, with the reasons and the attempts.

    Args:
        params: The parameters.
        workspace: The project.
        refresh: Ignore cached answers of the endpoint and request all of them again.
        only_failed: Send requests only for the samples in ``reports/failures.csv``; use cached answers for all others.
        allow_unpriced: Use a model even if its price is unknown.

    Raises:
        IndusCotError: the backend does not exist; an earlier stage has not run; no draft passed the gates; the
            endpoint stopped the run.
    """
    backend = load_backend(params.teacher.backend)
    tasks, priors = _read_tasks(params, workspace)
    inputs = {
        name: file_hash(path)
        for name, path in (
            ("sample", workspace.select / "sample.parquet"),
            ("supervision", workspace.select / "supervision.parquet"),
            ("prior", workspace.prior / "prior.parquet"),
        )
    }
    settings = {"seed": params.run.seed, **params.draft.model_dump(), "teacher": params.teacher.model_dump()}
    retried = _read_ids_to_retry(workspace, tasks) if only_failed else set()
    with stage_output(
        workspace.draft, stage="draft", params=settings, inputs=inputs, strict=params.run.strict
    ) as output:
        with ShardWriter(output.path, "observations") as writer:
            sink = _DraftCollector(output, writer)
            options = AskOptions(refresh, retried, allow_unpriced)
            backend.draft_samples(params, workspace, tasks, priors, sink.add, options)
        kept, rejected = _reject_duplicates(sink.kept, sink.rejected)
        _write_failures(workspace, [sample.sample_id for sample, _ in tasks], kept, rejected, sink.failures)
        if not kept:
            reasons = _summarize_failures(_count_failed_gates(rejected), sink.failures)
            raise IndusCotError(
                f"draft: none of the {len(tasks)} samples has a draft that passed the gates. Most frequent reasons: "
                f"{reasons}. reports/failures.csv lists every sample with its reasons"
            )
        DRAFT.write(DRAFT.frame(kept), output.path / "trajectory.parquet")
        DRAFT.write(DRAFT.frame(rejected), output.path / "rejected.parquet")
        OBSERVATION.write(OBSERVATION.frame(sink.places.values()), output.path / "observation.parquet")
        not_best = sum(map(_lost_to_better_candidate, rejected))
        output.counts |= {
            "samples": len(tasks),
            "trajectories": len(kept),
            "rejected": len(rejected) - not_best,
            **({"not_the_best_candidate": not_best} if not_best else {}),
            "observations": len(sink.places),
            "usd": round(sum(item.cost_usd for item in (*kept, *rejected)), 6),
        }
    _write_gate_report(workspace, kept, rejected, len(tasks), sink.unanswered)


def estimate_draft(
    params: Params,
    workspace: Workspace,
    *,
    refresh: bool = False,
    only_failed: bool = False,
    allow_unpriced: bool = False,
) -> Estimate:
    """Estimate requests, tokens and cost of drafting with an endpoint teacher, without sending a request.

    With ``only_failed``, estimates only the samples in ``reports/failures.csv``, without using their cached answers.

    Raises:
        IndusCotError: an earlier stage has not run; the model or its price is missing; there is nothing to retry.
    """
    tasks, priors = _read_tasks(params, workspace)
    retried = _read_ids_to_retry(workspace, tasks) if only_failed else set()
    found: Estimate = load_backend(params.teacher.backend).estimate_drafts(
        params, workspace, tasks, priors, AskOptions(refresh, retried, allow_unpriced)
    )
    found.failed = len(_read_failed_ids(workspace, tasks))
    return found


def _read_tasks(params: Params, workspace: Workspace) -> tuple[list[Task], Priors]:
    samples = SAMPLE.read(workspace.select / "sample.parquet")
    supervision = SUPERVISION.read(workspace.select / "supervision.parquet")
    priors = read_priors(workspace, [name for name, source in params.pull.items() if source.role == "train"])
    truth = {row.sample_id: row for row in SUPERVISION.records(supervision)}
    return [(sample, truth[sample.sample_id]) for sample in SAMPLE.records(samples)], priors


class _DraftCollector:
    """Collects results as they arrive, and stores each image once."""

    def __init__(self, output: Output, writer: ShardWriter) -> None:
        self.kept: list[Draft] = []
        self.rejected: list[Draft] = []
        self.places: dict[str, ObservationImage] = {}
        self.failures: dict[str, list[str]] = {}
        self.unanswered = 0
        self._output = output
        self._writer = writer

    def add(self, result: SampleDrafts) -> None:
        if result.damage:
            self._output.leave_out("damaged image", result.sample_id, result.damage)
            self.failures.setdefault(result.sample_id, []).append(f"damaged image: {result.damage}")
        for candidate in result.drafts:
            (self.rejected if candidate.violations else self.kept).append(candidate)
        for reason in result.failures:
            self.failures.setdefault(result.sample_id, []).append(reason)
        self.unanswered += result.unanswered
        shown = {digest for item in result.drafts for digest in item.observations}
        for digest, png in result.images.items():
            if digest in shown and digest not in self.places:
                shard, row = self._writer.add(digest, png)
                self.places[digest] = ObservationImage(sha256=digest, shard=shard, row=row)


def _read_failed_ids(workspace: Workspace, tasks: list[Task]) -> set[str]:
    """Return the samples of ``tasks`` listed in ``reports/failures.csv``; empty before the first run has finished."""
    path = workspace.reports / FAILURES
    if not path.is_file():
        return set()
    with path.open(newline="", encoding="utf-8") as file:
        named = {row["sample_id"] for row in csv.DictReader(file)}
    return named & {sample.sample_id for sample, _ in tasks}


def _read_ids_to_retry(workspace: Workspace, tasks: list[Task]) -> set[str]:
    failed = _read_failed_ids(workspace, tasks)
    if not failed:
        raise IndusCotError(
            f"{workspace.reports / FAILURES}: lists none of the selected samples, so there is nothing to retry; "
            "run `indus-cot draft` without --only-failed"
        )
    return failed


def _write_failures(
    workspace: Workspace,
    sample_ids: list[str],
    kept: list[Draft],
    rejected: list[Draft],
    failures: Mapping[str, list[str]],
) -> None:
    done = {item.sample_id for item in kept}
    refused: dict[str, list[str]] = {}
    for item in rejected:
        why = join_reasons((f"{violation.gate}: {violation.reason}" for violation in item.violations), "; ")
        tried = f"candidate {item.candidate} after {item.corrections} corrections: {why}"
        refused.setdefault(item.sample_id, []).append(tried)
    text = io.StringIO()
    writer = csv.writer(text)
    writer.writerow(["sample_id", "why"])
    for sample_id in sample_ids:
        if sample_id not in done:
            why = join_reasons([*failures.get(sample_id, []), *refused.get(sample_id, [])], " | ")
            writer.writerow([sample_id, why])
    write_text(workspace.reports / FAILURES, text.getvalue())


def _summarize_failures(reasons: Counter[str], failures: Mapping[str, list[str]]) -> str:
    parts = [f"{name} ({count})" for name, count in reasons.most_common(3)]
    if failures:
        first = next(iter(failures.values()))[0]
        parts.append(f"no usable answer ({len(failures)} samples), for example {first[:300]}")
    return ", ".join(parts) or "none"


def _reject_duplicates(kept: list[Draft], rejected: list[Draft]) -> tuple[list[Draft], list[Draft]]:
    texts = [" ".join(turn.thought for turn in read_trajectory(item).turns) for item in kept]
    unique: list[Draft] = []
    for item, reason in zip(kept, duplicates(texts), strict=True):
        if reason is None:
            unique.append(item)
        else:
            violation = Violation(gate="duplicates", reason=reason)
            rejected = [*rejected, item.model_copy(update={"violations": [violation]})]
    return unique, rejected


def _count_failed_gates(rejected: Iterable[Draft]) -> Counter[str]:
    return Counter(name for item in rejected for name in {violation.gate for violation in item.violations})


def _lost_to_better_candidate(item: Draft) -> bool:
    """Return whether the draft passed every gate, but another candidate was better."""
    return all(violation.gate == JUDGE for violation in item.violations)


def _write_gate_report(
    workspace: Workspace, kept: list[Draft], rejected: list[Draft], samples: int, unanswered: int
) -> None:
    failed = _count_failed_gates(rejected)
    names = list(dict.fromkeys(name for item in (*kept, *rejected) for name in item.gates))
    names += [name for name in failed if name not in names]
    without = samples - len({item.sample_id for item in kept})
    refused = [item for item in rejected if not _lost_to_better_candidate(item)]
    not_best = len(rejected) - len(refused)
    figures = {
        "samples": samples,
        "drafts": len(kept) + len(rejected),
        "passed": len(kept),
        "rejected": len(refused),
        "not_the_best_candidate": not_best,
        "samples_without_trajectory": without,
        "failed": {name: failed.get(name, 0) for name in names},
        "teacher": _summarize_teacher(kept, rejected, unanswered),
    }
    write_text(workspace.reports / "gates.json", json.dumps(figures, indent=1) + "\n")
    lines = [f"| {name} | {failed.get(name, 0)} |" for name in names if name != JUDGE]
    examples = [
        f"- `{item.draft_id}` {violation.gate}: {violation.reason}"
        for item in refused[:50]
        for violation in item.violations
    ]
    write_text(
        workspace.reports / "gates.md",
        f"# Gates\n\n{len(kept) + len(rejected)} drafts of {samples} samples: {len(kept)} trajectories, "
        f"{len(refused)} rejected, {not_best} not the best candidate; "
        f"{without} samples have no trajectory. A draft may fail several gates.\n\n"
        "| gate | drafts that failed it |\n|---|---|\n" + "\n".join(lines) + "\n"
        + ("\n## Reasons\n\n" + "\n".join(examples) + "\n" if examples else ""),
    )  # fmt: skip


def _summarize_teacher(kept: list[Draft], rejected: list[Draft], unanswered: int) -> dict[str, Any]:
    """Summarize cost, corrections, judge and blind answers; the last two only if they were used."""
    drafts = [*kept, *rejected]
    judged = [item for item in drafts if item.judge_scores]
    figures: dict[str, Any] = {
        "usd": round(sum(item.cost_usd for item in drafts), 6),
        "candidates_without_draft": unanswered,
        "corrections": dict(sorted(Counter(item.corrections for item in drafts).items())),
    }
    if judged:
        figures["judge"] = {
            "drafts": len(judged),
            "mean_score": round(mean(mean(item.judge_scores) for item in judged), 4),
            "mean_disagreement": round(mean(item.judge_disagreement or 0.0 for item in judged), 4),
        }
    blind = {item.sample_id: item.blind_answer == item.answer for item in kept if item.blind_answer}
    if blind:
        figures["blind"] = {"samples": len(blind), "right": sum(blind.values())}
    return figures
