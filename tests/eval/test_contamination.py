"""Contamination of the evaluated model, and recognition of the published test list."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from cot_builder.benchmarks.table import load_benchmarks
from cot_builder.storage.workspace import Workspace, file_hash
from eval.contamination import contamination, listing
from schemas.errors import IndusCotError
from schemas.metrics import EvaluatedImages
from schemas.sample import SAMPLE, Sample
from tests.helpers.predictions import MPDD, make_mpdd_predictions, make_predictions

TUBE, PLATE, OTHER = "1" * 64, "2" * 64, "3" * 64


def sample(sample_id: str, image: str, category: str = "tubes", split: str = "test") -> Sample:
    return Sample.model_validate(
        {
            "sample_id": sample_id,
            "source_set": "mpdd",
            "category": category,
            "view": "default",
            "part_id": sample_id,
            "split": split,
            "width": 10,
            "height": 10,
            "channels": 3,
            "image_format": "PNG",
            "image_sha256": image,
            "shard": "images-00000.parquet",
            "row": 0,
            "region": None,
            "licence": "none",
        }
    )


def corpus(workspace: Workspace, rows: Sequence[tuple[str, str]]) -> None:
    """Write a minimal corpus with rows of (category, image)."""
    shard = workspace.indus_cot / "data" / "train-00000.parquet"
    shard.parent.mkdir(parents=True, exist_ok=True)
    frame = pl.DataFrame({"category": [row[0] for row in rows], "image_sha256": [row[1] for row in rows]})
    frame.write_parquet(shard)
    (workspace.indus_cot / "manifest.json").write_text(json.dumps({"stage": "assemble", "rows": len(rows)}))


def model(workspace: Workspace, stage: str, inputs: dict[str, str], **params: Any) -> Path:
    folder = workspace.models / stage
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "manifest.json").write_text(json.dumps({"stage": stage, "inputs": inputs, "params": params}))
    return folder


def sft(workspace: Workspace) -> Path:
    shards = {path.name: file_hash(path) for path in workspace.indus_cot.glob("data/*.parquet")}
    return model(workspace, "sft", shards | {"torch": "2.13.0", "model": "tiny"}, train={"model": "tiny"})


def grpo(workspace: Workspace) -> Path:
    inputs = {
        "corpus": file_hash(workspace.indus_cot / "manifest.json"),
        "model": file_hash(workspace.sft / "manifest.json"),
    }
    return model(workspace, "grpo", inputs, grpo={"model": "models/sft"}, train={})


PREDICTIONS = make_predictions([True, False, False])
SAMPLES = [
    sample(name, image) for name, image in zip(PREDICTIONS["sample_id"], (TUBE, PLATE, PLATE), strict=True)
]  # fmt: skip


def test_unseen_set_is_zero_shot(tmp_path: Path) -> None:
    workspace = Workspace(tmp_path)
    corpus(workspace, [("bottle_cap", OTHER), ("plastic_nut", OTHER)])
    for folder in (sft(workspace), grpo(workspace)):
        found = contamination(PREDICTIONS, SAMPLES, folder, workspace)
        assert found.zero_shot is True
        assert (found.categories, found.images) == ([], 0)
        assert found.trained_on == file_hash(workspace.indus_cot / "manifest.json")


@pytest.mark.parametrize("category", ["tubes", "Tube", "tube_2"])
def test_respelled_category_counts_as_seen(tmp_path: Path, category: str) -> None:
    workspace = Workspace(tmp_path)
    corpus(workspace, [(category, OTHER)])
    found = contamination(PREDICTIONS, SAMPLES, sft(workspace), workspace)
    assert (found.categories, found.images, found.zero_shot) == (["tubes"], 0, False)


def test_renamed_image_counts_as_seen(tmp_path: Path) -> None:
    workspace = Workspace(tmp_path)
    corpus(workspace, [("bottle_cap", PLATE)])
    sft(workspace)
    found = contamination(PREDICTIONS, SAMPLES, grpo(workspace), workspace)
    assert (found.categories, found.images, found.zero_shot) == ([], 2, False)
    assert found.image_ids == [SAMPLES[1].sample_id, SAMPLES[2].sample_id]


def test_prior_of_evaluated_category_is_reported(tmp_path: Path) -> None:
    workspace = Workspace(tmp_path)
    corpus(workspace, [("bottle_cap", OTHER)])
    for folder in (sft(workspace), None):
        for priors, told in ((["bottle_cap"], []), (["Tube", "bottle_cap"], ["tubes"])):
            found = contamination(PREDICTIONS, SAMPLES, folder, workspace, priors)
            assert found.prior_categories == told


def test_unknown_base_model_is_not_zero_shot(tmp_path: Path) -> None:
    workspace = Workspace(tmp_path)
    corpus(workspace, [("bottle_cap", OTHER)])
    first = sft(workspace)
    shards = {path.name: file_hash(path) for path in workspace.indus_cot.glob("data/*.parquet")}
    went_on = [{}, {"model": file_hash(first / "manifest.json")}]
    for kept in went_on:
        folder = model(workspace, "sft", shards | kept, train={"model": "models/sft"})
        found = contamination(PREDICTIONS, SAMPLES, folder, workspace)
        assert found.trained_on and found.zero_shot is None


def test_unknown_training_claims_nothing(tmp_path: Path) -> None:
    workspace = Workspace(tmp_path)
    assert contamination(PREDICTIONS, SAMPLES, None, workspace).zero_shot is None
    foreign = model(workspace, "theirs", {})
    assert contamination(PREDICTIONS, SAMPLES, foreign, workspace).trained_on is None
    corpus(workspace, [("bottle_cap", OTHER)])
    folders = [sft(workspace), grpo(workspace)]
    corpus(workspace, [("plastic_nut", OTHER), ("bottle_cap", OTHER)])
    for folder in folders:
        found = contamination(PREDICTIONS, SAMPLES, folder, workspace)
        assert found.zero_shot is None, "another corpus lies here by now"
        assert found.trained_on


def test_base_model_training_counts(tmp_path: Path) -> None:
    workspace = Workspace(tmp_path)
    corpus(workspace, [("bottle_cap", OTHER)])
    sft(workspace)
    # GRPO on the present corpus, from a model that was fine-tuned on another corpus.
    corpus(workspace, [("plastic_nut", OTHER)])
    assert contamination(PREDICTIONS, SAMPLES, grpo(workspace), workspace).zero_shot is None
    corpus(workspace, [("bottle_cap", OTHER)])
    folder = grpo(workspace)
    assert contamination(PREDICTIONS, SAMPLES, folder, workspace).zero_shot is True
    # SFT ran again on another corpus, or its folder is gone.
    model(workspace, "sft", {"train-00000.parquet": "4" * 64}, train={"model": "tiny"})
    assert contamination(PREDICTIONS, SAMPLES, folder, workspace).zero_shot is None
    (workspace.sft / "manifest.json").unlink()
    assert contamination(PREDICTIONS, SAMPLES, folder, workspace).zero_shot is None


def test_damaged_corpus_is_reported(tmp_path: Path) -> None:
    workspace = Workspace(tmp_path)
    corpus(workspace, [("bottle_cap", OTHER)])
    shard = workspace.indus_cot / "data" / "train-00000.parquet"
    shard.write_bytes(shard.read_bytes()[:100])
    with pytest.raises(IndusCotError, match=r"train-00000\.parquet: damaged parquet file"):
        contamination(PREDICTIONS, SAMPLES, sft(workspace), workspace)


def pulled(workspace: Workspace, samples: Sequence[Sample], source: str = "mpdd.zip") -> None:
    """Write the table of a pulled set and the part of its manifest that `listing` reads."""
    folder = workspace.pull("mpdd")
    folder.mkdir(parents=True)
    SAMPLE.write(SAMPLE.frame(samples), folder / "sample.parquet")
    published = {f"{split} {label}": n for (split, label), n in load_benchmarks()["mpdd"].BENCHMARK.published.items()}
    counts = {"published": published, "benchmark": {"name": "mpdd"}}
    (folder / "manifest.json").write_text(json.dumps({"params": {"source": source}, "counts": counts}))


def official() -> tuple[pl.DataFrame, list[Sample]]:
    predictions = make_mpdd_predictions(lambda bad, rng: "No")
    return predictions, [
        sample(name, TUBE, category) for name, category in predictions.select("sample_id", "category").iter_rows()
    ]


def test_published_list_is_recognised(tmp_path: Path) -> None:
    predictions, samples = official()
    extra = sample("mpdd/tubes/" + "f" * 16, TUBE, split="train")
    pulled(Workspace(tmp_path), [*samples, extra])
    assert listing(predictions, Workspace(tmp_path)) == EvaluatedImages(
        evaluated=458, available=458, published=458, same_list=True
    )
    assert listing(predictions.head(400), Workspace(tmp_path)) == EvaluatedImages(
        evaluated=400, available=458, published=458, same_list=False
    )


def test_other_list_of_equal_size_differs(tmp_path: Path) -> None:
    predictions, samples = official()
    pulled(Workspace(tmp_path), samples)
    one = pl.col("sample_id") == samples[0].sample_id
    swapped = predictions.with_columns(true_answer=pl.when(one).then(pl.lit("Yes")).otherwise("true_answer"))
    assert listing(swapped, Workspace(tmp_path)).same_list is False
    # The same number of images, but another category.
    normal = next(row for row in predictions.iter_rows(named=True) if row["true_answer"] == "No")
    other = next(name for name in MPDD if name != normal["category"])
    one = pl.col("sample_id") == normal["sample_id"]
    moved = predictions.with_columns(category=pl.when(one).then(pl.lit(other)).otherwise("category"))
    assert listing(moved, Workspace(tmp_path)).same_list is False


def test_rendered_set_is_never_published_list(tmp_path: Path) -> None:
    predictions, samples = official()
    pulled(Workspace(tmp_path), samples, source="synthetic")
    found = listing(predictions, Workspace(tmp_path))
    assert found.same_list is False and found.published is None, "458 photographs are published, and none of these"
