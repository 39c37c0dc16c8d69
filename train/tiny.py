"""Builds a Qwen3-VL of about two million parameters with its own tokenizer, offline, for tests and `make learn`.

Its architecture, processor and chat template are those of Qwen3-VL (arXiv 2511.21631), so that code that runs on it
also runs on the real model.
"""

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from cot_builder.inspection.rendering import system_prompt
from cot_builder.inspection.toolbox import tool_schemas

SPECIAL = (
    "<|endoftext|>", "<|im_start|>", "<|im_end|>", "<|object_ref_start|>", "<|object_ref_end|>", "<|box_start|>",
    "<|box_end|>", "<|quad_start|>", "<|quad_end|>", "<|vision_start|>", "<|vision_end|>", "<|vision_pad|>",
    "<|image_pad|>", "<|video_pad|>",
)  # fmt: skip
PLAIN = ("<tool_call>", "</tool_call>", "<tool_response>", "</tool_response>", "<think>", "</think>")
"""Single tokens of Qwen3-VL that are not special: decoding keeps them in the text."""
WORDS = ("Yes", "No")
SPLIT = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
"""Pattern by which Qwen's tokenizer splits text before merging; each digit is split off."""
VOCABULARY_SIZE = 2048
PATCH, MERGE, SIDE = 8, 2, 128
"""Side of a patch in pixels, side of a visual token in patches, and largest side of an image in pixels."""
HIDDEN, LAYERS, HEADS, VISION_LAYERS = 128, 2, 4, 4


def build(
    folder: Path, texts: Iterable[str], seed: int, systems: Iterable[tuple[str, Any]] = (), phrases: Iterable[str] = ()
) -> None:
    """Write a randomly initialised model and its processor to ``folder``.

    Args:
        folder: Created if missing.
        texts: Texts to learn the vocabulary from; it has at most 2,048 tokens.
        seed: Seed of the weights; the vocabulary depends only on the other arguments.
        systems: System prompts, each with its tool schemas or None, that become one token each. They are the same in
            every chat, and reading them would take most of the time of such a small model.
        phrases: Other texts that become one token each.
    """
    import torch
    from transformers import Qwen3VLForConditionalGeneration

    processor = _make_processor(texts)
    wholes = [*phrases, *(_render_system_turn(processor, *system) for system in systems)]
    processor.tokenizer.add_tokens([_make_token(text) for text in wholes])
    torch.manual_seed(seed)
    model = Qwen3VLForConditionalGeneration(_make_config(processor.tokenizer))
    ends = [processor.tokenizer.convert_tokens_to_ids(token) for token in ("<|im_end|>", "<|endoftext|>")]
    model.generation_config.eos_token_id, model.generation_config.pad_token_id = ends, ends[-1]
    model.save_pretrained(folder)
    processor.save_pretrained(folder)


def list_systems() -> list[tuple[str, Any]]:
    """Return the inspector's system prompts, with its tools and without tools, for :func:`build`."""
    return [(system_prompt(), tool_schemas()), (system_prompt(tools=False), None)]


def _render_system_turn(processor: Any, system: str, tools: Any) -> str:
    """Render the content of the system turn: the chat template combines prompt and tools."""
    chat = [{"role": "system", "content": [{"type": "text", "text": system}]}]
    text: str = processor.apply_chat_template(chat, tools=tools, tokenize=False)
    return text.removeprefix("<|im_start|>system\n").partition("<|im_end|>")[0]


def _make_token(text: str) -> Any:
    from tokenizers import AddedToken

    return AddedToken(text, special=False, normalized=False)


def _make_processor(texts: Iterable[str]) -> Any:
    from transformers import Qwen2VLImageProcessor, Qwen3VLProcessor, Qwen3VLVideoProcessor

    tokenizer = _train_tokenizer(texts)
    template = _read_chat_template()
    tokenizer.chat_template = template
    shape = {"patch_size": PATCH, "merge_size": MERGE, "temporal_patch_size": 2}
    size = {"shortest_edge": (4 * PATCH * MERGE) ** 2, "longest_edge": SIDE**2}
    return Qwen3VLProcessor(
        image_processor=Qwen2VLImageProcessor(**shape, size=size, image_mean=[0.5] * 3, image_std=[0.5] * 3),
        tokenizer=tokenizer,
        video_processor=Qwen3VLVideoProcessor(**shape),
        chat_template=template,
    )


def _read_chat_template() -> str:
    # TRL recognises a template by its text, and chooses its tool parser and training template accordingly.
    import trl

    return (Path(trl.__file__).parent / "chat_templates" / "qwen3_vl.jinja").read_text(encoding="utf-8")


def _train_tokenizer(texts: Iterable[str]) -> Any:
    from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers
    from transformers import Qwen2TokenizerFast

    learned = Tokenizer(models.BPE())
    learned.normalizer = normalizers.NFC()
    learned.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(SPLIT), behavior="isolated", invert=False),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    learned.decoder = decoders.ByteLevel()
    # The margin needs both words as single tokens, so repeat them until they are frequent.
    words = [word for word in WORDS for _ in range(1000)]
    learned.train_from_iterator(
        [*texts, *words],
        trainers.BpeTrainer(
            vocab_size=VOCABULARY_SIZE - len(SPECIAL) - len(PLAIN),
            special_tokens=[],
            initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
            show_progress=False,
        ),
    )
    state = json.loads(learned.to_str())["model"]
    tokenizer = Qwen2TokenizerFast(
        vocab=state["vocab"],
        merges=[tuple(merge) for merge in state["merges"]],
        unk_token=None,
        eos_token="<|im_end|>",
        pad_token="<|endoftext|>",
        model_max_length=32768,
    )
    tokenizer.add_special_tokens({"additional_special_tokens": list(SPECIAL)})
    tokenizer.add_tokens([_make_token(token) for token in PLAIN])
    return tokenizer


def _make_config(tokenizer: Any) -> Any:
    from transformers import Qwen3VLConfig

    number = tokenizer.convert_tokens_to_ids
    head = HIDDEN // HEADS
    sections = [head // 2 - 2 * (head // 6), head // 6, head // 6]
    return Qwen3VLConfig(
        text_config={
            "vocab_size": -(-len(tokenizer) // 64) * 64,
            "hidden_size": HIDDEN,
            "intermediate_size": 2 * HIDDEN,
            "num_hidden_layers": LAYERS,
            "num_attention_heads": HEADS,
            "num_key_value_heads": HEADS // 2,
            "head_dim": head,
            "max_position_embeddings": 8192,
            "rope_theta": 10000.0,
            "rope_scaling": {"rope_type": "default", "mrope_section": sections, "mrope_interleaved": True},
            "tie_word_embeddings": True,
            "pad_token_id": number("<|endoftext|>"),
            "bos_token_id": None,
            "eos_token_id": number("<|im_end|>"),
        },
        vision_config={
            "depth": VISION_LAYERS,
            "hidden_size": HIDDEN,
            "intermediate_size": 2 * HIDDEN,
            "num_heads": HEADS,
            "patch_size": PATCH,
            "spatial_merge_size": MERGE,
            "temporal_patch_size": 2,
            "out_hidden_size": HIDDEN,
            "num_position_embeddings": (SIDE // PATCH) ** 2,
            "deepstack_visual_indexes": [1],
            "in_channels": 3,
        },
        image_token_id=number("<|image_pad|>"),
        video_token_id=number("<|video_pad|>"),
        vision_start_token_id=number("<|vision_start|>"),
        vision_end_token_id=number("<|vision_end|>"),
        tie_word_embeddings=True,
    )
