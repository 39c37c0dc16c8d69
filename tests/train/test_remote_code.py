"""Tests that Python code in a model's folder never runs, and that the user is not asked about it."""

import io
import json
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from cot_builder.storage.workspace import Workspace
from schemas.errors import IndusCotError
from tests.helpers import training_project
from train import sft
from train.model import load_model, load_processor

CODE = """
from pathlib import Path
Path({trace!r}).touch()
from transformers import PretrainedConfig
class Config(PretrainedConfig):
    model_type = "own"
class Processor:
    @classmethod
    def from_pretrained(cls, *arguments, **options):
        return cls()
class Model: pass
class Tokenizer: pass
"""


def _change(path: Path, **values: Any) -> None:
    path.write_text(json.dumps((json.loads(path.read_text()) if path.exists() else {}) | values))


def own_model(folder: Path) -> None:
    """Use a model type and a processor that transformers does not have."""
    auto = {"AutoConfig": "own.Config", "AutoModelForImageTextToText": "own.Model", "AutoProcessor": "own.Processor"}
    _change(folder / "config.json", model_type="own", architectures=["Model"], auto_map=auto)
    _change(folder / "processor_config.json", processor_class="Processor", auto_map={"AutoProcessor": "own.Processor"})


def own_processor(folder: Path) -> None:
    _change(folder / "processor_config.json", processor_class="Processor", auto_map={"AutoProcessor": "own.Processor"})


def own_image_processor(folder: Path) -> None:
    images = {"image_processor_type": "Processor", "auto_map": {"AutoImageProcessor": "own.Processor"}}
    _change(folder / "processor_config.json", image_processor=images)


def code_on_the_hub(folder: Path) -> None:
    """Refer to code in another repository."""
    auto = {"AutoConfig": "owner/name--own.Config", "AutoModelForImageTextToText": "owner/name--own.Model"}
    _change(folder / "config.json", model_type="own", auto_map=auto)
    _change(folder / "processor_config.json", processor_class="P", auto_map={"AutoProcessor": "owner/name--own.P"})


def own_tokenizer(folder: Path) -> None:
    auto = {"AutoTokenizer": ["own.Tokenizer", "own.Tokenizer"]}
    _change(folder / "tokenizer_config.json", tokenizer_class="Tokenizer", auto_map=auto)


def own_code_for_a_known_model(folder: Path) -> None:
    auto = {"AutoConfig": "own.Config", "AutoModelForImageTextToText": "own.Model"}
    _change(folder / "config.json", auto_map=auto)
    images = {"image_processor_type": "Processor", "auto_map": {"AutoImageProcessor": "own.Processor"}}
    _change(folder / "preprocessor_config.json", **images)


class Terminal(io.StringIO):
    """Terminal of a user who answers yes to every question; no question may be asked."""

    questions = 0

    def readline(self, *_: Any) -> str:
        self.questions += 1
        return "y\n"


@pytest.fixture
def folder(trainable: Workspace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    terminal = Terminal()
    monkeypatch.setattr("sys.stdin", terminal)
    copied = Path(shutil.copytree(trainable.root / "tiny", tmp_path / "model"))
    (copied / "own.py").write_text(CODE.format(trace=str(tmp_path / "trace")))
    yield copied
    assert not terminal.questions


@pytest.mark.parametrize("write", [own_model, own_processor, own_image_processor, code_on_the_hub])
def test_model_that_needs_own_code_is_refused(
    write: Callable[[Path], None], folder: Path, trainable: Workspace, tmp_path: Path
) -> None:
    write(folder)
    params = training_project.params(trainable, model=str(folder))
    with pytest.raises(IndusCotError, match=r"model: this folder wants to run Python code of its own .* use a model"):
        sft.make_plan(params, trainable)
    assert not (tmp_path / "trace").exists()


@pytest.mark.parametrize("write", [own_model, code_on_the_hub])
def test_weights_that_need_own_code_are_refused(write: Callable[[Path], None], folder: Path, tmp_path: Path) -> None:
    write(folder)
    with pytest.raises(IndusCotError, match="wants to run Python code of its own"):
        load_model(str(folder))
    assert not (tmp_path / "trace").exists()


@pytest.mark.parametrize("write", [own_tokenizer, own_code_for_a_known_model])
def test_known_model_loads_without_its_own_code(write: Callable[[Path], None], folder: Path, tmp_path: Path) -> None:
    write(folder)
    assert type(load_processor(str(folder))).__name__ == "Qwen3VLProcessor"
    assert type(load_model(str(folder))).__name__ == "Qwen3VLForConditionalGeneration"
    assert not (tmp_path / "trace").exists()


def test_missing_kernel_is_named(folder: Path) -> None:
    _change(folder / "config.json", attn_implementation="owner/kernel")
    with pytest.raises(IndusCotError, match=r"cannot be loaded: .*kernels"):
        load_model(str(folder))
