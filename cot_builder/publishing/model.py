"""A trained model on the Hub: its weights, and a card that links corpus, parameters and evaluation."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from pydantic import ValidationError

from cot_builder.params import Params
from cot_builder.publishing import changes, secrets
from cot_builder.publishing.changes import MANIFEST
from cot_builder.publishing.hub import Commit, Hub, differing, size_of
from cot_builder.publishing.publishable import read_corpus_index
from cot_builder.storage.output import read_manifest
from cot_builder.storage.workspace import Workspace
from eval.contamination import trained_on
from eval.evaluate import weights_sha256
from schemas.errors import IndusCotError
from schemas.metrics import Metrics

README = "README.md"
PARTS = ("*.safetensors", "*.json", "*.jinja", "*.txt", "*.model")
"""Files of a model and its processor; checkpoints, rollouts and curves stay."""
STAY = {"manifest.json", "trainer_state.json"}
TEXTS = (".md", ".json", ".jinja", ".txt")


class ModelPlan(NamedTuple):
    """What would be sent."""

    repo: str
    corpus: str
    """What it was trained on, in words."""
    sizes: Mapping[str, int]
    changed: Mapping[str, Path | bytes]
    gone: list[str]


def plan_model(params: Params, workspace: Workspace, folder: Path, repo: str) -> tuple[ModelPlan, Hub, Any]:
    """What publishing a model would send.

    Raises:
        IndusCotError: no trained model is there; a text of it must not leave; the Hub refuses.
    """
    manifest = read_manifest(folder)
    if manifest["stage"] not in ("sft", "grpo") or not list(folder.glob("*.safetensors")):
        raise IndusCotError(f"{folder}: is no trained model; give models/sft or models/grpo (`indus-cot repro`)")
    files: dict[str, Path | bytes] = {
        path.name: path for part in PARTS for path in folder.glob(part) if path.name not in STAY
    }
    hub = Hub(repo, "model")
    remote = hub.look()
    if strangers := sorted(remote.files.keys() - files.keys() - {".gitattributes", README}):
        raise IndusCotError(
            f"{repo}: holds files that this model does not have ({strangers[0]} …); choose another name with --repo, "
            "or delete them there"
        )
    corpus, link = _corpus(params, workspace, folder)
    files[README] = _card(folder, repo, link, corpus, _results(workspace, folder)).encode()
    expression = secrets.pattern(workspace.root, params)
    for name, source in files.items():
        if name.endswith(TEXTS):
            text = source.decode() if isinstance(source, bytes) else source.read_text(encoding="utf-8")
            secrets.check(text, f"{folder / name}", expression)
    changed = differing(files, remote.files)
    sizes = {name: size_of(source) for name, source in files.items()}
    return ModelPlan(repo, corpus, sizes, changed, []), hub, (remote, files)


def publish_model(
    params: Params,
    workspace: Workspace,
    folder: Path,
    repo: str,
    *,
    pull_request: bool = False,
    private: bool = False,
    parent: str = "",
) -> tuple[ModelPlan, Commit | None, bool]:
    """Push what differs of a model as one commit.

    Raises:
        IndusCotError: as :func:`plan_model`; somebody else has committed since.
    """
    made, hub, (remote, files) = plan_model(params, workspace, folder, repo)
    if parent and not (remote.head or "").startswith(parent):
        raise IndusCotError(f"{repo}: its head is not {parent[:8]}: somebody has committed since; look first")
    if not made.changed:
        return made, None, True
    if remote.head is None:
        if pull_request:
            raise IndusCotError(f"{repo}: is not there, so nothing can be proposed to it; publish without --pr first")
        remote = hub.create(private)
        made = made._replace(changed=differing(files, remote.files))
    hub.validate(files[README].decode())
    return made, hub.push(made.changed, made.gone, remote, f"Indus-CoT model from {folder.name}", pull_request), True


def _corpus(params: Params, workspace: Workspace, folder: Path) -> tuple[str, str]:
    """What it was trained on: in words, and the dataset's name where it is published."""
    named, here = trained_on(folder, workspace)
    if not here:
        return f"an Indus-CoT corpus that is not the one beside it any more (manifest sha256 `{named}`)", ""
    if repo := params.publish.repo:
        try:
            published = json.loads(changes.fetch(repo, MANIFEST).read_text(encoding="utf-8"))
        except IndusCotError:
            published = {}
        made = changes.corpus_sha256(read_corpus_index(workspace.indus_cot))
        if published.get("corpus_sha256") == made:
            return f"[{repo}](https://huggingface.co/datasets/{repo}) version {published['version']}", repo
    return f"an Indus-CoT corpus that is not published (manifest sha256 `{named}`)", ""


def _results(workspace: Workspace, folder: Path) -> list[Metrics]:
    """Evaluations of these very weights."""
    weights = weights_sha256(folder)
    found = []
    for path in sorted(workspace.results.glob("*/metrics.json")):
        try:
            metrics = Metrics.model_validate_json(path.read_text(encoding="utf-8"))
        except ValidationError as error:
            raise IndusCotError(f"{path}: is no metrics file ({error.errors()[0]['msg']}); evaluate again") from None
        if metrics.run.model_sha256 == weights:
            found.append(metrics)
    return found


def _card(folder: Path, repo: str, dataset: str, corpus: str, results: list[Metrics]) -> str:
    """The card that training wrote, with its name on the Hub, the corpus and the evaluation."""
    from huggingface_hub import EvalResult, ModelCard

    if not (folder / README).is_file():
        raise IndusCotError(f"{folder}: has no README.md, the card that training writes; train again")
    found = ModelCard.load(folder / README)
    text = found.text.replace(f'"models/{folder.name}"', f'"{repo}"')
    lines = ["", "## Corpus and evaluation", "", f"Trained on {corpus}.", ""]
    if dataset:
        found.data.datasets = [dataset]
    if results:
        lines += [
            "| set | mode | images | balanced accuracy | 95 % interval | zero-shot |",
            "|---|---|---|---|---|---|",
        ]
        lines += [_line(item) for item in results]
        found.data.model_name = repo.partition("/")[2]
        found.data.eval_results = [
            EvalResult(
                task_type="image-text-to-text",
                dataset_type=item.run.set,
                dataset_name=item.run.set,
                metric_type="accuracy",
                metric_name="balanced accuracy",
                metric_value=round(item.overall.balanced_accuracy.value, 4),
            )
            for item in results
            if item.overall.balanced_accuracy
        ] or None
    else:
        lines.append("It was not evaluated (`indus-cot evaluate`).")
    return f"---\n{found.data}\n---\n{text.rstrip()}\n" + "\n".join(lines) + "\n"


def _line(item: Metrics) -> str:
    score = item.overall.balanced_accuracy
    value = f"{score.value:.3f}" if score else "–"
    interval = (
        f"{score.low:.3f} to {score.high:.3f}" if score and score.low is not None and score.high is not None else "–"
    )
    shot = {True: "yes", False: "no", None: "unknown"}[item.contamination.zero_shot]
    return f"| {item.run.set} | {item.run.mode} | {item.overall.images} | {value} | {interval} | {shot} |"
