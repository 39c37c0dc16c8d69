"""Stage `evaluate`: a policy inspects the test images of a benchmark; writes its answers and their metrics.

Every finished item is written to a journal below ``.indus-cot/evaluate`` before the next one is counted. A killed run
resumes there, and a run of the same weights, questions and parameters asks nothing twice.
"""

import hashlib
import importlib.metadata
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import polars as pl

from cot_builder.benchmarks.labels import FOLDER, index_labels
from cot_builder.corpus.models import is_trained_here, weights_sha256
from cot_builder.corpus.priors import read_priors
from cot_builder.inspection.rendering import prompt
from cot_builder.inspection.tools import TOOLBOX_VERSION
from cot_builder.params import SCRIPTED_POLICIES, Params
from cot_builder.progress import console, track
from cot_builder.storage.code import compute_code_key
from cot_builder.storage.output import read_manifest, read_versions, stage_output
from cot_builder.storage.results import PREDICTIONS_FILE
from cot_builder.storage.samples import SharedImages, read_samples
from cot_builder.storage.workspace import Workspace, file_hash
from eval.contamination import contamination, listing
from eval.journal import Journal
from eval.metrics import compute_metrics, write_metrics
from eval.policies import EvalContext, PolicyAnswer, direct_prompt
from schemas.errors import IndusCotError
from schemas.metrics import Metrics, Run
from schemas.prediction import PREDICTION, Prediction
from schemas.sample import SAMPLE, Sample
from schemas.supervision import SUPERVISION, Supervision

POLICY_MODULES = {
    "transformers": "eval.local",
    "vllm": "eval.local",
    "endpoint": "eval.served",
    **dict.fromkeys(SCRIPTED_POLICIES, "eval.scripted"),
}
"""Module that runs each policy."""


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
        params: Parameters of the run, above all its section ``evaluate``.
        workspace: Holds the pulled set, the priors and the model.
        results: Root folder of the results; default: the workspace's.
        refresh: Ignore stored answers, for a model that has changed under its name.
        allow_unpriced: Allow a served model without a price in prices.yaml.

    Raises:
        IndusCotError: the set is unknown, of another role, or not pulled; the model is missing; the endpoint refuses
            or does not answer; the memory or the disk is full.
    """
    samples, truth, pulled = _read_test_set(name, params, workspace)
    context = _make_context(params, workspace)
    run = _describe_run(name, context)
    asked = {
        "run": run.model_dump(mode="json"),
        "tools": context.schemas,
        "prompt": direct_prompt("c", "v") if context.direct else prompt("c", "v", tools=bool(context.tools)),
        "toolbox": TOOLBOX_VERSION,
        "prior_texts": sorted([*key, text] for key, text in context.priors.items()),
        # The oracle's answers depend on the pulled ground truth.
        "truth": pulled if params.evaluate.policy == "oracle" else None,
    }
    with stage_output(
        (results or workspace.results) / name,
        stage="evaluate",
        params=run.parameters | {"policy": run.policy, "mode": run.mode, "rounds": run.rounds, "seed": run.seed},
        inputs={"set": pulled, "model": context.weights or str(run.model), "priors": str(run.priors)},
        strict=params.run.strict,
    ) as output:
        # Answers of other code are not reused: it may have asked or parsed differently.
        code = answering_key(params.evaluate.policy)
        with Journal(workspace.root / ".indus-cot" / "evaluate", name, asked, code, refresh=refresh) as journal:
            said = _answer_all(context, samples, truth, journal, refresh=refresh, allow_unpriced=allow_unpriced)
        if all(item.parse == "failed" for item in said.values()):
            why = next(iter(said.values())).fault
            raise IndusCotError(f"evaluate {name}: not one of {len(samples)} images was answered; the first: {why}")
        rows = [_to_prediction(sample, truth[sample.sample_id], said[sample.sample_id]) for sample in samples]
        predictions = PREDICTION.frame(rows).sort("sample_id")
        PREDICTION.write(predictions, output.path / PREDICTIONS_FILE)
        for row in rows:
            if row.parse == "failed":
                output.leave_out("no answer", row.sample_id, row.fault)
        found = compute_metrics(
            predictions,
            run,
            listing(predictions, workspace),
            contamination(
                predictions, samples, context.named_folder, workspace, {category for category, _ in context.priors}
            ),
            draws=params.evaluate.draws,
            seed=params.run.seed,
        )
        write_metrics(found, output.path)
        output.counts |= {"images": len(rows), "parts": found.overall.parts, "unparsed": found.overall.unparsed}
    return found


def _read_test_set(name: str, params: Params, workspace: Workspace) -> tuple[list[Sample], dict[str, Supervision], str]:
    """The test samples to evaluate, their ground truth by id, and the hash of the pulled set's manifest."""
    if name not in params.pull:
        raise IndusCotError(f"evaluate {name}: not in the pull section; there are {', '.join(params.pull)}")
    if params.pull[name].role != "evaluate":
        raise IndusCotError(
            f"evaluate {name}: its role is train (pull.{name}.role), so a policy may have learned its images. "
            f"Sets to evaluate: {', '.join(sorted(evaluated_sets(params))) or 'none'}"
        )
    folder = workspace.pull(name)
    if not (folder / "manifest.json").is_file():
        raise IndusCotError(f"evaluate {name}: not pulled yet; run `indus-cot pull {name}` first")
    table = read_samples(workspace, name).filter(pl.col("split") == "test")
    if table.is_empty():
        raise IndusCotError(f"evaluate {name}: the pulled set has no test image; see {folder / 'left_out.csv'}")
    truth = {row.sample_id: row for row in SUPERVISION.records(SUPERVISION.read(folder / "supervision.parquet"))}
    samples: list[Sample] = SAMPLE.records(table)
    return _limit_samples(samples, truth, params), truth, file_hash(folder / "manifest.json")


def _limit_samples(samples: Sequence[Sample], truth: Mapping[str, Supervision], params: Params) -> list[Sample]:
    """Draw ``evaluate.limit`` samples, alternating labels; a smaller limit draws a subset of a larger one."""
    limit = params.evaluate.limit
    if limit is None or limit >= len(samples):
        return list(samples)

    def draw_key(sample: Sample) -> bytes:
        return hashlib.sha256(f"{params.run.seed}/{sample.sample_id}".encode()).digest()

    counts = {"normal": 0, "anomalous": 0}
    ranked = []
    for sample in sorted(samples, key=draw_key):
        label = truth[sample.sample_id].label
        counts[label] += 1
        ranked.append((counts[label], label, sample))
    return [sample for _, _, sample in sorted(ranked, key=lambda item: item[:2])[:limit]]


def answering_key(policy: str) -> str:
    """Hash of all code that asks this policy and parses its answers; answers are reused only under the same key."""
    # The data sets count only by their label words, which the parser uses: a changed layout keeps answers valid.
    code = compute_code_key("eval.policies", POLICY_MODULES[policy], by_value=["cot_builder.benchmarks.table"])
    words = json.dumps(index_labels(FOLDER), sort_keys=True)
    return hashlib.sha256(f"{code} {words}".encode()).hexdigest()[:16]


def evaluated_sets(params: Params) -> list[str]:
    """Names of the sets with role evaluate."""
    return [name for name, settings in params.pull.items() if settings.role == "evaluate"]


def _make_context(params: Params, workspace: Workspace) -> EvalContext:
    settings, context = params.evaluate, EvalContext(params, workspace, SharedImages(workspace), {})
    if settings.temperature is None and settings.policy in ("transformers", "vllm"):
        raise IndusCotError(
            "evaluate.temperature: null leaves it to a server (evaluate.policy=endpoint); in this process set a number"
        )
    offers_prior = "prior" in context.tools and not settings.scripted
    return replace(
        context,
        priors=_load_priors(params, workspace) if offers_prior else {},
        weights=_hash_weights(context),
        verdict_only=_is_verdict_only(context),
    )


def _load_priors(params: Params, workspace: Workspace) -> Mapping[tuple[str, str], str]:
    """Prior texts of the training sets only: one of an evaluated category would leak knowledge of it."""
    if not (workspace.prior / "prior.parquet").is_file():
        return {}
    return read_priors(workspace, {key for key, item in params.pull.items() if item.role == "train"})


def _is_verdict_only(context: EvalContext) -> bool:
    """True if this project trained the model on verdicts alone.

    Raises:
        IndusCotError: it did, and the mode needs tool calls, which the model never learned.
    """
    folder = context.named_folder
    if folder is None or not is_trained_here(folder):
        return False
    settings, target = context.params.evaluate, read_manifest(folder)["params"].get("train", {}).get("target")
    if target == "labels" and settings.mode not in ("agent-no-tools", "direct"):
        raise IndusCotError(
            f"evaluate.mode: {settings.model} learned the verdict alone (train.target: labels) and calls no tools; set "
            "evaluate.mode=agent-no-tools, which asks as it was taught"
        )
    return bool(target == "labels")


def _hash_weights(context: EvalContext) -> str | None:
    """Hash of the model's local files. If a served model's name is a local folder, that folder identifies its weights.

    Raises:
        IndusCotError: no model is named, or its folder holds no model.
    """
    settings = context.params.evaluate
    if settings.scripted:
        return None
    if not settings.model:
        raise IndusCotError(
            "evaluate.model is empty; set it to a folder, OWNER/NAME on the Hub, or a name that the endpoint serves"
        )
    folder = context.named_folder
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
        raise IndusCotError(f"evaluate.model: {folder} is not a model folder: no config.json in it")
    return weights_sha256(folder)


def _describe_run(name: str, context: EvalContext) -> Run:
    settings = context.params.evaluate
    shaping = {"max_calls", "max_tokens", "temperature", "reading"}
    if settings.policy == "endpoint":
        shaping.add("base_url")
    parameters: dict[str, Any] = {} if settings.scripted else settings.model_dump(include=shaping)
    if settings.policy in ("transformers", "vllm"):
        parameters["dtype"] = context.params.train.dtype
    used = read_versions()
    if settings.policy in ("transformers", "vllm"):
        used |= {library: importlib.metadata.version(library) for library in ("torch", "transformers")}
    sets = sorted({key for key, item in context.params.pull.items() if item.role == "train"})
    return Run(
        set=name,
        mode=settings.mode,
        rounds=settings.rounds,
        policy=settings.policy,
        model=settings.policy if settings.scripted else settings.model,
        model_sha256=context.weights,
        priors=f"of the training sets: {', '.join(sets)}" if context.priors else "none",
        seed=context.params.run.seed,
        parameters=parameters,
        versions=used,
    )


@dataclass
class _RunningAccuracy:
    """Balanced accuracy of the finished items, for the progress line."""

    truth: Mapping[str, Supervision]
    right: dict[str, int] = field(default_factory=lambda: {"normal": 0, "anomalous": 0})
    seen: dict[str, int] = field(default_factory=lambda: {"normal": 0, "anomalous": 0})

    def count(self, sample: Sample, said: PolicyAnswer) -> None:
        label = self.truth[sample.sample_id].label
        self.seen[label] += 1
        self.right[label] += said.answer == ("No" if label == "normal" else "Yes")

    def __str__(self) -> str:
        if not all(self.seen.values()):
            return ""
        return f"balanced accuracy {50 * sum(self.right[label] / self.seen[label] for label in self.seen):.1f} so far"


def _answer_all(
    context: EvalContext,
    samples: Sequence[Sample],
    truth: Mapping[str, Supervision],
    journal: Journal,
    *,
    refresh: bool,
    allow_unpriced: bool,
) -> dict[str, PolicyAnswer]:
    """Answers by sample id: stored ones, then new ones from the policy."""
    found: dict[str, PolicyAnswer] = {}
    running = _RunningAccuracy(truth)

    def take(sample: Sample, said: PolicyAnswer) -> None:
        journal.add(_item_key(sample), said)
        found[sample.sample_id] = said
        running.count(sample, said)

    for sample in samples:
        if (said := journal.get(_item_key(sample))) is not None:
            found[sample.sample_id] = said
            running.count(sample, said)
    if found:
        console.print(f"{len(found)} of {len(samples)} images are finished already: {journal.path}", highlight=False)
    left = [sample for sample in samples if sample.sample_id not in found]
    _report_reasked(left, journal)
    if not left:
        return found
    policy, description = context.params.evaluate.policy, f"evaluate {left[0].source_set}"
    if policy == "endpoint":
        from eval.served import ask_endpoint

        ask_endpoint(
            context, left, take, description, lambda: str(running), refresh=refresh, allow_unpriced=allow_unpriced
        )
        return found
    if policy == "transformers":
        from eval.local import ask_transformers

        answers = ask_transformers(context, left)
    elif policy == "vllm":
        from eval.local import ask_vllm

        answers = ask_vllm(context, left)
    else:
        from eval.scripted import ask_scripted

        answers = ask_scripted(context, left, truth)
    for sample, said in track(answers, description, len(left), lambda: str(running)):
        take(sample, said)
    return found


def _report_reasked(left: Sequence[Sample], journal: Journal) -> None:
    """Report, before asking, what asking again will cost for items that other code has already finished."""
    items = {_item_key(sample) for sample in left}
    kept = {item: said for done in journal.outdated.values() for item, said in done.items() if item in items}
    if not kept:
        return
    tokens = sum(said.input_tokens + said.output_tokens for said in kept.values())
    seconds, usd = sum(said.seconds for said in kept.values()), sum(said.cost_usd for said in kept.values())
    files = ", ".join(map(str, journal.outdated))
    console.print(
        f"{len(kept)} images were answered by other code ({files}) and are asked again. "
        f"That took {tokens} tokens, {seconds:.0f} s and {usd:.4f} USD; equal requests to an endpoint come "
        "from the cache and cost nothing",
        style="yellow",
        highlight=False,
    )


def _item_key(sample: Sample) -> str:
    """Journal key of a sample: every property that shapes its question."""
    region = "" if sample.region is None else ",".join(map(str, sample.region))
    return " ".join((sample.sample_id, sample.image_sha256, region, sample.category, sample.view))


def _to_prediction(sample: Sample, truth: Supervision, said: PolicyAnswer) -> Prediction:
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
