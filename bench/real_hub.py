"""`python -m bench.real_hub OWNER`: publishing on the real Hub, once, by a person with a token that may write.

It makes the private dataset OWNER/indus-cot-check from the corpus that is here, publishes twice, commits on top of a
stale parent, proposes a pull request twice, loads every configuration plain and streaming, copies it whole, and deletes
the dataset again (not with --keep). What the stand-in of the tests cannot prove is what this looks at: the Hub's own
check of the card, Xet, redirects of large files, and how it guards a parent commit.
"""

import argparse
import contextlib
import io
import json
import sys
import tempfile
from pathlib import Path
from typing import Any

NAME = "indus-cot-check"


def main() -> None:
    """Run every step; the first that fails ends it with its message."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("owner", help="your account, or an organisation you may write to")
    parser.add_argument("--keep", action="store_true", help="do not delete the dataset at the end")
    asked = parser.parse_args()
    repo = f"{asked.owner}/{NAME}"
    import datasets
    from huggingface_hub import HfApi, get_token

    from cot_builder.publishing.changes import download_file
    from cot_builder.publishing.manifest import MANIFEST

    api = HfApi(token=get_token())
    if api.repo_exists(repo, repo_type="dataset"):
        sys.exit(f"{repo} is there already; delete it, or what it holds would be taken for this check's")
    try:
        _step("dry run", _run("publish", "--repo", repo, "--dry-run"), "nothing was sent")
        _step("publish", _run("publish", "--repo", repo, "--private", "--tag"), "every hash as written")
        _step("again", _run("publish", "--repo", repo), "nothing changed: no commit")
        _step("diff", _run("diff", f"{repo}@v1.0.0"), "0 rows added, 0 removed, 0 changed")
        first = api.list_repo_commits(repo, repo_type="dataset")[-1].commit_id
        _step("stale parent", _stale(repo, first), "somebody else has committed since")
        for time in ("first", "second"):
            told = _run("--set", "publish.licence=cc0-1.0", "publish", "--repo", repo, "--pr")
            _step(f"pull request, {time} time", told, "pull request")
        proposed = list(api.get_repo_discussions(repo, repo_type="dataset", discussion_type="pull_request"))
        assert len(proposed) == 1, f"{len(proposed)} pull requests propose the same"
        for config in datasets.get_dataset_config_names(repo):
            for split, rows in datasets.load_dataset(repo, config).items():
                streamed = sum(1 for _ in datasets.load_dataset(repo, config, split=split, streaming=True))
                assert streamed == len(rows), f"{config} {split}: {streamed} rows streamed, {len(rows)} loaded"
                print(f"ok    {config} {split}: {len(rows)} rows, plain and streaming")
        tree = api.list_repo_tree(repo, repo_type="dataset", recursive=True)
        shards: list[Any] = [item for item in tree if _is_shard(item)]
        assert shards and all(item.lfs for item in shards), "a shard is no large file"
        sources = json.loads(download_file(repo, MANIFEST).read_text(encoding="utf-8"))["sources"]
        absent = [name for name, source in sources.items() if source["images"] == "referenced"]
        copies = [word for name in absent for word in ("--source", f"{name}=data/pull/{name}")]
        with tempfile.TemporaryDirectory() as folder:
            told = _run("rehydrate", repo, *copies, "--to", str(Path(folder) / "whole"))
            _step("copy whole", told, "every sha256 as published")
        print(f"ok    now look at https://huggingface.co/datasets/{repo}: card, viewer and pictures")
        if asked.keep is False:
            input("Enter deletes the dataset… ")
    finally:
        if not asked.keep:
            api.delete_repo(repo, repo_type="dataset", missing_ok=True)


def _is_shard(item: Any) -> bool:
    return bool(item.path.endswith(".parquet"))


def _stale(repo: str, parent: str) -> str:
    """What our own push says when the Hub refuses a commit, which really is sent, on top of an old one."""
    from cot_builder.publishing.hub import Hub, Remote
    from schemas.errors import IndusCotError

    try:
        Hub(repo, "dataset").push({"stale.txt": b"stale"}, [], Remote(parent, {}), "stale", False)
    except IndusCotError as error:
        return str(error)
    return "the Hub took a commit on top of a stale parent"


def _run(*arguments: str) -> str:
    """`indus-cot` in this process; its output, and the end where it fails."""
    from indus_cot.app import main as indus_cot

    said = io.StringIO()
    with contextlib.redirect_stdout(said), contextlib.redirect_stderr(said):
        try:
            indus_cot(list(arguments))
            code: Any = 0
        except SystemExit as end:
            code = end.code
    if code:
        sys.exit(f"indus-cot {' '.join(arguments)}:\n{said.getvalue()}")
    return said.getvalue()


def _step(name: str, told: str, due: str) -> None:
    if due not in told:
        sys.exit(f"{name}: {due!r} is not in\n{told}")
    print(f"ok    {name}")


if __name__ == "__main__":
    main()
