"""`python -m bench.real_hub OWNER`: publishing on the real Hub, once, by a person with a token that may write.

It makes the private dataset OWNER/indus-cot-check from the corpus that is here, publishes twice, proposes a pull
request, loads every configuration plain and streaming, compares, and deletes the dataset again (not with --keep). What
the stand-in of the tests cannot prove is what this looks at: the Hub's own check of the card, Xet, redirects of large
files, and how it guards a parent commit.
"""

import argparse
import subprocess
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

    api = HfApi(token=get_token())
    if api.repo_exists(repo, repo_type="dataset"):
        sys.exit(f"{repo} is there already; delete it, or what it holds would be taken for this check's")
    try:
        _step("dry run", _run("publish", "--repo", repo, "--dry-run"), "nothing was sent")
        _step("publish", _run("publish", "--repo", repo, "--private", "--tag"), "every hash as written")
        _step("again", _run("publish", "--repo", repo), "nothing changed: no commit")
        _step("diff", _run("diff", f"{repo}@v1.0.0"), "0 rows added, 0 removed, 0 changed")
        _step("stale parent", _run("publish", "--repo", repo, "--parent", "0" * 40, fails=True), "has committed since")
        _step(
            "pull request", _run("--set", "publish.licence=cc0-1.0", "publish", "--repo", repo, "--pr"), "pull request"
        )
        for config in datasets.get_dataset_config_names(repo):
            for split, rows in datasets.load_dataset(repo, config).items():
                streamed = sum(1 for _ in datasets.load_dataset(repo, config, split=split, streaming=True))
                assert streamed == len(rows), f"{config} {split}: {streamed} rows streamed, {len(rows)} loaded"
                print(f"ok    {config} {split}: {len(rows)} rows, plain and streaming")
        tree = api.list_repo_tree(repo, repo_type="dataset", recursive=True)
        shards: list[Any] = [item for item in tree if _is_shard(item)]
        assert shards and all(item.lfs for item in shards), "a shard is no large file"
        with tempfile.TemporaryDirectory() as folder:
            _step("copy whole", _run("rehydrate", repo, "--to", str(Path(folder) / "whole"), fails=None), "")
        print(f"ok    now look at https://huggingface.co/datasets/{repo}: card, viewer and pictures")
        if asked.keep is False:
            input("Enter deletes the dataset… ")
    finally:
        if not asked.keep:
            api.delete_repo(repo, repo_type="dataset", missing_ok=True)


def _is_shard(item: Any) -> bool:
    return bool(item.path.endswith(".parquet"))


def _run(*arguments: str, fails: bool | None = False) -> str:
    done = subprocess.run(
        [sys.executable, "-m", "cot_builder", *arguments], capture_output=True, text=True, check=False
    )
    told = done.stdout + done.stderr
    if fails is not None and bool(done.returncode) != fails:
        sys.exit(f"indus-cot {' '.join(arguments)}:\n{told}")
    return told


def _step(name: str, told: str, due: str) -> None:
    if due not in told:
        sys.exit(f"{name}: {due!r} is not in\n{told}")
    print(f"ok    {name}")


if __name__ == "__main__":
    main()
