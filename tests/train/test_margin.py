"""Tests the margin of the verdict on a policy."""

import math
from pathlib import Path
from typing import Any

import pytest
import torch

from cot_builder.inspection.rendering import prompt
from cot_builder.inspection.toolbox import tool_schemas
from schemas.errors import IndusCotError
from train.margin import PROBE, cut_after_observation, find_verdict_tokens, margin_gain, measure_margins
from train.model import load_model, load_processor

torch.set_num_threads(1)


@pytest.fixture(scope="module")
def loaded(policy: Path) -> tuple[Any, Any]:
    return load_model(str(policy / "fitted")), load_processor(str(policy / "fitted"))


def _chats(policy: Path) -> list[list[dict[str, Any]]]:
    """Make two chats of different length, the second with a call and its observation."""
    from tests.helpers.small_policy import make_example
    from train import corpus
    from train.collator import decode_image

    found = []
    for row in corpus.read(policy / "data" / "indus_cot")["train"].select(range(2)):
        item = make_example(row)
        asked = prompt(row["category"], row["view"])
        asked[1]["content"][0]["image"] = decode_image(item["images"][0]["bytes"])
        found.append((asked, item))
    (first, _), (second, item) = found
    step, seen = item["messages"][2:4]
    seen["content"][0]["image"] = decode_image(item["images"][1]["bytes"])
    return [first, [*second, step, seen]]


def _log_probability(model: Any, processor: Any, chat: list, written: str) -> float:
    """Return the log-probability of a text after a chat and the probe, from a separate pass."""
    from trl.data_utils import prepare_multimodal_messages

    filled = prepare_multimodal_messages(chat)
    text = processor.apply_chat_template(filled, tools=tool_schemas(), add_generation_prompt=True, tokenize=False)
    images = [part["image"] for message in filled for part in message["content"] if part["type"] == "image"]
    inputs = processor(text=[text + PROBE + written], images=images, return_tensors="pt")
    ids = inputs["input_ids"][0]
    count = len(processor.tokenizer.encode(PROBE + written)) - len(processor.tokenizer.encode(PROBE))
    logits = model(**inputs).logits[0].float().log_softmax(-1)
    return sum(logits[place - 1, ids[place]].item() for place in range(len(ids) - count, len(ids)))


def test_margin_sums_all_ways(policy: Path, loaded: tuple[Any, Any]) -> None:
    model, processor = loaded
    model.eval()
    tokens = processor.tokenizer
    # After "<location" only "<location>" can follow, so this prefix is enough.
    place = tokens.decode(find_verdict_tokens(processor).location)
    for chat, margin in zip(_chats(policy), measure_margins(model, processor, _chats(policy), 2), strict=True):
        with torch.no_grad():
            yes = [_log_probability(model, processor, chat, text) for text in (place, "<answer>Yes")]
            no = _log_probability(model, processor, chat, "<answer>No")
        assert margin == pytest.approx(math.log(sum(map(math.exp, yes))) - no, abs=2e-4)


def test_margin_is_independent_of_padding(policy: Path, loaded: tuple[Any, Any]) -> None:
    chats = _chats(policy)
    assert measure_margins(*loaded, chats, 2) == pytest.approx(measure_margins(*loaded, chats, 1), abs=2e-4)


@pytest.mark.parametrize(("at_once", "passes"), [(1, 4), (3, 2), (4, 1)])
def test_passes_depend_only_on_chat_count(policy: Path, loaded: tuple[Any, Any], at_once: int, passes: int) -> None:
    model, processor = loaded
    short, long = _chats(policy)
    counted: list[bool] = []
    hook = model.register_forward_hook(lambda *_: counted.append(torch.is_grad_enabled()))
    model.train()
    for chats in ([short] * 4, [long, short, long, long]):
        counted.clear()
        measure_margins(model, processor, chats, at_once)
        assert counted == [False] * passes
    hook.remove()
    assert model.training


def test_split_verdict_words_are_refused() -> None:
    from types import SimpleNamespace

    from tokenizers import pre_tokenizers
    from transformers import Qwen2TokenizerFast

    letters = {letter: place for place, letter in enumerate(sorted(pre_tokenizers.ByteLevel.alphabet()))}
    tokenizer = Qwen2TokenizerFast(vocab=letters, merges=[], unk_token=None)
    with pytest.raises(IndusCotError, match="single token"):
        find_verdict_tokens(SimpleNamespace(tokenizer=tokenizer))


def test_qwen_tokens_of_verdicts() -> None:
    """Its vocabulary has ``>No`` and no ``>Yes``, ``<location`` and no ``<answer``."""
    from types import SimpleNamespace

    from tokenizers import pre_tokenizers
    from transformers import Qwen2TokenizerFast

    words = (">No", "Yes", "answer", "<location")
    steps = [(word[:end], word[end]) for word in words for end in range(1, len(word))]
    pieces = [*sorted(pre_tokenizers.ByteLevel.alphabet()), *dict.fromkeys(a + b for a, b in steps)]
    tokenizer = Qwen2TokenizerFast(
        vocab={piece: place for place, piece in enumerate(pieces)}, merges=list(dict.fromkeys(steps)), unk_token=None
    )
    # These are single tokens in Qwen3, so they never merge with the text after them.
    tokenizer.add_tokens(["<think>", "</think>"])
    found = find_verdict_tokens(SimpleNamespace(tokenizer=tokenizer))
    shown = [tokenizer.convert_ids_to_tokens(way) for way in (found.location, found.yes, found.no)]
    assert shown == [["<location"], ["<", "answer", ">", "Yes"], ["<", "answer", ">No"]]
    assert tokenizer.convert_ids_to_tokens(found.shared_tokens) == ["<", "answer", ">"]


def test_gain_is_for_true_answer() -> None:
    assert margin_gain("Yes", -1.0, 2.0) == 3.0
    assert margin_gain("No", -1.0, 2.0) == -3.0
    assert math.isnan(margin_gain("No", math.nan, 2.0))


def test_cut_after_last_observation() -> None:
    asked, call, seen, verdict = ({"role": role} for role in ("user", "assistant", "tool", "assistant"))
    assert cut_after_observation([asked], [call, seen, verdict]) == [asked, call, seen]
    assert cut_after_observation([asked], [call]) == [asked]
    assert cut_after_observation([asked], []) == [asked]
