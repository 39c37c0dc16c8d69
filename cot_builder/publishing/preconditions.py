"""What must hold before a corpus is published, and what it is published from."""

from cot_builder.corpus.reading import list_shards
from cot_builder.corpus.validated import check_up_to_date, check_validated, corpus_sha256, read_change_stamp
from cot_builder.publishing.configs import combine_hashes
from cot_builder.storage.workspace import Workspace, file_hash


def check_corpus(workspace: Workspace) -> dict[str, int]:
    """Rows by split of the validated corpus.

    Raises:
        IndusCotError: it is not there, was not validated, was changed since, or drafts or reviews have overtaken it:
            a row that an expert rejected since would leave as if nobody had looked at it.
    """
    counts = check_validated(workspace.indus_cot)
    check_up_to_date(workspace)
    return counts


def corpus_inputs(workspace: Workspace) -> dict[str, str]:
    """What the published files are made from: name to hash."""
    inputs = {"corpus": corpus_sha256(workspace.indus_cot)}
    # A changed shard has another time; hashing the images here would read everything twice.
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
