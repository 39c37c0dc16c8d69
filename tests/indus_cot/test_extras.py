"""The corpus half works where nothing of the extra `train` is installed, and says what is missing for the rest."""

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
"""Hides them, as if they were not installed."""


def python(code: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-c", WITHOUT + code], cwd=ROOT, capture_output=True, text=True, check=False)


@pytest.mark.slow
def test_the_corpus_half_needs_nothing_of_the_extra_train():
    done = python(
        "import importlib, pkgutil, annotation, cot_builder.stages, cot_builder.benchmarks, cot_builder.teacher\n"
        "import eval.report.report, eval.report.show, eval.metrics, eval.compare, eval.evaluate, eval.scripted, eval.served\n"
        "for package in (annotation, cot_builder.stages, cot_builder.benchmarks, cot_builder.teacher):\n"
        "    for module in pkgutil.iter_modules(package.__path__, package.__name__ + '.'):\n"
        "        importlib.import_module(module.name)\n"
    )
    assert done.returncode == 0, done.stderr


def test_a_verb_that_needs_it_says_how_to_install_it():
    done = python("from indus_cot.app import main; main(['sft'])")
    assert done.returncode == 1
    assert "pip install -e '.[train]'" in done.stderr and "Traceback" not in done.stderr
