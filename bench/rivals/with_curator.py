"""The job with bespokelabs-curator: `with_curator.py FOLDER`, the address in BENCH_ADDRESS."""

import os
import sys
from pathlib import Path

import litellm
from bespokelabs import curator
from measured import CONCURRENCY, MAX_TOKENS, MODEL, measured, rows


class Inspector(curator.LLM):
    """One request a sample, both images sent from their files."""

    def prompt(self, row: dict[str, str]) -> tuple:
        return row["prompt"], curator.types.Image(url=row["image_1"]), curator.types.Image(url=row["image_2"])

    def parse(self, _: dict[str, str], response: str) -> dict[str, str]:
        return {"answer": response}


def main() -> None:
    address, folder = os.environ["BENCH_ADDRESS"], Path(sys.argv[1])
    # It loads a tokenizer from the network, although one of its own requirements brings the same file.
    os.environ["TIKTOKEN_CACHE_DIR"] = str(Path(litellm.__file__).parent / "litellm_core_utils" / "tokenizers")
    inspector = Inspector(
        model_name=MODEL,
        backend="openai",
        generation_params={"max_tokens": MAX_TOKENS},
        backend_params={
            "base_url": address,
            "api_key": "none",
            "max_concurrent_requests": CONCURRENCY,
            # As good as none: its own defaults would hold it back.
            "max_requests_per_minute": 1_000_000,
            "max_tokens_per_minute": 10_000_000_000,
        },
    )
    samples = rows(folder)
    measured(lambda: len(inspector(samples).dataset), "bespokelabs-curator")


if __name__ == "__main__":
    main()
