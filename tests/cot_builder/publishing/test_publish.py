"""A dataset is published: what arrives, what it says, and that it loads as a stranger would."""

import hashlib
import re
from pathlib import Path

import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from cot_builder.corpus.writing import row_id
from cot_builder.publishing.configs import IMAGES, REFERENCE
from tests.helpers.hub_client import Client, CommandResult
from tests.helpers.publication import REPO, REVIEWER, assert_refused, change, reword
from tests.servers.hub_server import OWNER, HubServer


def test_everything_arrives_and_is_compared(hub: HubServer, published: CommandResult, project: Path) -> None:
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


def test_nothing_changed_means_no_commit(hub: HubServer, client: Client, published: CommandResult) -> None:
    before, sent = dict(hub.repository(REPO).commits), len(hub.uploads)
    again = client.run("publish", "--repo", REPO, "--tag")
    assert "nothing changed: no commit" in again.out
    assert hub.repository(REPO).commits == before and len(hub.uploads) == sent


def test_a_dry_run_sends_nothing(hub: HubServer, client: Client, published: CommandResult, copy: Path) -> None:
    change(copy, lambda rows: reword(rows[2]))
    seen = len(hub.seen)
    done = client.run("publish", "--repo", REPO, "--dry-run", folder=copy)
    assert done.code == 0, done.out
    assert all(line.startswith(("GET", "HEAD")) for line in hub.seen[seen:])
    for word in ("1 changed", "redistribution allowed", "CC BY 4.0", "MB", "nothing was sent", "Indus-CoT 1.0.1"):
        assert word in done.out


def test_a_dry_run_needs_no_token(client: Client, published: CommandResult) -> None:
    done = client.run("publish", "--repo", REPO, "--dry-run", token="")
    assert done.code == 0 and "not compared with the Hub" in done.out and "hf auth login" in done.out


def test_dry_run_refuses_like_the_run(hub: HubServer, client: Client, published: CommandResult) -> None:
    dry = ("publish", "--dry-run", "--repo")
    assert_refused(client.run(*dry, REPO, token="hf_wrongwrongwrongwrong"), "rejects the token (401)")
    assert_refused(client.run(*dry, "nameless", token=""), "is not a repository name", "OWNER/NAME")
    assert_refused(client.run(*dry, "owner/missing", "--pr"), "does not exist", "--pr")
    assert_refused(client.run(*dry, REPO, "--parent", "0" * 40), "somebody has committed since")
    assert_refused(
        client.run(*dry, "owner/missing", "--parent", "0" * 40), "does not exist, so 00000000 cannot be its head"
    )
    hub.make("owner/a-model", "models")
    assert_refused(client.run(*dry, "owner/a-model"), "a model of this name exists on the Hub")
    hub.fail("whoami", 0, times=99)
    client.python("from cot_builder.storage import retry; retry.BACKOFF_S = 0.01")
    done = client.run(*dry, REPO)
    assert done.code == 0 and "not compared with the Hub" in done.out and "the connection broke" in done.out, done.out


def test_every_configuration_loads_plain_and_streaming(client: Client, published: CommandResult, project: Path) -> None:
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


def test_preference_pairs_rejected_and_chosen(client: Client, published: CommandResult) -> None:
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


def test_reviewers_are_pseudonyms(hub: HubServer, client: Client, published: CommandResult, project: Path) -> None:
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


def test_the_token_appears_nowhere(hub: HubServer, client: Client, published: CommandResult, project: Path) -> None:
    assert OWNER not in client.output and not [line for line in hub.seen if OWNER in line]
    for path, content in {**hub.files(REPO), **_tables(hub.files(REPO))}.items():
        assert OWNER.encode() not in content, path
    for file in filter(Path.is_file, (project / "data/publish").rglob("*")):
        assert OWNER.encode() not in file.read_bytes(), file


def test_the_card_says_what_it_must(hub: HubServer, published: CommandResult, tmp_path: Path) -> None:
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


def test_croissant_is_valid(hub: HubServer, published: CommandResult, tmp_path: Path) -> None:
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


@pytest.mark.slow
@pytest.mark.train
def test_sft_trainer_trains_on_published_rows(client: Client, published: CommandResult, hub: HubServer) -> None:
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
        "training_project.build_model(Path('tiny'), corpus.iter_texts(rows))\n"
        + code
        + """
import io
from train.collator import make_collator
def png(image):
    sink = io.BytesIO()
    image.save(sink, "PNG")
    return {"bytes": sink.getvalue()}
value = [trainer.state.global_step]
for row in (corpus[0], next(row for row in corpus if len(row["images"]) > 1)):
    ours = make_collator(processor)([{**row, "images": [png(image) for image in row["images"]]}])
    theirs = collate([row])
    value += [ours["input_ids"].equal(theirs["input_ids"]), ours["labels"].equal(theirs["labels"])]
"""
    )
    # The loss of the card's snippet is on the tokens that `sft` has it on, and on no other.
    assert steps == [1, True, True, True, True]


def test_row_ids_are_draft_hashes(project: Path) -> None:
    drafts = pl.read_parquet(project / "data/draft/trajectory.parquet")["draft_id"]
    ids = pl.concat(
        [pl.read_parquet(path)["id"] for path in sorted((project / "data/indus_cot/data").glob("*.parquet"))]
    )
    assert set(ids) == set(map(row_id, drafts))
