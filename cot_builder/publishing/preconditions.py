"""Preconditions of a publication, and the inputs that it is made from."""

from cot_builder.corpus.reading import list_shards
from cot_builder.corpus.validated import check_up_to_date, check_validated, corpus_sha256, read_change_stamp
from cot_builder.publishing.configs import combine_hashes
from cot_builder.storage.workspace import Workspace, file_hash


def check_corpus(workspace: Workspace) -> dict[str, int]:
    """Check that the corpus may be published; returns its rows by split.

    Raises:
        IndusCotError: the corpus is missing, not validated, changed since its validation, or older than the drafts or
            reviews: a row that an expert has rejected since would be published as if it were not reviewed.
    """
    counts = check_validated(workspace.indus_cot)
    check_up_to_date(workspace)
    return counts


def corpus_inputs(workspace: Workspace) -> dict[str, str]:
    """Hashes of the inputs of the published files, by name."""
    inputs = {"corpus": corpus_sha256(workspace.indus_cot)}
    # The modification time of a shard is enough; hashing the images would read everything twice.
    inputs["shards"] = combine_hashes(
        f"{path.name} {read_change_stamp(path)}" for path in list_shards(workspace.indus_cot)
    )
    for name, path in {
        "supervision": workspace.select / "supervision.parquet",
        "drafts": workspace.draft / "trajectory.parquet",
        "rejected": workspace.draft / "rejected.parquet",
        "reviews": workspace.reviews,
    }.items():
        if path.is_file():
            inputs[name] = file_hash(path)
    return inputs
