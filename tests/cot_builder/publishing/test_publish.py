"""Publishing against a stand-in for the Hub: what arrives, what is refused, and that it loads as a stranger would."""

import hashlib
import json
import re
import shutil
import time
from collections.abc import Callable, Iterator
from email.utils import formatdate
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml
from safetensors.numpy import save_file

from cot_builder.corpus.models import weights_sha256
from cot_builder.corpus.writing import row_id
from cot_builder.publishing.configs import IMAGES, REFERENCE
from cot_builder.stages.assemble import assemble
from cot_builder.storage.images import decode, encode_png
from cot_builder.storage.output import stage_output
from cot_builder.storage.workspace import Workspace, file_hash
from eval.metrics import metrics, write_metrics
from schemas.review import REVIEW, Change, Review
from schemas.supervision import SUPERVISION
from schemas.trajectory import DRAFT, Draft, Trajectory, Violation
from tests.helpers import predictions, small_corpus, training_project
from tests.helpers.hub_client import Client, Done
from tests.helpers.paths import ROOT
from tests.servers.hub_server import OWNER, READER, HubServer

REPO = "owner/indus-cot"
REVIEWER = "Jane.Doe@inspectors.example"
STATED = {"licence": "CC BY 4.0", "redistribution": "allowed", "attribution": "Parts of ours, (c) the tests"}
Rows = list[dict[str, Any]]


@pytest.fixture(scope="module")
def hub() -> Iterator[HubServer]:
    server = HubServer()
    yield server
    server.close()


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A corpus with a draft that a gate turned down, one that an expert corrected, and parameters beside it."""
    root = tmp_path_factory.mktemp("publish")
    workspace = small_corpus.build(root, **STATED)
    table = DRAFT.read(workspace.draft / "trajectory.parquet")
    drafts: list[Draft] = DRAFT.records(table)
    _turn_down(workspace, drafts[7])
    _correct(workspace, drafts[9])
    assemble(small_corpus.params(), workspace)
    (root / ".indus-cot").mkdir()
    shutil.copytree(ROOT / "profiles", root / "profiles")
    write_params(root, mine=STATED)
    return root


def write_params(root: Path, **sets: dict[str, str]) -> None:
    values = yaml.safe_load((ROOT / "params.yaml").read_text())
    source = {"benchmark": "folder", "source": "mine/parts.csv", "role": "train"}
    values["pull"] = {name: source | stated for name, stated in sets.items()}
    (root / "params.yaml").write_text(yaml.safe_dump(values))


def _turn_down(workspace: Workspace, draft: Draft) -> None:
    """A second candidate of a sample, which the length gate refused; it calls a tool whose image nobody kept."""
    path = workspace.draft / "rejected.parquet"
    text = draft.trajectory.replace("Something is off", "Something is, at length, off")
    other = {
        "draft_id": f"{draft.sample_id}#1", "trajectory": text,
        "violations": [Violation(gate="length", reason="long")], "draft_sha256": hashlib.sha256(text.encode()).hexdigest(),
    }  # fmt: skip
    DRAFT.write(DRAFT.frame([*DRAFT.records(DRAFT.read(path)), draft.model_copy(update=other)]), path)


def _correct(workspace: Workspace, draft: Draft) -> None:
    """What an expert said of a draft: one thought in other words."""
    before = Trajectory.model_validate_json(draft.trajectory)
    last = before.turns[-1].model_copy(update={"thought": "In better words, it ends."})
    after = before.model_copy(update={"turns": [*before.turns[:-1], last]})
    review = Review(
        review_id="1/1", draft_id=draft.draft_id, draft_sha256=draft.draft_sha256, role="review", reviewer=REVIEWER,
        reviewed_at="2026-03-04T05:06:07Z", seconds=31.5, verdict="fixed", reasons=[], evidence_rating=4, logic_rating=5,
        comment=f"says {REVIEWER}",
        changes=[Change(field="turns.0.thought", before=before.turns[-1].thought, after=last.thought)],
        trajectory=after.model_dump_json(), result="[]", caught=None, problems=[],
    )  # fmt: skip
    with stage_output(workspace.review, stage="review", params={}, inputs={}) as output:
        REVIEW.write(REVIEW.frame([review]), output.path / "reviews.parquet")


@pytest.fixture(scope="module")
def client(hub: HubServer, project: Path) -> Iterator[Client]:
    made = Client(project, hub.url, OWNER)
    yield made
    made.close()


@pytest.fixture(scope="module")
def published(hub: HubServer, client: Client) -> Done:
    """The first publication, which most tests look at and none changes."""
    done = client.run("publish", "--repo", REPO, "--tag")
    assert done.code == 0, done.out
    return done


@pytest.fixture(autouse=True)
def _no_faults(hub: HubServer) -> Iterator[None]:
    yield
    hub.faults.clear()
    hub.before_create = hub.before_commit = hub.after_commit = lambda: None
    hub.card_fault = ""


@pytest.fixture
def copy(project: Path, tmp_path: Path) -> Path:
    """A project of its own to spoil; the shards of the corpus are copied, everything else is linked."""
    for name in ("params.yaml", "profiles", "reports", "mine", ".indus-cot"):
        (tmp_path / name).symlink_to(project / name)
    (tmp_path / "data").mkdir()
    for path in (project / "data").iterdir():
        if path.name not in ("indus_cot", "publish") and path.is_dir():
            (tmp_path / "data" / path.name).symlink_to(path)
    shutil.copytree(project / "data" / "indus_cot", tmp_path / "data" / "indus_cot")
    return tmp_path


def change(project: Path, what: Callable[[Rows], object], split: str = "train") -> None:
    """Change rows of a split, by default the training split, as if `assemble` had written them so."""
    for shard in sorted((project / "data/indus_cot/data").glob(f"{split}-*.parquet")):
        table = pq.read_table(shard)
        rows = table.to_pylist()
        what(rows)
        pq.write_table(pa.Table.from_pylist(rows, schema=table.schema), shard)
    validated(project)


def validated(project: Path) -> None:
    """The manifest of the corpus says what its shards are now, and that they were made from what lies there now."""
    corpus = project / "data/indus_cot"
    made_from = {
        "trajectory": project / "data/draft/trajectory.parquet",
        "reviews": project / "data/review/reviews.parquet",
    }
    shards = {f"data/{path.name}": path.read_bytes() for path in sorted((corpus / "data").glob("*.parquet"))}
    training_project.with_manifest(
        corpus,
        outputs={name: hashlib.sha256(data).hexdigest() for name, data in shards.items()},
        inputs={name: file_hash(path) for name, path in made_from.items() if path.is_file()},
    )


def reworded(row: dict[str, Any]) -> None:
    for name in ("messages", "trajectory", "tagged"):
        row[name] = row[name].replace("it ends for", "it comes to its end for")


def refused(done: Done, *words: str) -> None:
    assert done.code == 1, done.out
    assert "Traceback" not in done.out
    for word in words:
        assert word in done.out


# --- what arrives -----------------------------------------------------------------------------------


def test_everything_arrives_and_is_compared(hub: HubServer, published: Done, project: Path) -> None:
    files = hub.files(REPO)
    assert {path.partition("/")[0] for path in files} == {
        "sft", "rl", "preference", "review", "assets", "index.parquet", "README.md", "CHANGELOG.md", "indus-cot.json",
        "croissant.json",
    }  # fmt: skip
    for path in (project / "data/publish").rglob("*.parquet"):
        assert files[path.relative_to(project / "data/publish").as_posix()] == path.read_bytes()
    shards = [path for path in (project / "data/publish").rglob("*.parquet") if path.name != "index.parquet"]
    rows = sum(pq.read_metadata(path).num_rows for path in shards)
    assert rows > 2 * _rows_of_corpus(project) and f"{rows} rows loaded back, every hash as written" in published.out
    assert hub.repository(REPO).tags == {"v1.0.0": hub.repository(REPO).refs["main"]}
    for step in (
        "check the corpus (shards): 2 in ",
        "publishable train (batches): ",
        f"upload to {REPO} ",
        "compare sft train: ",
    ):
        assert step in published.out, published.out


def _rows_of_corpus(project: Path) -> int:
    return sum(pq.read_metadata(path).num_rows for path in (project / "data/indus_cot/data").glob("*.parquet"))


def test_nothing_changed_means_no_commit(hub: HubServer, client: Client, published: Done) -> None:
    before, sent = dict(hub.repository(REPO).commits), len(hub.uploads)
    again = client.run("publish", "--repo", REPO, "--tag")
    assert "nothing changed: no commit" in again.out
    assert hub.repository(REPO).commits == before and len(hub.uploads) == sent


def test_a_dry_run_sends_nothing(hub: HubServer, client: Client, published: Done, copy: Path) -> None:
    change(copy, lambda rows: reworded(rows[2]))
    seen = len(hub.seen)
    done = client.run("publish", "--repo", REPO, "--dry-run", folder=copy)
    assert done.code == 0, done.out
    assert all(line.startswith(("GET", "HEAD")) for line in hub.seen[seen:])
    for word in ("1 changed", "redistribution allowed", "CC BY 4.0", "MB", "nothing was sent", "Indus-CoT 1.0.1"):
        assert word in done.out


def test_a_dry_run_needs_no_token(client: Client, published: Done) -> None:
    done = client.run("publish", "--repo", REPO, "--dry-run", token="")
    assert done.code == 0 and "not compared with the Hub" in done.out and "hf auth login" in done.out


def test_a_dry_run_refuses_what_the_run_would_refuse(hub: HubServer, client: Client, published: Done) -> None:
    dry = ("publish", "--dry-run", "--repo")
    refused(client.run(*dry, REPO, token="hf_wrongwrongwrongwrong"), "does not know the token (401)")
    refused(client.run(*dry, "nameless", token=""), "no repository", "OWNER/NAME")
    refused(client.run(*dry, "owner/missing", "--pr"), "is not there", "--pr")
    refused(client.run(*dry, REPO, "--parent", "0" * 40), "somebody has committed since")
    refused(client.run(*dry, "owner/missing", "--parent", "0" * 40), "is not there, so 00000000 cannot be its head")
    hub.make("owner/a-model", "models")
    refused(client.run(*dry, "owner/a-model"), "is a model on the Hub")
    hub.fail("whoami", 0, times=99)
    client.python("from cot_builder.storage import retry; retry.BACKOFF_S = 0.01")
    done = client.run(*dry, REPO)
    assert done.code == 0 and "not compared with the Hub" in done.out and "the connection broke" in done.out, done.out


def test_every_configuration_loads_plain_and_streaming(client: Client, published: Done, project: Path) -> None:
    code = f"""
import datasets
value = {{}}
for config in ("sft", "rl", "preference", "review"):
    plain = datasets.load_dataset({REPO!r}, config)
    for split, rows in plain.items():
        streamed = list(datasets.load_dataset({REPO!r}, config, split=split, streaming=True))
        assert [row["id"] for row in streamed] == rows["id"], config
        assert streamed[0].keys() == rows[0].keys()
    value[config] = [sum(map(len, plain.values())), sorted(plain["train"].column_names)]
row = datasets.load_dataset({REPO!r})["train"][0]
assert row["messages"][0]["role"] == "system" and row["images"][0].size == (200, 160)
assert row["tools"][0]["function"]["name"] == "crop"
"""
    found = client.python(code)
    due = {"sft": _rows_of_corpus(project), "rl": _rows_of_corpus(project), "preference": 2, "review": 1}
    assert {config: rows for config, (rows, _) in found.items()} == due
    truth = {"answer", "boxes", "defect_type", "label", "raw_type", "source_path"}
    assert not truth & {*found["sft"][1], *found["preference"][1]}
    assert {"prompt", "image", "answer", "boxes", "defect_type"} <= set(found["rl"][1])


def test_preferences_are_what_was_turned_down_beside_what_was_taken(client: Client, published: Done) -> None:
    rows = client.python(
        f"""
import datasets
value = []
for split in datasets.load_dataset({REPO!r}, "preference").values():
    for row in split:
        shown = [part for turn in row["rejected"] for part in turn["content"] if part["type"] == "image"]
        assert len(shown) == len(row["rejected_images"]) == len(row["rejected_references"])
        value.append([row["origin"], row["reasons"], str(row["chosen"]), str(row["rejected"]), len(shown)])
"""
    )
    gates, review = sorted(rows)
    assert gates[:2] == ["gates", ["length"]] and "at length" in gates[3] and "at length" not in gates[2] and gates[4]
    assert review[0] == "review" and "In better words" in review[2] and "In better words" not in review[3]


def test_reviewers_are_pseudonyms(hub: HubServer, client: Client, published: Done, project: Path) -> None:
    row = client.python(f"import datasets; value = list(datasets.load_dataset({REPO!r}, 'review').values())[0][0]")
    assert (
        re.fullmatch(r"reviewer-[0-9a-f]{8}", row["reviewer"])
        and row["verdict"] == "fixed"
        and row["day"] == "2026-03-04"
    )
    assert row["reviewer"] != f"reviewer-{hashlib.sha256(REVIEWER.lower().encode()).hexdigest()[:8]}"
    salt = (project / ".indus-cot/publish.salt").read_bytes()
    for path, content in {**hub.files(REPO), **_tables(hub.files(REPO))}.items():
        assert b"jane" not in content.lower() and salt not in content, path


def _tables(files: dict[str, bytes]) -> dict[str, bytes]:
    """The texts of the tables, which are compressed."""
    shards = {path: pq.read_table(pa.BufferReader(data)) for path, data in files.items() if path.endswith(".parquet")}
    return {f"{path} read": repr(table.to_pylist()).encode() for path, table in shards.items()}


def test_the_token_appears_nowhere(hub: HubServer, client: Client, published: Done, project: Path) -> None:
    assert OWNER not in client.said and not [line for line in hub.seen if OWNER in line]
    for path, content in {**hub.files(REPO), **_tables(hub.files(REPO))}.items():
        assert OWNER.encode() not in content, path
    for file in filter(Path.is_file, (project / "data/publish").rglob("*")):
        assert OWNER.encode() not in file.read_bytes(), file


def test_the_card_says_what_it_must(hub: HubServer, published: Done, tmp_path: Path) -> None:
    from huggingface_hub import DatasetCard

    files = hub.files(REPO)
    (tmp_path / "README.md").write_bytes(files["README.md"])
    card = DatasetCard.load(tmp_path / "README.md")
    assert card.data.license == "cc-by-4.0" and card.data.size_categories == ["n<1K"]
    assert [item["config_name"] for item in card.data.configs] == ["sft", "rl", "preference", "review"]
    sizes = {item["config_name"]: item["splits"] for item in card.data.dataset_info}
    rows = sum(
        pq.read_metadata(pa.BufferReader(data)).num_rows
        for path, data in files.items()
        if path.startswith("sft/train/")
    )
    assert sizes["sft"][0]["num_examples"] == rows
    for picture in re.findall(r'(?:src="|\]\()(assets/[^")]+)', card.text):
        assert files[picture].startswith(b"\x89PNG"), picture
    for word in (f'load_dataset("{REPO}", "sft")', "Parts of ours, (c) the tests", "Known faults", "## Leakage", "fixed (1)",
                 "What it is for, and what not", "Agreement of experts", "| leak | 1 |", "arXiv:2605.20682", "**1.0.0**"):  # fmt: skip
        assert word in card.text, word
    assert "<script" not in card.text


def test_croissant_is_valid_and_can_be_iterated(hub: HubServer, published: Done, tmp_path: Path) -> None:
    croissant = pytest.importorskip("mlcroissant")
    for path, data in hub.files(REPO).items():
        (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / path).write_bytes(data)
    found = croissant.Dataset(jsonld=tmp_path / "croissant.json", mapping={"repo": tmp_path})
    assert not found.metadata.issues.errors and not found.metadata.issues.warnings
    for config in ("sft", "rl", "preference", "review"):
        due = sum(pq.read_metadata(path).num_rows for path in (tmp_path / config).rglob("*.parquet"))
        rows = list(found.records(config))
        assert len(rows) == due
        for column in IMAGES[config].values():
            # Every entry of a structure, not its first alone.
            assert {f"{config}/{column}.{name}" for name in REFERENCE} <= rows[0].keys()


def test_sft_trainer_trains_from_the_published_rows(client: Client, published: Done, hub: HubServer) -> None:
    code = next(
        block
        for block in re.findall(r"```python\n(.*?)```", hub.files(REPO)["README.md"].decode(), re.DOTALL)
        if "SFT" in block
    )
    code = code.replace("MODEL", '"tiny"').replace(
        '"out", ', '"out", max_steps=1, report_to=[], use_cpu=True, bf16=False, '
    )
    steps = client.python(
        "from pathlib import Path\nfrom tests.helpers import training_project\nfrom train import corpus\n"
        "rows = corpus.read(Path('data/indus_cot'))['train']\n"
        "training_project.build_model(Path('tiny'), corpus.texts(rows))\n"
        "from train import torchvision_ops; torchvision_ops.declare()\n"
        + code
        + """
import io
from train.collator import collator
def png(image):
    sink = io.BytesIO()
    image.save(sink, "PNG")
    return {"bytes": sink.getvalue()}
value = [trainer.state.global_step]
for row in (corpus[0], next(row for row in corpus if len(row["images"]) > 1)):
    ours = collator(processor)([{**row, "images": [png(image) for image in row["images"]]}])
    theirs = collate([row])
    value += [ours["input_ids"].equal(theirs["input_ids"]), ours["labels"].equal(theirs["labels"])]
"""
    )
    # The loss of the card's snippet is on the tokens that `sft` has it on, and on no other.
    assert steps == [1, True, True, True, True]


# --- what changes -----------------------------------------------------------------------------------


def test_of_a_change_only_its_shards_travel(hub: HubServer, client: Client, published: Done, copy: Path) -> None:
    name = "owner/changes"
    assert client.run("publish", "--repo", name, folder=copy).code == 0
    first = hub.repository(name).refs["main"]
    hub.put(name, "assets/logo.png", b"of a co-owner")
    before, sent = hub.files(name), len(hub.uploads)
    change(copy, lambda rows: reworded(rows[2]))
    done = client.run("publish", "--repo", name, folder=copy)
    assert done.code == 0, done.out
    after = hub.files(name)
    moved = {path for path in after if after[path] != before.get(path)}
    assert len([path for path in moved if path.startswith("sft/")]) == 1
    assert not [path for path in moved if path.startswith(("rl/", "review/"))]
    assert len(hub.uploads) - sent == len([path for path in moved if path.endswith((".parquet", ".png"))])
    assert "0 rows added, 0 removed, 1 changed, 0 reviewed again" in done.out and "Indus-CoT 1.0.1" in done.out
    assert "1.0.1" in after["CHANGELOG.md"].decode() and "1 changed" in after["CHANGELOG.md"].decode()
    assert after["assets/logo.png"] == b"of a co-owner"
    for other in (str(copy / "data/indus_cot"), name):
        said = client.run("diff", f"{name}@{first}", other)
        assert said.code == 0 and "1 changed" in said.out and "mine/" in said.out, said.out


def test_rows_that_go_take_their_shards_along(hub: HubServer, client: Client, published: Done, copy: Path) -> None:
    shutil.rmtree(copy / "data/indus_cot/data")
    (copy / "data/indus_cot/data").mkdir()
    source = client.folder / "data/indus_cot/data"
    shutil.copy(source / "train-00000.parquet", copy / "data/indus_cot/data")
    manifest = copy / "data/indus_cot/manifest.json"
    values = json.loads(manifest.read_text())
    gone = values["counts"].pop("validation")
    manifest.write_text(json.dumps(values))
    name = "owner/fewer"
    assert client.run("publish", "--repo", name).code == 0
    done = client.run("publish", "--repo", name, folder=copy)
    assert done.code == 0 and f"{gone} removed" in done.out and "Indus-CoT 1.1.0" in done.out, done.out
    assert not [path for path in hub.files(name) if "/validation/" in path]


def test_a_pull_request_leaves_main_alone(hub: HubServer, client: Client, published: Done, copy: Path) -> None:
    change(copy, lambda rows: reworded(rows[3]))
    main = hub.repository(REPO).refs["main"]
    hub.fail(f"POST /api/datasets/{REPO}/commit", 0, when="done")
    done = client.run("publish", "--repo", REPO, "--pr", folder=copy)
    assert done.code == 0 and "pull request:" in done.out and "rows loaded back" in done.out, done.out
    assert hub.faults[0].times == 0 and hub.repository(REPO).refs["main"] == main
    assert hub.files(REPO, revision="refs/pr/1") != hub.files(REPO)
    # Neither a lost answer nor a second run makes a second one.
    again = client.run("publish", "--repo", REPO, "--pr", folder=copy).out
    assert f"{REPO}/discussions/1; compared before" in again, again
    assert len(hub.repository(REPO).proposals) == 1
    refused(client.run("publish", "--repo", REPO, "--pr", "--tag", folder=copy), "no version yet", "--tag")


def test_a_tag_stays_where_it_is(hub: HubServer, client: Client, published: Done, copy: Path) -> None:
    name, words = "owner/tagged", ("publish", "--repo", "owner/tagged", "--tag")
    assert client.run(*words, folder=copy).code == 0
    repository = hub.repository(name)
    first, head = list(repository.commits)
    repository.tags |= {"v1.0.0": first, "v1.0.1": first}
    refused(client.run(*words, folder=copy), f"another commit, {first[:8]}, has the tag v1.0.0")
    change(copy, lambda rows: reworded(rows[2]))
    sent = len(hub.uploads)
    refused(client.run(*words, folder=copy), "has the tag v1.0.1", "nothing was sent")
    assert repository.refs["main"] == head and len(hub.uploads) == sent


def test_private_is_no_wish(hub: HubServer, client: Client, published: Done, copy: Path) -> None:
    change(copy, lambda rows: reworded(rows[2]))
    head, sent = hub.repository(REPO).refs["main"], len(hub.uploads)
    for words in ((), ("--dry-run",), ("--pr",)):
        refused(
            client.run("publish", "--repo", REPO, "--private", *words, folder=copy), "is there and public", "--private"
        )
    assert hub.repository(REPO).refs["main"] == head and len(hub.uploads) == sent


def test_who_may_only_read_writes_nothing(hub: HubServer, client: Client, published: Done, copy: Path) -> None:
    change(copy, lambda rows: reworded(rows[2]))
    head, sent = hub.repository(REPO).refs["main"], len(hub.uploads)
    refused(client.run("publish", "--repo", REPO, token=READER, folder=copy), "no right to write there (403)")
    assert hub.repository(REPO).refs["main"] == head and len(hub.uploads) == sent


def test_what_is_served_with_other_bytes_is_refused(hub: HubServer, client: Client, copy: Path) -> None:
    name = "owner/altered"

    def alter(what: Callable[[Rows], Rows]) -> None:
        for path, data in hub.files(name).items():
            if path.startswith("sft/train/"):
                table = pq.read_table(pa.BufferReader(data))
                sink = pa.BufferOutputStream()
                pq.write_table(pa.Table.from_pylist(what(table.to_pylist()), schema=table.schema), sink)
                hub.alter(name, path, sink.getvalue().to_pybytes())

    words = ("publish", "--repo", name)
    hub.after_commit = lambda: alter(lambda rows: [*rows[:-1], {**rows[-1], "category": "another"}])
    refused(client.run(*words, folder=copy), "sft, train, row ", "what was loaded back differs")
    hub.after_commit = lambda: alter(lambda rows: [])
    refused(client.run(*words, folder=copy), "loaded back")
    hub.after_commit = lambda: None
    assert "every hash as written" in client.run(*words, folder=copy).out


def test_somebody_elses_commit_is_not_overwritten(hub: HubServer, client: Client, published: Done, copy: Path) -> None:
    name = "owner/shared"
    assert client.run("publish", "--repo", name, "--private").code == 0
    assert hub.repository(name).private
    change(copy, lambda rows: reworded(rows[4]))
    hub.before_commit = lambda: hub.put(name, "notes.txt", b"mine")
    refused(client.run("publish", "--repo", name, folder=copy), "somebody else has committed since")
    assert hub.files(name)["notes.txt"] == b"mine" and "1.0.1" not in hub.files(name)["CHANGELOG.md"].decode()
    refused(client.run("publish", "--repo", name, "--parent", "0" * 40, folder=copy), "somebody has committed since")


def test_a_repository_that_somebody_else_makes_meanwhile_is_not_overwritten(
    hub: HubServer, client: Client, published: Done
) -> None:
    def made(path: str, data: bytes) -> None:
        if ("datasets", "owner/meanwhile") not in hub.repositories:
            hub.make("owner/meanwhile")
            hub.put("owner/meanwhile", path, data)

    manifest = hub.files(REPO)["indus-cot.json"]
    for path, data, told in (
        ("notes.txt", b"mine", "holds notes.txt"),
        ("indus-cot.json", manifest, "somebody else has published to it"),
    ):
        hub.repositories.pop(("datasets", "owner/meanwhile"), None)
        hub.before_create = partial(made, path, data)
        refused(client.run("publish", "--repo", "owner/meanwhile"), told)
        assert hub.files("owner/meanwhile") == {path: data}


def test_what_arrived_of_an_interrupted_upload_is_kept(hub: HubServer, client: Client, copy: Path) -> None:
    def marked(rows: Rows) -> None:
        for row in rows:
            row["teacher"] = "another"

    change(copy, marked)
    start = len(hub.uploads)
    hub.fail("PUT /_lfs", 400, times=99, after=5)
    refused(client.run("publish", "--repo", "owner/cut", folder=copy), "the Hub refuses")
    arrived = len(hub.uploads) - start
    assert arrived and len(hub.repository("owner/cut").commits) == 1
    hub.faults.clear()
    there, asked = set(hub.large), len(hub.seen)
    assert client.run("publish", "--repo", "owner/cut", folder=copy).code == 0
    sent = {path.rpartition("/")[2] for path in hub.seen[asked:] if path.startswith("PUT /_lfs/")}
    assert sent and not sent & there, "what had arrived is not sent again"
    assert [path for path in hub.files("owner/cut") if path.startswith("sft/")]


@pytest.mark.parametrize("status", [403, 404])
def test_what_could_not_be_loaded_back_is_compared_by_the_next_run(
    hub: HubServer, client: Client, copy: Path, status: int
) -> None:
    words = ("publish", "--repo", f"owner/unseen-{status}")
    hub.fail("/resolve/", status, times=999)
    refused(client.run(*words, folder=copy), "is committed as", "run the same command again")
    hub.faults.clear()
    done = client.run(*words, folder=copy)
    assert "nothing changed: no commit" in done.out and "rows loaded back, every hash as written" in done.out
    assert "loaded back" not in client.run(*words, folder=copy).out


def test_a_refused_commit_leaves_no_doubt(hub: HubServer, client: Client, copy: Path) -> None:
    hub.fail("POST /api/datasets/owner/forbidden/commit", 403)
    done = client.run("publish", "--repo", "owner/forbidden", folder=copy)
    refused(done, "no right to write there (403)")
    assert "not known" not in done.out and "is committed" not in done.out, done.out


def test_a_commit_that_could_not_be_tagged_is_said_to_stand(hub: HubServer, client: Client, copy: Path) -> None:
    words = ("publish", "--repo", "owner/untagged", "--tag")
    hub.fail("POST /api/datasets/owner/untagged/tag", 403)
    refused(client.run(*words, folder=copy), "no right to write there (403)", "is committed, without the tag v1.0.0")
    assert not hub.repository("owner/untagged").tags
    assert client.run(*words, folder=copy).code == 0
    assert hub.repository("owner/untagged").tags == {"v1.0.0": hub.repository("owner/untagged").refs["main"]}


def test_the_same_rows_assembled_again_are_no_new_version(hub: HubServer, client: Client, copy: Path) -> None:
    words = ("publish", "--repo", "owner/same")
    assert client.run(*words, folder=copy).code == 0
    manifest = copy / "data/indus_cot/manifest.json"
    manifest.write_text(json.dumps({**json.loads(manifest.read_text()), "seconds": 1234.5}))
    assert "nothing changed: no commit" in client.run(*words, folder=copy).out
    assert len(hub.repository("owner/same").commits) == 2


def test_a_review_of_an_earlier_draft_is_no_decision_on_this_row(hub: HubServer, client: Client, copy: Path) -> None:
    assert client.run("publish", "--repo", "owner/reviews", folder=copy).code == 0
    assert [path for path in hub.files("owner/reviews") if path.startswith("review/")]
    path = copy / "data/review"
    reviews = REVIEW.records(REVIEW.read(path / "reviews.parquet"))
    path.unlink()
    path.mkdir()
    earlier = [review.model_copy(update={"draft_sha256": "0" * 64}) for review in reviews]
    REVIEW.write(REVIEW.frame(earlier), path / "reviews.parquet")
    refused(client.run("publish", "--repo", "owner/reviews", folder=copy), "another reviews.parquet", "repro assemble")
    validated(copy)
    assert client.run("publish", "--repo", "owner/reviews", folder=copy).code == 0
    assert not [path for path in hub.files("owner/reviews") if path.startswith("review/")]


@pytest.mark.parametrize(
    ("part", "status", "retry_after", "when"),
    [
        ("whoami", 429, "1", ""),
        ("preupload", 500, "", ""),
        ("PUT /_lfs", 0, "", "half"),
        ("POST /api/datasets/owner/weather/commit", 0, "", ""),
        ("POST /api/datasets/owner/weather/commit", 0, "", "done"),
    ],
)
def test_bad_weather_passes(
    hub: HubServer, client: Client, copy: Path, part: str, status: int, retry_after: str, when: str
) -> None:
    name = "owner/weather"
    before = len(hub.repository(name).commits) if ("datasets", name) in hub.repositories else 1
    hub.fail(part, status, retry_after=retry_after, when=when)
    change(copy, lambda rows: rows[0].update(teacher=f"weather {part.partition(' ')[0]} {when}"))
    done = client.run("publish", "--repo", name, folder=copy)
    assert done.code == 0 and "every hash as written" in done.out, done.out
    assert hub.faults[0].times == 0 and len(hub.repository(name).commits) == before + 1


def test_the_hub_is_asked_again_when_it_says(hub: HubServer, client: Client, published: Done) -> None:
    """The client's clock is not waited for: it notes what it would have waited."""
    client.python(
        "import types; from cot_builder.storage import retry\n"
        "retry.kept, retry.waits = retry.time, []\n"
        "retry.time = types.SimpleNamespace(sleep=retry.waits.append, time=retry.kept.time)"
    )
    for said in ("90", formatdate(time.time() + 300, usegmt=True), "soon"):
        hub.fail("whoami", 429, retry_after=said)
    words = ("publish", "--repo", REPO, "--dry-run")
    done = client.run(*words)
    number, date, _ = client.python("from cot_builder.storage import retry; value = retry.waits")
    assert done.code == 0 and number == 90 and 200 < date <= 300 and "trying again in 90 s" in done.out, done.out
    hub.fail("whoami", 429, retry_after="7200")
    refused(client.run(*words), "the Hub answers 429", "come back in 120 minutes")
    client.python("from cot_builder.storage import retry; retry.time = retry.kept")


# --- licences ---------------------------------------------------------------------------------------


@pytest.fixture
def guarded(copy: Path) -> Path:
    """The same corpus; the images of one category are of a set that nothing says may be passed on, one is a region."""

    def guard(rows: Rows) -> None:
        for row in rows:
            if row["category"] == "widget":
                row.update(source_set="guarded", licence="unknown")
        row = next(item for item in rows if item["category"] == "widget" and len(item["images"]) == 1)
        row["region"] = [20, 10, 180, 150]
        pixels = decode(row["image"]["bytes"], tuple(row["region"]))
        row["images"][0] = {"bytes": encode_png(pixels), "path": f"{row['id']}_region.png"}

    change(copy, guard)
    (copy / "params.yaml").unlink()
    write_params(copy, mine=STATED, guarded={})
    return copy


def test_a_rehydrated_corpus_equals_an_embedded_one(hub: HubServer, client: Client, guarded: Path) -> None:
    done = client.run("publish", "--repo", "owner/mixed", folder=guarded)
    assert (
        done.code == 0 and "licence unknown" in done.out and "guarded: unknown; redistribution unknown" in done.out
    ), done.out
    rows = client.python(
        "import datasets; value = [[row['source_set'], len(row['images'])] for row in datasets.load_dataset('owner/mixed', 'sft')['train']]"
    )
    assert {bool(images) for name, images in rows if name == "guarded"} == {False}
    assert {bool(images) for name, images in rows if name == "mine"} == {True}
    refused(client.run("rehydrate", "owner/mixed", folder=guarded), "guarded", "--source guarded=PATH")
    twice = ("--source", "guarded=mine", "--source", "guarded=mine/parts.csv")
    refused(client.run("rehydrate", "owner/mixed", *twice, folder=guarded), "guarded is mine already")
    made = client.run("rehydrate", "owner/mixed", "--source", "guarded=mine/parts.csv", "--to", "whole", folder=guarded)
    assert made.code == 0 and "every sha256 as published" in made.out, made.out
    (guarded / "params.yaml").unlink()
    write_params(guarded, mine=STATED, guarded=STATED)
    change(guarded, lambda rows: [row.update(licence="CC BY 4.0") for row in rows])
    assert client.run("publish", "--repo", "owner/embedded", "--dry-run", folder=guarded).code == 0
    embedded, whole = guarded / "data/publish", guarded / "whole"
    card = (whole / "README.md").read_text()
    assert "made whole" in card and "by reference" not in card and "may not be passed on" not in card
    size = sum(path.stat().st_size for path in (whole / "sft/train").glob("*.parquet")) / 1e6
    assert re.search(rf"\| `sft` \| train \| \d+ \| {size:.1f} \|", card)
    state = json.loads((whole / "indus-cot.json").read_text())
    assert {name: source["images"] for name, source in state["sources"].items()} == dict.fromkeys(
        ("guarded", "mine"), "embedded"
    )
    published = hub.files("owner/mixed")
    assert (whole / "croissant.json").read_bytes() == published["croissant.json"]
    for picture in re.findall(r'(?:src="|\]\()(assets/[^")]+)', card):
        assert (whole / picture).read_bytes() == published[picture]
    for path in sorted(embedded.glob("*/*/*.parquet")):
        ours, theirs = pq.read_table(path), pq.read_table(whole / path.relative_to(embedded))
        # The licence is another one in this test, and nothing else.
        assert _without_licence(ours).equals(_without_licence(theirs)), path
    assert client.python(
        "import datasets; value = len(datasets.load_dataset('whole', 'sft')['train'][0]['images'])", guarded
    )


def _without_licence(table: pa.Table) -> pa.Table:
    return table.drop_columns([name for name in ("licence", "image_licence") if name in table.column_names])


def test_all_by_reference_is_made_whole_to_the_byte(
    hub: HubServer, client: Client, published: Done, copy: Path
) -> None:
    name = "owner/referenced"
    done = client.run("--set", "publish.images=reference", "publish", "--repo", name, folder=copy)
    assert done.code == 0, done.out
    # No picture of a card either shows what must not be shown.
    assert not [path for path in hub.files(name) if "example" in path]
    shards = [path for path in hub.files(REPO) if path.count("/") == 2 and path.endswith(".parquet")]
    assert len(shards) > 20
    for source in ("mine/parts.csv", "data/pull/mine"):
        made = client.run("rehydrate", name, "--source", f"mine={source}", "--to", "whole", folder=copy)
        assert made.code == 0, made.out
        for path in shards:
            assert (copy / "whole" / path).read_bytes() == hub.files(REPO)[path], path
    refused(
        client.run("rehydrate", REPO, "--source", "mine=mine/parts.csv", "--to", "again", folder=copy),
        "has no image of mine to make; every image is in its rows",
    )
    looked = next(
        path for path in shards if path.startswith("sft/") and '"crop"' in _text(copy / "data/publish" / path)
    )
    altered = copy / "altered" / looked
    altered.parent.mkdir(parents=True)
    for spoil, words in (
        (lambda row: row.update(toolbox_version="0"), ("made with tools of version 0",)),
        (lambda row: row["references"][-1].update(sha256="0" * 64), ("the observation", "has another sha256 than")),
    ):
        table = pq.read_table(copy / "data/publish" / looked)
        rows = table.to_pylist()
        spoil(next(row for row in rows if len(row["references"]) > 1))
        pq.write_table(pa.Table.from_pylist(rows, schema=table.schema), altered)
        refused(client.run("rehydrate", "altered", "--source", "mine=mine/parts.csv", folder=copy), looked, *words)
    (copy / "other").mkdir()
    mine = copy / "other" / "mine.txt"
    mine.write_text("of a person")
    given = ("rehydrate", name, "--source", "mine=mine/parts.csv", "--to", "other")
    refused(client.run(*given, folder=copy), "holds files that no stage wrote")
    assert mine.read_text() == "of a person"
    (copy / "other" / "0.png").write_bytes(encode_png(decode((copy / "mine/widget/0.png").read_bytes())[::-1]))
    refused(
        client.run("rehydrate", name, "--source", "mine=other", folder=copy), "images of mine are not there", "sha256"
    )


def _text(shard: Path) -> str:
    return "".join(map(str, pq.read_table(shard, columns=["messages"]).to_pylist()))


def test_a_refusal_names_set_and_clause(client: Client, guarded: Path) -> None:
    done = client.run("--set", "publish.images=embed", "publish", "--repo", "owner/refused", folder=guarded)
    refused(done, "guarded", "redistribution is unknown", "the licence is the owner's to state", "publish.images")


def test_a_licence_without_changed_copies_takes_images_by_reference(client: Client, copy: Path) -> None:
    """Crops and enhanced views are changed copies, whoever may pass on the whole image."""
    (copy / "params.yaml").unlink()
    write_params(copy, mine=STATED | {"licence": "CC BY-ND 4.0"})
    change(copy, lambda rows: [row.update(licence="CC BY-ND 4.0") for row in rows])
    change(copy, lambda rows: [row.update(licence="CC BY-ND 4.0") for row in rows], "validation")
    embedded = client.run("--set", "publish.images=embed", "publish", "--repo", "owner/nd", "--dry-run", folder=copy)
    refused(embedded, "mine", "CC BY-ND 4.0", "allows no changed copies")
    done = client.run("publish", "--repo", "owner/nd", "--dry-run", folder=copy)
    assert done.code == 0, done.out
    shards = [pq.read_table(path).to_pylist() for path in (copy / "data/publish/sft").rglob("*.parquet")]
    assert all(row["references"] and not row["images"] for rows in shards for row in rows)


def test_what_must_not_leave_is_found_in_a_chat_that_was_turned_down(client: Client, copy: Path) -> None:
    """It is JSON within a row: a path with backslashes is written with four of each there."""
    path = copy / "data/draft"
    kept = path.resolve()
    path.unlink()
    shutil.copytree(kept, path)
    rejected = DRAFT.records(DRAFT.read(path / "rejected.parquet"))
    told = [
        item.model_copy(
            update={"trajectory": item.trajectory.replace("at length", r"seen in \\\\nas\\share\\x, at length")}
        )
        for item in rejected
    ]
    assert told != rejected
    DRAFT.write(DRAFT.frame(told), path / "rejected.parquet")
    refused(client.run("publish", "--repo", "owner/never", folder=copy), "preference, row", "a local path")


def test_a_licence_that_changed_since_is_refused(client: Client, copy: Path) -> None:
    change(copy, lambda rows: rows[0].update(licence="CC BY-NC-SA 4.0"))
    refused(client.run("publish", "--repo", "owner/refused", folder=copy), "'CC BY-NC-SA 4.0'", "'CC BY 4.0'")


# --- what must not leave ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "kind"),
    [
        (f"hf_{'a1' * 12}", "a secret"),
        ("-----BEGIN RSA PRIVATE KEY-----", "a secret"),
        ("see /home/bob/parts.png", "a local path"),
        ("see `/home/bob/parts.png`", "a local path"),
        (f"\\nhf_{'a1' * 12}", "a secret"),
        ("\\n/srv/parts/1.png", "a local path"),
        ("C:\\\\Users\\\\bob", "a local path"),
        ("ask bob@example.org", "an e-mail address"),
    ],
)
def test_a_text_that_must_not_leave_stops_it(client: Client, copy: Path, text: str, kind: str) -> None:
    def write(rows: Rows) -> None:
        for name in ("messages", "trajectory"):
            rows[3][name] = rows[3][name].replace("So it ends", f"So {text} it ends")
        assert text in rows[3]["messages"]

    change(copy, write)
    done = client.run("publish", "--repo", "owner/never", folder=copy)
    refused(done, kind, "column messages", "nothing was published")
    assert text not in done.out


def test_a_verdict_that_was_changed_beside_its_trajectory_stops_it(client: Client, copy: Path) -> None:
    change(copy, lambda rows: rows[2].update(boxes=[[1, 2, 3, 4]]))
    refused(client.run("publish", "--repo", "owner/never", folder=copy), "are not those of its trajectory", "verify")


def test_a_reviewers_name_in_a_text_stops_it(client: Client, copy: Path) -> None:
    path = copy / "data/review"
    reviews = REVIEW.records(REVIEW.read(path / "reviews.parquet"))
    path.unlink()
    path.mkdir()
    REVIEW.write(REVIEW.frame([reviews[0].model_copy(update={"reviewer": "better words"})]), path / "reviews.parquet")
    validated(copy)
    refused(client.run("publish", "--repo", "owner/never", folder=copy), "holds a reviewer's name")


def test_supervision_in_a_chat_stops_it(client: Client, copy: Path) -> None:
    def tell(rows: Rows) -> None:
        chat = json.loads(rows[1]["messages"])
        chat[1]["defect_type"] = "scratch"
        rows[1]["messages"] = json.dumps(chat)

    change(copy, tell)
    refused(client.run("publish", "--repo", "owner/never", folder=copy), "supervision field defect_type", "row ")


def test_tools_of_another_version_stop_it(client: Client, copy: Path) -> None:
    change(copy, lambda rows: rows[1].update(tools="[]"))
    refused(client.run("publish", "--repo", "owner/never", folder=copy), "tools: are not the tools of this version")


@pytest.mark.parametrize("where", ["taken", "turned down"])
def test_the_path_of_an_image_in_a_chat_stops_it(client: Client, copy: Path, where: str) -> None:
    """A benchmark's folders say what is wrong with the part."""
    paths = dict(
        SUPERVISION.read(copy / "data/select/supervision.parquet").select("sample_id", "source_path").iter_rows()
    )

    def tell(text: str, sample: str) -> str:
        assert "it ends for" in text or "Something is, at length, off" in text
        told = f"it ends, see {paths[sample]}, for"
        return text.replace("it ends for", told).replace("Something is, at length, off", f"As {paths[sample]} says")

    if where == "taken":
        change(
            copy,
            lambda rows: rows[2].update(
                {name: tell(rows[2][name], rows[2]["sample_id"]) for name in ("messages", "trajectory", "tagged")}
            ),
        )
    else:
        draft = copy / "data/draft"
        source = draft.resolve()
        draft.unlink()
        shutil.copytree(source, draft)
        path = draft / "rejected.parquet"
        told = [
            item.model_copy(update={"trajectory": tell(item.trajectory, item.sample_id)})
            if "Something is, at length, off" in item.trajectory
            else item
            for item in DRAFT.records(DRAFT.read(path))
        ]
        DRAFT.write(DRAFT.frame(told), path)
    refused(client.run("publish", "--repo", "owner/never", folder=copy), "supervision field source_path", "row ")


def test_a_column_of_supervision_is_no_column_of_a_students(monkeypatch: pytest.MonkeyPatch) -> None:
    from cot_builder.publishing import configs
    from schemas.errors import IndusCotError

    configs.features.cache_clear()
    monkeypatch.setitem(configs.COLUMNS["preference"], "boxes", configs.COLUMNS["rl"]["boxes"])
    with pytest.raises(IndusCotError, match="preference is shown to students and must not have the column boxes"):
        configs.features("preference")
    configs.features.cache_clear()


# --- refusals ---------------------------------------------------------------------------------------


def test_what_is_not_there_for_somebody_who_is_not_logged_in(hub: HubServer, client: Client) -> None:
    """The Hub answers 401, and does not say whether it is missing or private."""
    hub.fail("owner/elsewhere", 401, times=99)
    refused(client.run("diff", "owner/elsewhere", token=""), "is private or gated, and nobody is logged in")


def test_tokens(client: Client) -> None:
    refused(client.run("publish", "--repo", REPO, token=""), "hf auth login", "HF_TOKEN")
    refused(client.run("publish", "--repo", REPO, token="hf_wrongwrongwrongwrong"), "does not know the token (401)")
    refused(client.run("publish", "--repo", "owner/new", token=READER), "no right to write", "(403)")
    assert "hf_wrong" not in client.said and READER not in client.said


def test_names(hub: HubServer, client: Client) -> None:
    refused(client.run("publish"), "--repo OWNER/NAME", "publish.repo")
    refused(client.run("publish", "--repo", "nameless"), "no repository", "OWNER/NAME")
    refused(client.run("publish", "--repo", "owner/missing", "--pr"), "is not there", "--pr")
    hub.make("owner/taken", "models")
    refused(client.run("publish", "--repo", "owner/taken"), "is a model on the Hub")
    hub.make("owner/strange")
    hub.put("owner/strange", "data/train.csv", b"a,b\n")
    refused(client.run("publish", "--repo", "owner/strange"), "no dataset that indus-cot published", "data/train.csv")
    hub.make("owner/described")
    hub.put("owner/described", "README.md", b"---\nlicense: mit\n---\n")
    assert client.run("publish", "--repo", "owner/described", "--dry-run").code == 0
    hub.put("owner/described", "README.md", b"---\nlicense: mit\n---\n# My parts\n")
    refused(client.run("publish", "--repo", "owner/described"), "no dataset that indus-cot published", "README.md")
    hub.make("owner/broken")
    hub.put("owner/broken", "indus-cot.json", b'{"kind": "dataset"')
    refused(client.run("publish", "--repo", "owner/broken"), "owner/broken: its indus-cot.json is damaged")
    refused(client.run("diff", "owner/nowhere"), "neither a folder")


def test_what_somebody_elses_folder_holds(hub: HubServer, client: Client, published: Done, tmp_path: Path) -> None:
    clone, damaged, foreign = (tmp_path / name for name in ("clone", "damaged", "foreign"))
    pointer = b"version https://git-lfs.github.com/spec/v1\noid sha256:%064d\nsize 12345\n" % 0
    for path, data in hub.files(REPO).items():
        for folder in (clone, damaged):
            (folder / path).parent.mkdir(parents=True, exist_ok=True)
            (folder / path).write_bytes(data)
        if path.endswith(".parquet"):
            (clone / path).write_bytes(pointer)
            (damaged / path).write_bytes(data[:100])
    (foreign / "sft/train").mkdir(parents=True)
    for path in ("index.parquet", "sft/train/0.parquet"):
        pq.write_table(pa.table({"id": ["1"], "text": ["theirs"]}), foreign / path)
    other = tmp_path / "other"
    (other / "data").mkdir(parents=True)
    pq.write_table(pa.table({"id": ["1"], "text": ["theirs"]}), other / "data/train-00000-of-00001.parquet")
    refused(client.run("diff", str(other)), "has no column", "is", "a corpus?")
    for folder, index, shard in (
        (clone, "index.parquet: is a pointer of git-lfs", "is a pointer of git-lfs"),
        (damaged, "its index.parquet is damaged", ".parquet: damaged parquet file"),
        (foreign, "no column category", "no shard of sft that indus-cot published"),
    ):
        refused(client.run("diff", str(folder)), index)
        refused(client.run("rehydrate", str(folder), "--to", str(tmp_path / "whole")), shard)
    assert not (tmp_path / "whole").exists()


def test_metadata_that_the_hub_refuses_make_no_repository(hub: HubServer, client: Client) -> None:
    hub.card_fault = '"tags" must be an array'
    done = client.run("publish", "--repo", "owner/faulty")
    refused(done, "refuses the metadata of the card", '"tags" must be an array')
    assert ("datasets", "owner/faulty") not in hub.repositories


def test_a_hub_that_stays_down_is_one_message(hub: HubServer, client: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    hub.fail("whoami", 503, times=99)
    client.python("from cot_builder.storage import retry; retry.BACKOFF_S = 0.01")
    refused(client.run("publish", "--repo", REPO), "the Hub answers 503, after 5 attempts", "nothing was committed")


def test_a_corpus_that_was_not_validated(client: Client, copy: Path) -> None:
    shard = copy / "data/indus_cot/data/train-00000.parquet"
    table = pq.read_table(shard)
    pq.write_table(table.slice(1), shard)
    refused(client.run("publish", "--repo", REPO, folder=copy), "changed after it was validated")
    pq.write_table(pa.concat_tables([table.slice(1), table.slice(0, 1)]), shard)
    refused(client.run("publish", "--repo", REPO, folder=copy), "changed after it was validated", "sha256")
    validated(copy)
    refused(client.run("publish", "--repo", REPO, folder=copy), "is out of order or there twice")
    training_project.with_manifest(copy / "data/indus_cot", stage="draft")
    refused(client.run("publish", "--repo", REPO, folder=copy), "was not validated")
    shutil.rmtree(copy / "data/indus_cot")
    refused(client.run("publish", "--repo", REPO, folder=copy), "no corpus is there")


def test_unreviewed_rows_where_reviews_are_required(client: Client, copy: Path) -> None:
    done = client.run("--set", "publish.require_review=true", "publish", "--repo", REPO, folder=copy)
    refused(done, "no person has looked at it", "publish.require_review")


FULL = """
from pathlib import Path
import pyarrow
kept = pyarrow.output_stream, Path.open
# Shards and downloads are written to a device that has no room.
def shard(path, **named):
    return kept[0]("/dev/full", **named)
def incomplete(path, *arguments, **named):
    return kept[1](Path("/dev/full") if path.name.endswith(".incomplete") else path, *arguments, **named)
pyarrow.full = kept
pyarrow.output_stream, Path.open = shard, incomplete
"""


def test_a_full_disk_changes_nothing(hub: HubServer, client: Client, published: Done, copy: Path) -> None:
    assert client.run("publish", "--repo", REPO, "--dry-run", folder=copy).code == 0
    before = {path: path.read_bytes() for path in (copy / "data/publish").rglob("*") if path.is_file()}
    change(copy, lambda rows: reworded(rows[2]))
    hub.make("owner/unread")
    hub.put("owner/unread", "sft/train/0.parquet", b"never read")
    client.python(FULL)
    try:
        refused(client.run("publish", "--repo", "owner/full", folder=copy), "disk is full", "data/publish")
        assert client.run("rehydrate", str(copy / "data/publish"), "--to", "whole", folder=copy).code == 1
        refused(client.run("rehydrate", "owner/unread", "--to", "whole", folder=copy), "disk is full", "HF_HOME")
    finally:
        client.python("import pyarrow; from pathlib import Path; pyarrow.output_stream, Path.open = pyarrow.full")
    assert ("datasets", "owner/full") not in hub.repositories and not (copy / "whole").exists()
    assert {path: path.read_bytes() for path in (copy / "data/publish").rglob("*") if path.is_file()} == before


def test_the_check_of_the_real_hub_runs(hub: HubServer, client: Client, published: Done) -> None:
    told = client.python(
        "import builtins, contextlib, io, sys\nfrom bench import real_hub\n"
        "sys.argv, builtins.input = ['real_hub', 'owner'], lambda *_: ''\nsaid = io.StringIO()\n"
        "with contextlib.redirect_stdout(said):\n    real_hub.main()\nvalue = said.getvalue()"
    )
    for step in ("stale parent", "pull request, second time", "copy whole", "sft train: ", "now look at"):
        assert f"ok    {step}" in told, told
    assert ("datasets", "owner/indus-cot-check") not in hub.repositories


# --- models -----------------------------------------------------------------------------------------


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


def test_a_model_links_its_corpus_and_evaluation(
    hub: HubServer, client: Client, published: Done, copy: Path, trained: Path
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
    refused(client.run("publish", "--model", "mine", "--repo", "owner/other"), "no manifest.json")
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


def test_a_dry_run_of_a_model(hub: HubServer, client: Client, published: Done, copy: Path, trained: Path) -> None:
    hub.repositories.pop(("models", "owner/model"), None)
    asked = ("--set", "publish.repo=owner/unsure", *MODEL, "--dry-run")
    done = client.run(*asked, folder=copy)
    assert done.code == 0 and "nothing was sent" in done.out, done.out
    assert "corpus that is not the one in owner/unsure" in done.out
    assert "publish.repo names no dataset" in client.run(*MODEL, "--dry-run", folder=copy).out
    assert ("models", "owner/model") not in hub.repositories
    done = client.run(*asked, token="", folder=copy)
    assert done.code == 0 and "not compared with the Hub" in done.out and "was not asked" in done.out, done.out
    refused(client.run(*MODEL, "--dry-run", "--pr", folder=copy), "is not there", "--pr")
    # What is not known is not said.
    hub.fail("owner/unsure", 403, times=99)
    refused(client.run(*asked, folder=copy), "owner/unsure", "(403)")
    for damaged in ('{"stage": "sf', "[]"):
        (trained / "manifest.json").write_text(damaged)
        refused(client.run(*asked, folder=copy), "models/sft/manifest.json: damaged")


def test_a_models_repository_is_guarded(hub: HubServer, client: Client, copy: Path, trained: Path) -> None:
    hub.repositories.pop(("models", "owner/model"), None)
    hub.after_commit = lambda: hub.alter("owner/model", "model.safetensors", b"others", "models")
    refused(client.run(*MODEL, folder=copy), "differs from what was sent: model.safetensors")
    hub.after_commit = lambda: None
    assert "every hash as written" in client.run(*MODEL, folder=copy).out
    refused(client.run(*MODEL, "--private", folder=copy), "is there and public")
    hub.put("owner/model", "notes.txt", b"mine", "models")
    refused(client.run(*MODEL, folder=copy), "holds files that neither this model", "notes.txt")
    hub.make("owner/finetune", "models")
    for name in ("config.json", "model.safetensors", "README.md"):
        hub.put("owner/finetune", name, b"{}", "models")
    theirs = hub.files("owner/finetune", "models")
    done = client.run("publish", "--repo", "owner/finetune", "--model", "models/sft", folder=copy)
    refused(done, "no model that indus-cot published", "config.json")
    assert hub.files("owner/finetune", "models") == theirs


def _evaluated(folder: Path, weights: str, answer: str) -> None:
    table = predictions.mpdd(lambda bad, rng: answer)
    run = predictions.run(set=folder.name, model="models/sft", model_sha256=weights)
    found = metrics(table, run, predictions.listing(458, 458), predictions.NOTHING_SEEN, draws=20, seed=0)
    folder.mkdir(parents=True)
    write_metrics(found, folder)


def test_ids_of_rows_are_hashes_of_drafts(project: Path) -> None:
    drafts = pl.read_parquet(project / "data/draft/trajectory.parquet")["draft_id"]
    ids = pl.concat(
        [pl.read_parquet(path)["id"] for path in sorted((project / "data/indus_cot/data").glob("*.parquet"))]
    )
    assert set(ids) == set(map(row_id, drafts))
