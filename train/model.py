"""Models and processors: any Qwen3-VL, from a folder or the Hub, checked before it is trained."""

from pathlib import Path
from typing import Any

from safetensors import SafetensorError

from cot_builder.params import Train
from cot_builder.storage.workspace import file_hash
from schemas.errors import IndusCotError

WORDS = ("Yes", "No")
"""The verdict's words, whose log-probabilities are compared."""


def load_processor(name: str, *, tools: bool = True, verdicts: bool = True) -> Any:
    """The processor of a model.

    Args:
        name: A folder, or OWNER/NAME on the Hub.
        tools: It is to be told of tools.
        verdicts: The confidence of its verdicts is to be read.

    Raises:
        IndusCotError: it is not there; it wants to run code of its own; it takes no images; its chat template knows no
            tools; Yes or No is more than one token.
    """
    from transformers import AutoProcessor

    try:
        processor = AutoProcessor.from_pretrained(name, padding_side="left", trust_remote_code=False)
    except (OSError, ValueError, ImportError) as error:
        raise not_there(name, error) from error
    check_processor(processor, name, tools=tools, verdicts=verdicts)
    return processor


def load_model(name: str, **options: Any) -> Any:
    """The weights of a model, on the CPU, as ``from_pretrained`` gives them.

    Args:
        name: A folder, or OWNER/NAME on the Hub.
        options: Of ``from_pretrained``, such as ``dtype``.

    Raises:
        IndusCotError: it is not there, damaged, wants to run code of its own, or is no model that takes images and
            text.
    """
    from transformers import AutoModelForImageTextToText

    try:
        return AutoModelForImageTextToText.from_pretrained(name, trust_remote_code=False, **options)
    except (OSError, ValueError, ImportError, SafetensorError) as error:
        raise not_there(name, error) from error


def load_policy(name: str, train: Train) -> Any:
    """A model to be trained as ``train`` says.

    Raises:
        IndusCotError: as :func:`load_model`.
    """
    # Full weights are kept in 32 bit: an update of 1e-6 would vanish in 16.
    model = load_model(name, dtype=train.dtype if train.lora_rank else "float32")
    vision(model, name).requires_grad_(not train.freeze_vision)
    return model


def vision(model: Any, name: str) -> Any:
    """The vision tower of a model.

    Raises:
        IndusCotError: it has none where Qwen3-VL has it.
    """
    tower = getattr(getattr(model, "model", None), "visual", None)
    if tower is None:
        raise IndusCotError(
            f"{name}: a {type(model).__name__} is not built as Qwen3-VL is, which is what is trained here; use one"
        )
    return tower


def check_processor(processor: Any, name: str, *, tools: bool = True, verdicts: bool = True) -> None:
    """Check what training and evaluation rely on: ``tools`` and ``verdicts`` as of :func:`load_processor`.

    Raises:
        IndusCotError: it takes no images; the chat template knows no tools; Yes or No is more than one token.
    """
    if not hasattr(processor, "image_processor"):
        raise IndusCotError(f"{name}: it reads text alone, and an inspection has images; use a Qwen3-VL")
    template = getattr(processor, "chat_template", None) or getattr(processor.tokenizer, "chat_template", None) or ""
    if tools and ("tools" not in template or "tool_call" not in template):
        raise IndusCotError(
            f"{name}: its chat template does not render tool calls; use a model that was trained with tools, such as "
            "Qwen3-VL, or put such a template into its chat_template.jinja"
        )
    for word in WORDS if verdicts else ():
        tokens = processor.tokenizer.encode(word, add_special_tokens=False)
        if len(tokens) != 1:
            raise IndusCotError(
                f"{name}: its tokenizer writes {word!r} as {len(tokens)} tokens; the confidence of a verdict is read "
                "from one. Use a tokenizer that has it as a single token"
            )


def not_there(name: str, error: Exception) -> IndusCotError:
    """What to say of a model that cannot be loaded."""
    kind = "folder" if Path(name).exists() else "model"
    if "trust_remote_code" in str(error):
        return IndusCotError(
            f"{name}: this {kind} wants to run Python code of its own (`auto_map` in one of its JSON files), which is "
            "never done here; use a model that is part of transformers, such as Qwen3-VL"
        )
    return IndusCotError(f"{name}: this {kind} cannot be loaded: {' '.join(str(error).split())[:300]}")


def located(name: str, root: Path, target: Path, parameter: str) -> str:
    """The folder in ``root`` that a parameter names, or the name as it is, for one on the Hub.

    Raises:
        IndusCotError: it is ``target``, which the stage is about to write.
    """
    folder = root / name
    if folder.resolve() == target.resolve():
        raise IndusCotError(
            f"{parameter}: {name} is what this stage writes; to go on from it, copy it to another folder and name that"
        )
    return str(folder) if folder.is_dir() else name


def identity(name: str) -> dict[str, str]:
    """What a run began from, for a manifest: ``model`` is the hash of its manifest where a stage left one.

    Weights that lie here without one are named by file and hash; of a model on the Hub there is the name alone.
    """
    manifest = Path(name) / "manifest.json"
    if manifest.is_file():
        return {"model": file_hash(manifest)}
    return {"model": name} | {path.name: file_hash(path) for path in sorted(Path(name).glob("*.safetensors"))}


def merge(base: str, adapters: Path, target: Path, dtype: str) -> None:
    """Write the weights of ``base`` with ``adapters`` merged into them to ``target``, on this process alone.

    Raises:
        IndusCotError: as :func:`load_model`.
    """
    from peft import PeftModel
    from transformers.integrations.deepspeed import unset_hf_deepspeed_config

    # Training is over. While ZeRO-3 is set, loading shards the weights over all processes, and the others wait.
    unset_hf_deepspeed_config()
    PeftModel.from_pretrained(load_model(base, dtype=dtype), str(adapters)).merge_and_unload().save_pretrained(target)


def lora(rank: int) -> Any:
    """The configuration of adapters on every linear layer of the language model; the vision tower stays as it is."""
    from peft import LoraConfig

    layers = "q_proj|k_proj|v_proj|o_proj|gate_proj|up_proj|down_proj"
    return LoraConfig(
        r=rank, lora_alpha=2 * rank, target_modules=rf".*language_model\..*\.({layers})", task_type="CAUSAL_LM"
    )
