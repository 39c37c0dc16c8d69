"""Without the extra `train`, the corpus half works, and the other verbs name the missing extra."""

import subprocess
import sys

import pytest

from tests.helpers.paths import ROOT

WITHOUT = """
from importlib.machinery import PathFinder
found = PathFinder.find_spec
training = {"torch", "torchvision", "transformers", "trl", "peft", "accelerate"}
PathFinder.find_spec = staticmethod(
    lambda name, *more: None if name.partition(".")[0] in training else found(name, *more)
)
"""
"""Code that hides the packages of the extra, as if they were not installed."""


def run_python(code: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-c", WITHOUT + code], cwd=ROOT, capture_output=True, text=True, check=False)


@pytest.mark.slow
def test_corpus_half_needs_no_train_extra():
    done = run_python(
        "import importlib, pkgutil, annotation, cot_builder.stages, cot_builder.benchmarks, cot_builder.teacher\n"
        "import eval.report.report, eval.report.show, eval.metrics, eval.compare, eval.evaluate, eval.scripted, eval.served\n"
        "for package in (annotation, cot_builder.stages, cot_builder.benchmarks, cot_builder.teacher):\n"
        "    for module in pkgutil.iter_modules(package.__path__, package.__name__ + '.'):\n"
        "        importlib.import_module(module.name)\n"
    )
    assert done.returncode == 0, done.stderr


def test_missing_extra_names_its_installation():
    done = run_python("from indus_cot.app import main; main(['sft'])")
    assert done.returncode == 1
    assert "pip install -e '.[train]'" in done.stderr and "Traceback" not in done.stderr
