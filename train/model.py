"""Loads models and processors: any Qwen3-VL, from a folder or the Hub, checked before training."""

from pathlib import Path
from typing import Any

from safetensors import SafetensorError

from cot_builder.params import Train
from cot_builder.storage.workspace import file_hash
from schemas.errors import IndusCotError

WORDS = ("Yes", "No")
"""Words of the verdict whose log-probabilities are compared."""


def load_processor(name: str, *, tools: bool = True, verdicts: bool = True) -> Any:
    """Load the processor of a model.

    Args:
        name: A folder, or OWNER/NAME on the Hub.
        tools: Whether its prompts will contain tools.
        verdicts: Whether the confidence of its verdicts will be measured.

    Raises:
        IndusCotError: it is missing; it wants to run its own code; it takes no images; its chat template does not
            render tools; Yes or No is more than one token.
    """
    from transformers import AutoProcessor

    try:
        processor = AutoProcessor.from_pretrained(name, padding_side="left", trust_remote_code=False)
    except (OSError, ValueError, ImportError) as error:
        raise make_load_error(name, error) from error
    check_processor(processor, name, tools=tools, verdicts=verdicts)
    return processor


def load_model(name: str, **options: Any) -> Any:
    """Load the weights of a model with ``from_pretrained``, on the CPU.

    Args:
        name: A folder, or OWNER/NAME on the Hub.
        options: Options of ``from_pretrained``, such as ``dtype``.

    Raises:
        IndusCotError: it is missing or damaged, wants to run its own code, or does not take images and text.
    """
    from transformers import AutoModelForImageTextToText

    try:
        return AutoModelForImageTextToText.from_pretrained(name, trust_remote_code=False, **options)
    except (OSError, ValueError, ImportError, SafetensorError) as error:
        raise make_load_error(name, error) from error


def load_policy(name: str, train: Train) -> Any:
    """Load a model for training with the settings ``train``.

    Raises:
        IndusCotError: see :func:`load_model`.
    """
    # Train full weights in 32 bit: an update of 1e-6 would vanish in 16 bit.
    model = load_model(name, dtype=train.dtype if train.lora_rank else "float32")
    get_vision_tower(model, name).requires_grad_(not train.freeze_vision)
    return model


def get_vision_tower(model: Any, name: str) -> Any:
    """Return the vision tower of a model.

    Raises:
        IndusCotError: the model is not built like Qwen3-VL.
    """
    tower = getattr(getattr(model, "model", None), "visual", None)
    if tower is None:
        raise IndusCotError(
            f"{name}: a {type(model).__name__} is not built like Qwen3-VL; training supports only Qwen3-VL; use one"
        )
    return tower


def check_processor(processor: Any, name: str, *, tools: bool = True, verdicts: bool = True) -> None:
    """Check that a processor supports training and evaluation; for ``tools`` and ``verdicts`` see `load_processor`.

    Raises:
        IndusCotError: it takes no images; its chat template does not render tools; Yes or No is more than one token.
    """
    if not hasattr(processor, "image_processor"):
        raise IndusCotError(f"{name}: it reads only text, but an inspection has images; use a Qwen3-VL")
    template = getattr(processor, "chat_template", None) or getattr(processor.tokenizer, "chat_template", None) or ""
    if tools and ("tools" not in template or "tool_call" not in template):
        raise IndusCotError(
            f"{name}: its chat template does not render tool calls; use a model that was trained with tools, such as "
            "Qwen3-VL, or write a template with tools into its chat_template.jinja"
        )
    for word in WORDS if verdicts else ():
        tokens = processor.tokenizer.encode(word, add_special_tokens=False)
        if len(tokens) != 1:
            raise IndusCotError(
                f"{name}: its tokenizer writes {word!r} as {len(tokens)} tokens, but the confidence of a verdict is "
                "measured on a single token. Use a tokenizer that writes it as one token"
            )


def make_load_error(name: str, error: Exception) -> IndusCotError:
    """Return the error for a model that cannot be loaded."""
    kind = "folder" if Path(name).exists() else "model"
    if "trust_remote_code" in str(error):
        return IndusCotError(
            f"{name}: this {kind} wants to run Python code of its own (`auto_map` in one of its JSON files). That is "
            "never allowed here; use a model that is part of transformers, such as Qwen3-VL"
        )
    return IndusCotError(f"{name}: this {kind} cannot be loaded: {' '.join(str(error).split())[:300]}")


def locate_model(name: str, root: Path, target: Path, parameter: str) -> str:
    """Return the path of the folder in ``root`` that a parameter names, or the name itself if it is on the Hub.

    Raises:
        IndusCotError: the folder is ``target``, which the stage is about to write.
    """
    folder = root / name
    if folder.resolve() == target.resolve():
        raise IndusCotError(
            f"{parameter}: {name} is the folder that this stage writes; to continue from it, copy it to another "
            f"folder and set {parameter} to the copy"
        )
    return str(folder) if folder.is_dir() else name


def identify_model(name: str) -> dict[str, str]:
    """Return the identity of a start model for a manifest.

    ``model`` is the hash of the model's own manifest, if a stage wrote it. Otherwise ``model`` is the name, followed by
    the hash of each local weights file; a model on the Hub has only the name.
    """
    manifest = Path(name) / "manifest.json"
    if manifest.is_file():
        return {"model": file_hash(manifest)}
    return {"model": name} | {path.name: file_hash(path) for path in sorted(Path(name).glob("*.safetensors"))}


def merge_adapters(base: str, adapters: Path, target: Path, dtype: str) -> None:
    """Write the weights of ``base`` with ``adapters`` merged into them to ``target``; only one process calls it.

    Raises:
        IndusCotError: see :func:`load_model`.
    """
    from peft import PeftModel
    from transformers.integrations.deepspeed import unset_hf_deepspeed_config

    # Turn ZeRO-3 off: with it, loading shards the weights over all processes and would wait for the others.
    unset_hf_deepspeed_config()
    PeftModel.from_pretrained(load_model(base, dtype=dtype), str(adapters)).merge_and_unload().save_pretrained(target)


def make_lora_config(rank: int) -> Any:
    """Return a LoRA configuration for every linear layer of the language model; the vision tower is not adapted."""
    from peft import LoraConfig

    layers = "q_proj|k_proj|v_proj|o_proj|gate_proj|up_proj|down_proj"
    return LoraConfig(
        r=rank, lora_alpha=2 * rank, target_modules=rf".*language_model\..*\.({layers})", task_type="CAUSAL_LM"
    )
