"""Publication of a trained model: weights, and a card that links corpus, parameters and evaluation."""

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from pydantic import ValidationError

from cot_builder.corpus.models import find_training_corpus, weights_sha256
from cot_builder.params import Params
from cot_builder.publishing import changes, manifest, secrets
from cot_builder.publishing.hub import (
    HUB_FILES,
    README,
    Commit,
    Hub,
    Remote,
    find_changed_files,
    inspect_repo,
    not_compared_message,
    short_revision,
)
from cot_builder.publishing.index import build_index
from cot_builder.publishing.manifest import MANIFEST, NotFoundError, parse_manifest
from cot_builder.storage.output import read_manifest
from cot_builder.storage.results import METRICS_FILE, find_set_folders
from cot_builder.storage.workspace import Workspace, file_hash
from schemas.errors import IndusCotError
from schemas.metrics import Metrics

MODEL_FILES = ("*.safetensors", "*.json", "*.jinja", "*.txt", "*.model")
"""Files of a model and its processor; checkpoints, rollouts and curves are not published."""
UNPUBLISHED_FILES = {"manifest.json", "trainer_state.json"}
TEXT_SUFFIXES = (".md", ".json", ".jinja", ".txt")
VOCABULARIES = ("vocab.json", "merges.txt")
TOKENIZER = "tokenizer.json"


class ModelPlan(NamedTuple):
    """Plan of a publication."""

    repo: str
    version: str
    corpus: str
    """Training corpus, in words."""
    files: Mapping[str, Path | bytes]
    """All files of the publication."""
    changed: Mapping[str, Path | bytes]
    deleted: list[str]
    """Files of an earlier version that this one lacks."""
    remote: Remote | None
    """None if the Hub could not be asked."""
    note: str
    """Reason why the Hub could not be asked."""

    @property
    def is_empty(self) -> bool:
        return not self.changed and not self.deleted


class ModelPublication(NamedTuple):
    """Result of a publication."""

    plan: ModelPlan
    commit: Commit | None
    """None if nothing changed."""
    tag: str
    """Tag of the commit; empty if it has none."""


def plan_model(
    params: Params,
    workspace: Workspace,
    folder: Path,
    repo: str,
    *,
    pull_request: bool = False,
    private: bool = False,
    parent: str = "",
    offline: bool = False,
) -> tuple[ModelPlan, Hub | None]:
    """Plan the publication of a model.

    Args:
        params: The parameters.
        workspace: The project.
        folder: ``models/sft`` or ``models/grpo``.
        repo: ``OWNER/NAME``.
        pull_request: As :func:`publish_model`.
        private: As :func:`publish_model`.
        parent: As :func:`publish_model`.
        offline: Continue without a token or a connection, for a dry run.

    Raises:
        IndusCotError: there is no trained model; a text contains a secret; the Hub refuses; the repository belongs to
            another project or contradicts the options.
    """
    stage = read_manifest(folder).get("stage")
    if stage not in ("sft", "grpo") or not list(folder.glob("*.safetensors")):
        raise IndusCotError(f"{folder}: not a trained model; give models/sft or models/grpo (`indus-cot repro`)")
    parts = {
        path.name: path
        for part in MODEL_FILES
        for path in sorted(folder.glob(part))
        if path.name not in UNPUBLISHED_FILES
    }
    hub, remote, before, note = inspect_repo(
        repo, "model", pull_request=pull_request, private=private, parent=parent, offline=offline
    )
    there = remote.files if remote else {}
    earlier = set(before["files"]) if before else set()
    if strangers := sorted(there.keys() - parts.keys() - earlier - HUB_FILES - {MANIFEST}):
        raise IndusCotError(
            f"{repo}: holds files that neither this model nor its earlier version has ({strangers[0]} …); choose "
            "another name with --repo, or delete them on the Hub"
        )
    corpus, linked = _describe_corpus(params, workspace, folder, asked=remote is not None)
    digests = {name: file_hash(path) for name, path in parts.items()}
    card = _render_model_card(
        folder, repo, linked.get("repo", ""), corpus, _read_evaluations(workspace, folder)
    ).encode()
    state = {
        "format": 1,
        "kind": "model",
        "version": before["version"] if before else "1.0.0",
        "stage": stage,
        "weights_sha256": weights_sha256(folder),
        "corpus": linked,
        "files": {**digests, README: hashlib.sha256(card).hexdigest()},
    }
    files: dict[str, Path | bytes] = {**parts, README: card, MANIFEST: manifest.render_manifest(state).encode()}
    if before and find_changed_files(files, there):
        state["version"] = _next_version(before, state)
        files[MANIFEST] = manifest.render_manifest(state).encode()
    expression = secrets.build_pattern(workspace.root, params)
    for name, source in files.items():
        if name.endswith(TEXT_SUFFIXES):
            text = source.decode() if isinstance(source, bytes) else source.read_text(encoding="utf-8")
            secrets.check_text(_drop_vocabulary(name, text), f"{folder / name}", expression)
    deleted = sorted(earlier & there.keys() - files.keys())
    made = ModelPlan(repo, state["version"], corpus, files, find_changed_files(files, there), deleted, remote, note)
    return made, hub


def _drop_vocabulary(name: str, text: str) -> str:
    """Text of a file without its vocabulary, because some of 150,000 tokens look like a path or a name."""
    if name in VOCABULARIES:
        return ""
    if name == TOKENIZER:
        try:
            return json.dumps({key: value for key, value in json.loads(text).items() if key != "model"})
        except (ValueError, AttributeError):
            return text
    return text


def publish_model(
    params: Params,
    workspace: Workspace,
    folder: Path,
    repo: str,
    *,
    pull_request: bool = False,
    private: bool = False,
    tag: bool = False,
    parent: str = "",
) -> ModelPublication:
    """Push the changed files of a model as one commit; then compare the Hub's hash of every file.

    Args:
        params: The parameters.
        workspace: The project.
        folder: ``models/sft`` or ``models/grpo``.
        repo: ``OWNER/NAME``; created if it does not exist.
        pull_request: Propose a pull request to an existing repository.
        private: Create the repository as private; an existing one must be private.
        tag: Tag the commit with the version.
        parent: Commit that must still be the repository's head.

    Raises:
        IndusCotError: as :func:`plan_model`; somebody else has committed since; a file on the Hub differs; another
            commit has the tag.
    """
    made, hub = plan_model(params, workspace, folder, repo, pull_request=pull_request, private=private, parent=parent)
    assert hub is not None and made.remote is not None
    remote, commit = made.remote, None
    name = f"v{made.version}" if tag else ""
    if not made.is_empty:
        title = f"Indus-CoT model {made.version} from {folder.name}"
        commit = hub.commit(
            made.files, made.changed, made.deleted, remote, title, private=private, pull_request=pull_request, tag=name
        )
        there = hub.list_files(commit.revision, not_compared_message(commit.revision))
        if wrong := sorted([*find_changed_files(made.files, there), *(path for path in made.deleted if path in there)]):
            raise IndusCotError(
                f"{repo}: files of {short_revision(commit.revision)} differ from those that were sent: "
                f"{', '.join(wrong)}; check them on the Hub and publish again"
            )
    if name:
        hub.tag(name, commit.revision if commit else (remote.head or "main"))
    return ModelPublication(made, commit, name)


def _next_version(before: Mapping[str, Any], state: Mapping[str, Any]) -> str:
    """Next version: minor if the weights change, patch if only the card or the processor does."""
    major, minor, patch = map(int, before["version"].split("."))
    if before.get("weights_sha256") != state["weights_sha256"]:
        return f"{major}.{minor + 1}.0"
    return f"{major}.{minor}.{patch + 1}"


def _describe_corpus(params: Params, workspace: Workspace, folder: Path, asked: bool) -> tuple[str, dict[str, str]]:
    """Training corpus of the model: in words, and name and version of its published dataset if there is one.

    Raises:
        IndusCotError: the Hub cannot be asked for the dataset.
    """
    named, here = find_training_corpus(folder, workspace)
    if not here:
        return f"an Indus-CoT corpus that is no longer beside it (manifest sha256 `{named}`)", {}
    repo = params.publish.repo
    if not repo:
        return f"an Indus-CoT corpus (manifest sha256 `{named}`); publish.repo names no dataset", {}
    if not asked:
        return f"an Indus-CoT corpus (manifest sha256 `{named}`); whether {repo} holds it was not checked", {}
    try:
        published = parse_manifest(changes.download_file(repo, MANIFEST).read_bytes(), repo)
    except NotFoundError:
        published = {}
    made = changes.hash_rows(build_index(workspace.indus_cot))
    if published.get("corpus_sha256") == made:
        link = {"repo": repo, "version": published["version"], "sha256": made}
        return f"[{repo}](https://huggingface.co/datasets/{repo}) version {published['version']}", link
    return f"an Indus-CoT corpus other than the one in {repo} (manifest sha256 `{named}`)", {}


def _read_evaluations(workspace: Workspace, folder: Path) -> list[Metrics]:
    """Evaluations of exactly these weights."""
    weights = weights_sha256(folder)
    found = []
    for result in find_set_folders(workspace.results, METRICS_FILE):
        path = result / METRICS_FILE
        try:
            metrics = Metrics.model_validate_json(path.read_text(encoding="utf-8"))
        except ValidationError as error:
            raise IndusCotError(
                f"{path}: not a valid metrics file ({error.errors()[0]['msg']}); run `indus-cot rescore`"
            ) from None
        if metrics.run.model_sha256 == weights:
            found.append(metrics)
    return found


def _render_model_card(folder: Path, repo: str, dataset: str, corpus: str, results: list[Metrics]) -> str:
    """The card of the training, completed with its name on the Hub, the corpus and the evaluation."""
    from huggingface_hub import EvalResult, ModelCard

    if not (folder / README).is_file():
        raise IndusCotError(f"{folder}: the card README.md is missing; train the model again")
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
        lines += [_render_result(item) for item in results]
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


def _render_result(item: Metrics) -> str:
    score = item.overall.balanced_accuracy
    value = f"{score.value:.3f}" if score else "–"
    interval = (
        f"{score.low:.3f} to {score.high:.3f}" if score and score.low is not None and score.high is not None else "–"
    )
    shot = {True: "yes", False: "no", None: "unknown"}[item.contamination.zero_shot]
    return f"| {item.run.set} | {item.run.mode} | {item.overall.images} | {value} | {interval} | {shot} |"
