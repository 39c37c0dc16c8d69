"""A model is published, with the corpus it learned from and what it was measured at."""

import hashlib
import json
from pathlib import Path

import numpy as np
import pytest
import yaml
from safetensors.numpy import save_file

from cot_builder.corpus.models import weights_sha256
from eval.metrics import compute_metrics, write_metrics
from tests.helpers import predictions
from tests.helpers.hub_client import Client, CommandResult
from tests.helpers.publication import REPO, REVIEWER, assert_refused
from tests.servers.hub_server import HubServer

MODEL = ("publish", "--repo", "owner/model", "--model", "models/sft")
LINKED = ("--set", f"publish.repo={REPO}")


@pytest.fixture
def trained(copy: Path) -> Path:
    """A model, trained on the corpus beside it."""
    folder = copy / "models" / "sft"
    folder.mkdir(parents=True)
    save_file({"weight": np.zeros(3, np.float32)}, folder / "model.safetensors")
    (folder / "config.json").write_text("{}")
    # As a vocabulary of 150,000 pieces holds them: of home folders, of this machine's, of a reviewer's name.
    pieces = {"Ġ~/.": 0, "/root": 1, "/home/bob/x": 2, REVIEWER: 3}
    (folder / "tokenizer.json").write_text(json.dumps({"added_tokens": [], "model": {"vocab": pieces}}))
    (folder / "vocab.json").write_text(json.dumps(pieces))
    (folder / "merges.txt").write_text("/home/bob x\n")
    (folder / "added.txt").write_text("of the first version alone")
    shards = {
        path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in copy.glob("data/indus_cot/data/*.parquet")
    }
    made = {"stage": "sft", "inputs": shards, "counts": {}, "params": {"train": {"model": "tiny"}}}
    (folder / "manifest.json").write_text(json.dumps(made))
    (folder / "README.md").write_text('---\nlicense: other\n---\n# A model\n\nfrom_pretrained("models/sft")\n')
    return folder


def test_model_links_corpus_and_evaluation(
    hub: HubServer, client: Client, published: CommandResult, copy: Path, trained: Path
) -> None:
    hub.repositories.pop(("models", "owner/model"), None)
    done = client.run(*LINKED, *MODEL, "--tag", folder=copy)
    assert done.code == 0 and "commit:" in done.out and "every hash as written" in done.out, done.out
    repository = hub.repository("owner/model", "models")
    assert repository.tags == {"v1.0.0": repository.refs["main"]}
    files = hub.files("owner/model", "models")
    card = files["README.md"].decode()
    assert 'from_pretrained("owner/model")' in card and "was not evaluated" in card
    assert f"- {REPO}\n" in card and "version 1.0.0" in card
    assert "model.safetensors" in files and "manifest.json" not in files
    state = json.loads(files["indus-cot.json"])
    assert state["kind"] == "model" and state["corpus"]["version"] == "1.0.0" and state["corpus"]["repo"] == REPO
    assert "nothing changed: no commit" in client.run(*LINKED, *MODEL, folder=copy).out
    assert_refused(client.run("publish", "--model", "mine", "--repo", "owner/other"), "no manifest.json")
    _evaluated(copy / "results" / "mpdd", weights_sha256(trained), "Yes")
    _evaluated(copy / "results" / "visa", "0" * 64, "No")
    # Reinforced on the same corpus: it is named by its manifest then.
    corpus = hashlib.sha256((copy / "data/indus_cot/manifest.json").read_bytes()).hexdigest()
    made = json.loads((trained / "manifest.json").read_text())
    (trained / "manifest.json").write_text(json.dumps({**made, "stage": "grpo", "inputs": {"corpus": corpus}}))
    done = client.run(*LINKED, *MODEL, "--tag", folder=copy)
    assert done.code == 0 and repository.tags["v1.0.1"] == repository.refs["main"], done.out
    files = hub.files("owner/model", "models")
    card = files["README.md"].decode()
    assert f"- {REPO}\n" in card and "version 1.0.0" in card and "added.txt" in files
    assert "| mpdd | agent | 458 | 0.500 |" in card and "visa" not in card
    assert yaml.safe_load(card.split("---")[1])["model-index"][0]["results"][0]["metrics"][0]["value"] == 0.5
    save_file({"weight": np.ones(3, np.float32)}, trained / "model.safetensors")
    (trained / "added.txt").unlink()
    assert "model 1.1.0" in client.run(*LINKED, *MODEL, folder=copy).out
    assert "added.txt" not in hub.files("owner/model", "models")


def test_a_dry_run_of_a_model(
    hub: HubServer, client: Client, published: CommandResult, copy: Path, trained: Path
) -> None:
    hub.repositories.pop(("models", "owner/model"), None)
    asked = ("--set", "publish.repo=owner/unsure", *MODEL, "--dry-run")
    done = client.run(*asked, folder=copy)
    assert done.code == 0 and "nothing was sent" in done.out, done.out
    assert "corpus other than the one in owner/unsure" in done.out
    assert "publish.repo names no dataset" in client.run(*MODEL, "--dry-run", folder=copy).out
    assert ("models", "owner/model") not in hub.repositories
    done = client.run(*asked, token="", folder=copy)
    assert done.code == 0 and "not compared with the Hub" in done.out and "was not checked" in done.out, done.out
    assert_refused(client.run(*MODEL, "--dry-run", "--pr", folder=copy), "does not exist", "--pr")
    # What is not known is not said.
    hub.fail("owner/unsure", 403, times=99)
    assert_refused(client.run(*asked, folder=copy), "owner/unsure", "(403)")
    for damaged in ('{"stage": "sf', "[]"):
        (trained / "manifest.json").write_text(damaged)
        assert_refused(client.run(*asked, folder=copy), "models/sft/manifest.json: damaged")


def test_a_models_repository_is_guarded(hub: HubServer, client: Client, copy: Path, trained: Path) -> None:
    hub.repositories.pop(("models", "owner/model"), None)
    hub.after_commit = lambda: hub.alter("owner/model", "model.safetensors", b"others", "models")
    assert_refused(client.run(*MODEL, folder=copy), "differ from those that were sent: model.safetensors")
    hub.after_commit = lambda: None
    assert "every hash as written" in client.run(*MODEL, folder=copy).out
    assert_refused(client.run(*MODEL, "--private", folder=copy), "exists and is public")
    hub.put("owner/model", "notes.txt", b"mine", "models")
    assert_refused(client.run(*MODEL, folder=copy), "holds files that neither this model", "notes.txt")
    hub.make("owner/finetune", "models")
    for name in ("config.json", "model.safetensors", "README.md"):
        hub.put("owner/finetune", name, b"{}", "models")
    theirs = hub.files("owner/finetune", "models")
    done = client.run("publish", "--repo", "owner/finetune", "--model", "models/sft", folder=copy)
    assert_refused(done, "did not publish this model", "config.json")
    assert hub.files("owner/finetune", "models") == theirs


def _evaluated(folder: Path, weights: str, answer: str) -> None:
    table = predictions.make_mpdd_predictions(lambda bad, rng: answer)
    run = predictions.make_run(set=folder.name, model="models/sft", model_sha256=weights)
    found = compute_metrics(
        table, run, predictions.make_listing(458, 458), predictions.UNKNOWN_CONTAMINATION, draws=20, seed=0
    )
    folder.mkdir(parents=True)
    write_metrics(found, folder)
