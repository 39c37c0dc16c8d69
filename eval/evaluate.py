"""Stage `evaluate`: a policy inspects the test images of a benchmark; what it said of each, and what it is worth.

Every finished item is kept in a journal below ``.indus-cot/evaluate`` before the next one is counted: a run that was
killed goes on where it was, and a run of the same weights, questions and parameters asks nothing twice.
"""

import hashlib
import importlib.metadata
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import polars as pl

from cot_builder.corpus.models import is_ours, weights_sha256
from cot_builder.corpus.priors import read_priors
from cot_builder.inspection.rendering import prompt
from cot_builder.inspection.tools import TOOLBOX_VERSION
from cot_builder.params import Params
from cot_builder.progress import console, track
from cot_builder.storage.output import read_manifest, stage_output, versions
from cot_builder.storage.results import PREDICTIONS_FILE
from cot_builder.storage.samples import SharedImages, read_samples
from cot_builder.storage.workspace import Workspace, file_hash
from eval.contamination import contamination, listing
from eval.journal import Journal
from eval.metrics import metrics, write_metrics
from eval.policies import Exam, Said, direct_prompt
from schemas.errors import IndusCotError
from schemas.metrics import Metrics, Run
from schemas.prediction import PREDICTION, Prediction
from schemas.sample import SAMPLE, Sample
from schemas.supervision import SUPERVISION, Supervision

ROOT = Path(__file__).parent.parent
ANSWERING = (
    "cot_builder/inspection/*.py", "cot_builder/storage/images.py", "eval/parse*.py", "eval/parse.yaml",
    "eval/policies.py", "schemas/geometry.py", "schemas/prediction.py", "schemas/sample.py", "schemas/taxonomy.*",
    "schemas/trajectory.py",
)  # fmt: skip
"""Files that make the question, the tools' results, and the verdict of what a policy wrote."""
ASKING: dict[str, tuple[str, ...]] = {
    "transformers": (
        "eval/local.py", "train/margin.py", "train/model.py", "train/torchvision_ops.py", "train/writing.py",
    ),
    "vllm": ("eval/local.py",),
    "endpoint": ("cot_builder/endpoint/request.py", "cot_builder/teacher/endpoint.py", "eval/served.py"),
}  # fmt: skip
"""Files that ask it, by policy; of all others it is ``eval/scripted.py``."""


def evaluate(
    name: str,
    params: Params,
    workspace: Workspace,
    results: Path | None = None,
    *,
    refresh: bool = False,
    allow_unpriced: bool = False,
) -> Metrics:
    """Write ``results/SET``: ``predictions.parquet`` and ``metrics.json``.

    Args:
        name: A set of the ``pull`` section with role evaluate.
        params: Of the run; ``evaluate`` matters most.
        workspace: Holds the pulled set, the priors and the model.
        results: Root of the results; the workspace's own without.
        refresh: Ask anew what is kept: for a model that has changed under its name.
        allow_unpriced: Ask an endpoint's model that prices.yaml does not know.

    Raises:
        IndusCotError: the set is unknown, of another role, or not pulled; the model is missing; the endpoint refuses
            or does not answer; the memory or the disk is full.
    """
    samples, truth, pulled = _images(name, params, workspace)
    exam = _exam(params, workspace)
    run = _run(name, exam)
    asked = {
        "run": run.model_dump(mode="json"),
        "tools": exam.schemas,
        "prompt": direct_prompt("c", "v") if exam.direct else prompt("c", "v", tools=bool(exam.tools)),
        # What is kept has been read already; read in another way, it would be another answer.
        "read by": {str(path.relative_to(ROOT)): file_hash(path) for path in answering(run.policy)},
        "toolbox": TOOLBOX_VERSION,
        "prior_texts": sorted([*key, text] for key, text in exam.priors.items()),
        # What the oracle says is the truth as it was pulled.
        "truth": pulled if params.evaluate.policy == "oracle" else None,
    }
    with stage_output(
        (results or workspace.results) / name,
        stage="evaluate",
        params=run.parameters | {"policy": run.policy, "mode": run.mode, "rounds": run.rounds, "seed": run.seed},
        inputs={"set": pulled, "model": exam.weights or str(run.model), "priors": str(run.priors)},
        strict=params.run.strict,
    ) as output:
        with Journal(workspace.root / ".indus-cot" / "evaluate", name, asked, anew=refresh) as journal:
            said = _ask(exam, samples, truth, journal, refresh=refresh, allow_unpriced=allow_unpriced)
        if all(item.parse == "failed" for item in said.values()):
            why = next(iter(said.values())).fault
            raise IndusCotError(f"evaluate {name}: not one of {len(samples)} images was answered; the first: {why}")
        rows = [_row(sample, truth[sample.sample_id], said[sample.sample_id]) for sample in samples]
        predictions = PREDICTION.frame(rows).sort("sample_id")
        PREDICTION.write(predictions, output.path / PREDICTIONS_FILE)
        for row in rows:
            if row.parse == "failed":
                output.leave_out("no answer", row.sample_id, row.fault)
        found = metrics(
            predictions,
            run,
            listing(predictions, workspace),
            contamination(
                predictions, samples, exam.named_folder, workspace, {category for category, _ in exam.priors}
            ),
            draws=params.evaluate.draws,
            seed=params.run.seed,
        )
        write_metrics(found, output.path)
        output.counts |= {"images": len(rows), "parts": found.overall.parts, "unparsed": found.overall.unparsed}
    return found


def _images(name: str, params: Params, workspace: Workspace) -> tuple[list[Sample], dict[str, Supervision], str]:
    """The test images to be asked about, their truth, and the hash of what was pulled."""
    if name not in params.pull:
        raise IndusCotError(f"evaluate {name}: not in the pull section; there are {', '.join(params.pull)}")
    if params.pull[name].role != "evaluate":
        raise IndusCotError(
            f"evaluate {name}: its role is train (pull.{name}.role): a policy may have learned these images. There "
            f"are {', '.join(sorted(key for key, item in params.pull.items() if item.role == 'evaluate')) or 'none'}"
        )
    folder = workspace.pull(name)
    if not (folder / "manifest.json").is_file():
        raise IndusCotError(f"evaluate {name}: it is not pulled; run `indus-cot pull {name}` first")
    table = read_samples(workspace, name).filter(pl.col("split") == "test")
    if table.is_empty():
        raise IndusCotError(f"evaluate {name}: the pulled set has no test image; see {folder / 'left_out.csv'}")
    truth = {row.sample_id: row for row in SUPERVISION.records(SUPERVISION.read(folder / "supervision.parquet"))}
    samples: list[Sample] = SAMPLE.records(table)
    return _drawn(samples, truth, params), truth, file_hash(folder / "manifest.json")


def _drawn(samples: Sequence[Sample], truth: Mapping[str, Supervision], params: Params) -> list[Sample]:
    """``evaluate.limit`` of them, the labels in turn; of a larger limit, the smaller one's are a part."""
    limit = params.evaluate.limit
    if limit is None or limit >= len(samples):
        return list(samples)

    def place(sample: Sample) -> bytes:
        return hashlib.sha256(f"{params.run.seed}/{sample.sample_id}".encode()).digest()

    counts = {"normal": 0, "anomalous": 0}
    ranked = []
    for sample in sorted(samples, key=place):
        label = truth[sample.sample_id].label
        counts[label] += 1
        ranked.append((counts[label], label, sample))
    return [sample for _, _, sample in sorted(ranked, key=lambda item: item[:2])[:limit]]


def answering(policy: str | None) -> list[Path]:
    """Files that shape what such a policy is asked, and what is read of it: kept answers are of these alone."""
    patterns = (*ANSWERING, *ASKING.get(policy or "", ("eval/scripted.py",)))
    return sorted({path for pattern in patterns for path in ROOT.glob(pattern)})


def _exam(params: Params, workspace: Workspace) -> Exam:
    settings, exam = params.evaluate, Exam(params, workspace, SharedImages(workspace), {})
    if settings.temperature is None and settings.policy in ("transformers", "vllm"):
        raise IndusCotError(
            "evaluate.temperature: null leaves it to a server (evaluate.policy=endpoint); in this process set a number"
        )
    told = "prior" in exam.tools and not settings.scripted
    return replace(
        exam,
        priors=_priors(params, workspace) if told else {},
        weights=_weights(exam),
        verdict_alone=_verdict_alone(exam),
    )


def _priors(params: Params, workspace: Workspace) -> Mapping[tuple[str, str], str]:
    """Texts of the training sets: that of an evaluated category would be knowledge of it."""
    if not (workspace.prior / "prior.parquet").is_file():
        return {}
    return read_priors(workspace, {key for key, item in params.pull.items() if item.role == "train"})


def _verdict_alone(exam: Exam) -> bool:
    """Whether the model is one of this project that was trained on verdicts alone.

    Raises:
        IndusCotError: it is, and the mode asks for what it never learned.
    """
    folder = exam.named_folder
    if folder is None or not is_ours(folder):
        return False
    settings, target = exam.params.evaluate, read_manifest(folder)["params"].get("train", {}).get("target")
    if target == "labels" and settings.mode not in ("agent-no-tools", "direct"):
        raise IndusCotError(
            f"evaluate.mode: {settings.model} learned the verdict alone (train.target: labels) and calls no tools; set "
            "evaluate.mode=agent-no-tools, which asks as it was taught"
        )
    return bool(target == "labels")


def _weights(exam: Exam) -> str | None:
    """Hash of the model's files, where they are here; what a server calls by the name of a folder is taken for it.

    Raises:
        IndusCotError: no model is named, or its folder has no weights.
    """
    settings = exam.params.evaluate
    if settings.scripted:
        return None
    if not settings.model:
        raise IndusCotError(
            "evaluate.model is empty; name a folder, OWNER/NAME on the Hub, or what the endpoint serves"
        )
    folder = exam.named_folder
    if folder is None:
        trained = {"models/sft": "sft", "models/grpo": "grpo"}.get(settings.model)
        if settings.policy != "endpoint" and trained:
            raise IndusCotError(
                f"evaluate.model: {settings.model} is not there; train it first (`indus-cot repro {trained}`), or name "
                "another with --set evaluate.model=…"
            )
        return None
    if not (folder / "config.json").is_file():
        if settings.policy == "endpoint":
            return None
        raise IndusCotError(f"evaluate.model: {folder} holds no config.json; it is no model")
    return weights_sha256(folder)


def _run(name: str, exam: Exam) -> Run:
    settings = exam.params.evaluate
    shaping = {"max_calls", "max_tokens", "temperature"}
    if settings.policy == "endpoint":
        shaping.add("base_url")
    parameters: dict[str, Any] = {} if settings.scripted else settings.model_dump(include=shaping)
    if settings.policy in ("transformers", "vllm"):
        parameters["dtype"] = exam.params.train.dtype
    used = versions()
    if settings.policy in ("transformers", "vllm"):
        used |= {library: importlib.metadata.version(library) for library in ("torch", "transformers")}
    sets = sorted({key for key, item in exam.params.pull.items() if item.role == "train"})
    return Run(
        set=name,
        mode=settings.mode,
        rounds=settings.rounds,
        policy=settings.policy,
        model=settings.policy if settings.scripted else settings.model,
        model_sha256=exam.weights,
        priors=f"of the training sets: {', '.join(sets)}" if exam.priors else "none",
        seed=exam.params.run.seed,
        parameters=parameters,
        versions=used,
    )


@dataclass
class _Running:
    """Balanced accuracy of what is finished so far, for the progress line."""

    truth: Mapping[str, Supervision]
    right: dict[str, int] = field(default_factory=lambda: {"normal": 0, "anomalous": 0})
    seen: dict[str, int] = field(default_factory=lambda: {"normal": 0, "anomalous": 0})

    def count(self, sample: Sample, said: Said) -> None:
        label = self.truth[sample.sample_id].label
        self.seen[label] += 1
        self.right[label] += said.answer == ("No" if label == "normal" else "Yes")

    def __str__(self) -> str:
        if not all(self.seen.values()):
            return ""
        return f"balanced accuracy {50 * sum(self.right[label] / self.seen[label] for label in self.seen):.1f} so far"


def _ask(
    exam: Exam,
    samples: Sequence[Sample],
    truth: Mapping[str, Supervision],
    journal: Journal,
    *,
    refresh: bool,
    allow_unpriced: bool,
) -> dict[str, Said]:
    """What was said of every sample, by its id."""
    found: dict[str, Said] = {}
    running = _Running(truth)

    def take(sample: Sample, said: Said) -> None:
        journal.add(_item(sample), said)
        found[sample.sample_id] = said
        running.count(sample, said)

    for sample in samples:
        if (said := journal.get(_item(sample))) is not None:
            found[sample.sample_id] = said
            running.count(sample, said)
    if found:
        console.print(f"{len(found)} of {len(samples)} images are finished already: {journal.path}", highlight=False)
    left = [sample for sample in samples if sample.sample_id not in found]
    if not left:
        return found
    policy, description = exam.params.evaluate.policy, f"evaluate {left[0].source_set}"
    if policy == "endpoint":
        from eval.served import served

        served(exam, left, take, description, lambda: str(running), refresh=refresh, allow_unpriced=allow_unpriced)
        return found
    if policy == "transformers":
        from eval.local import local

        said_by = local(exam, left)
    elif policy == "vllm":
        from eval.local import vllm

        said_by = vllm(exam, left)
    else:
        from eval.scripted import scripted

        said_by = scripted(exam, left, truth)
    for sample, said in track(said_by, description, len(left), lambda: str(running)):
        take(sample, said)
    return found


def _item(sample: Sample) -> str:
    """Everything about an image that it is asked with."""
    region = "" if sample.region is None else ",".join(map(str, sample.region))
    return " ".join((sample.sample_id, sample.image_sha256, region, sample.category, sample.view))


def _row(sample: Sample, truth: Supervision, said: Said) -> Prediction:
    return Prediction(
        **said.model_dump(),
        sample_id=sample.sample_id,
        source_set=sample.source_set,
        category=sample.category,
        view=sample.view,
        part_id=sample.part_id,
        true_answer="Yes" if truth.label == "anomalous" else "No",
        true_type=truth.defect_type,
        true_boxes=truth.boxes,
        area_fraction=truth.area_fraction if truth.label == "anomalous" else None,
    )
