"""Tests corpus reading and collation: only the policy's tokens bear loss, and invalid rows are refused."""

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from cot_builder.corpus.reading import read_all
from cot_builder.inspection import rendering
from cot_builder.storage.workspace import Workspace
from schemas.errors import IndusCotError
from schemas.trajectory import Trajectory
from tests.helpers.training_project import change_manifest, change_rows
from train import corpus
from train.collator import IGNORE_INDEX, count_tokens, make_collator
from train.model import load_processor

END = "<|im_end|>"


@pytest.fixture(scope="module", autouse=True)
def one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def processor(trainable: Workspace) -> Any:
    return load_processor(str(trainable.root / "tiny"))


@pytest.fixture(scope="module")
def rows(trainable: Workspace) -> list[dict[str, Any]]:
    return list(corpus.read(trainable.indus_cot)["train"])


def words(trajectory: Trajectory) -> list[str]:
    """Return the text that a policy writes for the trajectory, turn by turn, spelled out independently."""
    turns = [
        f"<think>{turn.thought}</think>\n<tool_call>\n"
        f'{{"name": "{turn.call.tool}", "arguments": {json.dumps(turn.call.arguments)}}}\n</tool_call>'
        for turn in trajectory.turns[:-1]
    ]
    return [text + END for text in (*turns, rendering.render_final_turn(trajectory))]


def decode_labels(batch: dict[str, torch.Tensor], processor: Any) -> list[str]:
    """Return the tokens that bear loss as text, one per row."""
    return [processor.tokenizer.decode(labels[labels != IGNORE_INDEX]) for labels in batch["labels"]]


def test_loss_covers_only_policy_tokens(trainable: Workspace, rows, processor) -> None:
    trajectories = {row.id: Trajectory.model_validate_json(row.trajectory) for row in read_all(trainable.indus_cot)}
    assert {len(trajectories[row["id"]].calls) for row in rows} == {0, 1, 2, 3, 4}
    collate = make_collator(processor)
    for start in range(0, len(rows), 3):
        some = rows[start : start + 3]
        batch = collate(some)
        assert decode_labels(batch, processor) == ["".join(words(trajectories[row["id"]])) for row in some]
        assert torch.equal(
            batch["labels"][batch["labels"] != IGNORE_INDEX], batch["input_ids"][batch["labels"] != IGNORE_INDEX]
        )


def test_batch_holds_every_image(rows, processor) -> None:
    batch = make_collator(processor)(rows[:4])
    images = [image for row in rows[:4] for image in row["images"]]
    assert len(images) > 4
    assert len(batch["image_grid_thw"]) == len(images)
    patches = batch["image_grid_thw"].prod(dim=1)
    assert batch["pixel_values"].shape[0] == patches.sum()
    placeholders = (batch["input_ids"] == processor.image_token_id).sum()
    assert placeholders == patches.sum() // processor.image_processor.merge_size**2
    assert batch["mm_token_type_ids"].sum() == placeholders


def test_padding_does_not_change_a_row(rows, processor) -> None:
    collate = make_collator(processor)
    together = collate(rows[:4])
    counted = count_tokens(rows[:4], processor)
    assert len(set(counted)) == 4
    for number, row in enumerate(rows[:4]):
        alone = collate([row])
        assert alone["input_ids"].shape == (1, counted[number])
        mask = together["attention_mask"][number] == 1
        assert torch.equal(together["input_ids"][number][mask], alone["input_ids"][0])
        assert torch.equal(together["labels"][number][mask], alone["labels"][0])
        assert (together["labels"][number][~mask] == IGNORE_INDEX).all()


def test_control_arm_holds_only_verdict_tags(trainable: Workspace, rows, processor) -> None:
    labels = list(corpus.read(trainable.indus_cot, target="labels")["train"])
    batch = make_collator(processor)(labels[:6])
    verdicts = [rendering.render_verdict(read.verdict) for read in map(_trajectory(trainable), labels[:6])]
    assert len({text.startswith("<location>") for text in verdicts}) == 2
    assert decode_labels(batch, processor) == [text + END for text in verdicts]
    assert len(batch["image_grid_thw"]) == 6
    whole = processor.tokenizer.decode(batch["input_ids"][0])
    assert "<tools>" not in whole and "tool_response" not in whole
    assert "tool" not in whole, "it has none, as evaluate.mode=agent-no-tools"
    assert labels[0]["messages"][1] == rows[0]["messages"][1]


def _trajectory(workspace: Workspace) -> Any:
    found = {row.id: Trajectory.model_validate_json(row.trajectory) for row in read_all(workspace.indus_cot)}
    return lambda row: found[row["id"]]


def test_unknown_chat_template_is_refused(processor, tmp_path: Path) -> None:
    processor.save_pretrained(tmp_path)
    path = tmp_path / "chat_template.jinja"
    path.write_text(path.read_text().replace("<|im_start|>", "<|start|>"))
    with pytest.raises(IndusCotError, match=r"train\.model: TRL has no training form of its chat template"):
        make_collator(load_processor(str(tmp_path)))


def test_template_without_tools_is_refused(processor, tmp_path: Path) -> None:
    processor.save_pretrained(tmp_path)
    (tmp_path / "chat_template.jinja").write_text("{% for message in messages %}{{ message.content }}{% endfor %}")
    with pytest.raises(
        IndusCotError, match="its chat template does not render tool calls; use a model that was trained"
    ):
        load_processor(str(tmp_path))


@pytest.mark.parametrize("word", ["Yes", "No"])
def test_split_verdict_word_is_refused(processor, tmp_path: Path, word: str) -> None:
    processor.save_pretrained(tmp_path)
    path = tmp_path / "tokenizer.json"
    tokenizer = json.loads(path.read_text())
    merges = tokenizer["model"]["merges"]
    tokenizer["model"]["merges"] = [pair for pair in merges if "".join(pair).replace(" ", "") != word]
    assert len(tokenizer["model"]["merges"]) < len(merges)
    path.write_text(json.dumps(tokenizer))
    with pytest.raises(IndusCotError, match=f"its tokenizer writes '{word}' as 2 tokens"):
        load_processor(str(tmp_path))


@pytest.fixture
def copied(trainable: Workspace, tmp_path: Path) -> Path:
    return Path(shutil.copytree(trainable.indus_cot, tmp_path / "indus_cot"))


def test_missing_corpus_is_refused(tmp_path: Path) -> None:
    with pytest.raises(IndusCotError, match=r"no manifest\.json"):
        corpus.read(tmp_path)


def test_unvalidated_corpus_is_refused(copied: Path) -> None:
    change_manifest(copied, stage="draft")
    with pytest.raises(IndusCotError, match="its manifest is from the stage 'draft', not from assemble"):
        corpus.read(copied)
    (copied / "manifest.json").write_text("{")
    with pytest.raises(IndusCotError, match=r"manifest\.json: damaged or truncated .*run the stage again"):
        corpus.read(copied)
    (copied / "manifest.json").unlink()
    with pytest.raises(IndusCotError, match=r"no manifest\.json"):
        corpus.read(copied)


def test_changed_corpus_is_refused(copied: Path) -> None:
    change_rows(copied, lambda rows: rows[1:])
    with pytest.raises(IndusCotError, match="it was changed after it was validated; run `indus-cot repro assemble`"):
        corpus.read(copied)


def test_empty_corpus_is_refused(copied: Path) -> None:
    change_rows(copied, lambda rows: [])
    kept = json.loads((copied / "manifest.json").read_text())["counts"]
    change_manifest(copied, counts=kept | {"train": 0})
    with pytest.raises(IndusCotError, match="the corpus has no training row"):
        corpus.read(copied)


def test_damaged_image_is_named(rows, processor) -> None:
    row = next(row for row in rows if len(row["images"]) > 1)
    cut = row["images"][1] | {"bytes": row["images"][1]["bytes"][:100]}
    with pytest.raises(IndusCotError, match=f"row {row['id']}, image 1"):
        make_collator(processor)([row | {"images": [row["images"][0], cut, *row["images"][2:]]}])


def _change_row(place: int, **values: Any) -> Any:
    return lambda rows: [row | values if number == place else row for number, row in enumerate(rows)]


@pytest.mark.parametrize(
    ("column", "change", "message"),
    [
        ("images", lambda images: images[:-1], r"images: an image is missing: \d for \d placeholders"),
        ("images", lambda images: [{"bytes": b"", "path": None}, *images[1:]], r"images\.0: the image is missing"),
        (
            "images",
            lambda images: [images[0] | {"bytes": images[0]["bytes"][:200]}, *images[1:]],
            r"images\.0: the image is damaged",
        ),
        (
            "images",
            lambda images: [*images, images[0]],
            r"images: \d images, more than the \d placeholders of messages",
        ),
        (
            "messages",
            lambda text: text.replace('"name": "crop"', '"name": "zoom"'),
            "messages: calls the unknown tool 'zoom'; its tools are crop, enhance, measure, prior",
        ),
        (
            "trajectory",
            lambda text: text.replace('"tool":"crop"', '"tool":"zoom"'),
            r"trajectory\.turns\.0\.call\.tool",
        ),
        ("messages", lambda text: "[{}]", "messages or tools: invalid chat"),
        ("tools", lambda text: "{", "messages or tools: invalid chat"),
    ],
)
def test_invalid_row_is_named_with_field(copied: Path, column: str, change: Any, message: str) -> None:
    rows = [row for row in read_all(copied) if row.split == "train"]
    place = next(number for number, row in enumerate(rows) if "crop" in row.tool_calls)
    value = getattr(rows[place], column)
    value = [image.model_dump() for image in value] if column == "images" else value
    change_rows(copied, _change_row(place, **{column: change(value)}))
    with pytest.raises(IndusCotError, match=f"row {rows[place].id}, {message}"):
        corpus.read(copied)


def test_evaluation_set_is_refused(trainable: Workspace) -> None:
    with pytest.raises(IndusCotError, match=r"mine is an evaluation set .* must not be trained on"):
        corpus.read(trainable.indus_cot, evaluation_sets=["mine"])
