"""Pages of the reference that list what the code declares: tools, gates, rewards, metrics, files, data sets, …"""

import ast
import inspect
import json
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import yaml

from cot_builder.benchmarks.benchmark import Benchmark
from cot_builder.benchmarks.table import load_benchmarks
from cot_builder.inspection.tools import TOOLS
from cot_builder.teacher.gates import CORPUS_GATES, GATES, duplicates
from docs_build.markdown import code, convert_docstring, described_table, first_paragraph, table
from docs_build.parameters import parameters_page
from docs_build.tables import tables_page
from docs_build.verbs import verbs_page
from eval.metrics import FIGURES
from eval.scoreboard import SETS, published
from schemas.taxonomy import describe, families, family, iso8785, leaves
from train.rewards import list_terms

ENDPOINT_GATES = {
    "audit": "A second reading without supervision finds no ungrounded statement (endpoint teacher only).",
    "judge": "No other valid candidate was scored higher (endpoint teacher only).",
    "unfinished": "The answer did not end before it was complete (endpoint teacher only).",
}


def generated_pages(root: Path) -> dict[str, str]:
    """Text of every generated page by its path in the site."""
    return {
        "reference/verbs.md": verbs_page(),
        "reference/parameters.md": parameters_page(root),
        "reference/tables.md": tables_page(),
        "reference/files.md": files_page(root),
        "reference/tools.md": tools_page(),
        "reference/gates.md": gates_page(),
        "reference/rewards.md": rewards_page(),
        "reference/metrics.md": metrics_page(),
        "reference/taxonomy.md": taxonomy_page(),
        "reference/verdict-rules.md": verdict_rules_page(root),
        "reference/python.md": python_page(root),
        "reference/prices.md": prices_page(root),
        "reference/gpu-configurations.md": gpu_configurations_page(root),
        "numbers/scoreboard.md": scoreboard_page(),
        "numbers/bench.md": bench_page(root),
        "data-sets.md": data_sets_page(root),
        "how-to/examples.md": examples_page(root),
    }


def tools_page() -> str:
    """Every tool with its schema, as a model reads it."""
    parts = [
        "# Tools",
        "Generated from `cot_builder/inspection/tools/`. The teacher, the rollouts of `grpo` and `evaluate` call these "
        "same functions. They are deterministic and never see the ground truth. The descriptions are the ones that a "
        "model reads.",
    ]
    for tool in TOOLS.values():
        schema = tool.schema["function"]
        properties = schema["parameters"].get("properties", {})
        required = schema["parameters"].get("required", [])
        rows = [
            (code(name), _json_type(value), "yes" if name in required else "no", value.get("description", ""))
            for name, value in properties.items()
        ]
        parts += [
            f"## {tool.name}",
            schema["description"],
            described_table(["argument", "type", "required", "description"], rows),
            f"Returns {'a text and an image' if tool.returns_image else 'a text'}. Last changed in version "
            f"{tool.version} of the toolbox.",
        ]
    return "\n\n".join(parts) + "\n"


def gates_page() -> str:
    """Every gate with the first sentence of its docstring."""
    rows = [(code(name), first_paragraph(gate.__doc__)) for name, gate in GATES.items()]
    rows += [(code(name), first_paragraph(duplicates.__doc__)) for name in CORPUS_GATES]
    rows += [(code(name), words) for name, words in ENDPOINT_GATES.items()]
    return (
        "# Gates\n\nGenerated from `cot_builder/teacher/gates/`. A draft enters the corpus only if it passes every "
        "gate. `reports/gates.md` counts what each gate refused. "
        "[Gates and leakage](../numbers/gates.md) explains them.\n\n"
        + described_table(["gate", "a draft passes if"], rows)
    )


def rewards_page() -> str:
    """Every term of the reward with its weight, further parameters and docstring."""
    parts = [
        "# Reward terms",
        "Generated from `train/rewards/`. The reward of `grpo` is "
        "`R_acc (1 + alpha R_loc + beta R_type + gamma R_tool) + R_format`. A term behind the gate scores 0 unless the "
        "verdict is right. A weight of 0 leaves a term out.",
    ]
    for term in list_terms():
        further = ", ".join(f"{code(f'grpo.reward.{name}')} = {value}" for name, value in term.parameters.items())
        weight = f"`grpo.reward.{term.weight}`, default {term.default}" if term.weight else f"fixed at {term.default}"
        parts += [
            f"## {term.name}",
            f"Weight: {weight}. {'Behind the gate.' if term.gated else 'Not behind the gate.'}"
            + (f" Further parameters: {further}." if further else "")
            + (f" Scores lie in {list(term.limits)}." if term.limits else ""),
            _docstring(term.function),
        ]
    return "\n\n".join(parts) + "\n"


def metrics_page() -> str:
    """Every figure of ``metrics.json``."""
    rows = [
        (code(figure.name), figure.title, ", ".join(figure.needs), first_paragraph(figure.count.__doc__))
        for figure in FIGURES.values()
    ]
    return (
        "# Metrics\n\nGenerated from `eval/metrics/`. Each is computed for all images of a set and for every category, "
        "type, family, view and size. Each has a bootstrap interval where there are enough parts. "
        "[Metrics and intervals](../numbers/metrics.md) explains them.\n\n"
        + described_table(["key in metrics.json", "name on pages", "needs images that are", "definition"], rows)
    )


def taxonomy_page() -> str:
    """Every defect type by family."""
    parts = [
        "# Defect types",
        "Generated from `schemas/taxonomy.yaml`. A verdict Yes names one of these types. Two types of one family count "
        "as half alike in the reward.",
    ]
    for name in families():
        rows = [
            (code(leaf), describe(leaf), iso8785(leaf) or "", _labels_of(leaf))
            for leaf in leaves()
            if family(leaf) == name
        ]
        parts += [f"## {name}", table(["type", "description", "ISO 8785", "labels of data sets"], rows)]
    return "\n\n".join(parts) + "\n"


def verdict_rules_page(root: Path) -> str:
    """The rules at the head of ``eval/parse.py``."""
    text = ast.get_docstring(ast.parse((root / "eval/parse.py").read_text(encoding="utf-8"))) or ""
    return f"# How a verdict is read\n\nGenerated from `eval/parse.py`.\n\n{convert_docstring(text)}\n"


def files_page(root: Path) -> str:
    """Every file that a stage writes: stages from dvc.yaml, files from ``docs_build/files.yaml``."""
    stages = yaml.safe_load((root / "dvc.yaml").read_text(encoding="utf-8"))["stages"]
    described = yaml.safe_load((root / "docs_build/files.yaml").read_text(encoding="utf-8"))
    parts = [
        "# Files",
        "Stages, commands, inputs and outputs are generated from `dvc.yaml`; a test compares the list of files with "
        "the files of a finished project. A stage's output appears as a whole or not at all.",
    ]
    for name, stage in stages.items():
        body = stage.get("do", stage)
        outputs = [_out(item) for item in [*body.get("outs", []), *body.get("metrics", [])]]
        inputs = [code(item) for item in body.get("deps", [])]
        facts = [f"- Command: `{body['cmd'].replace('${key}', 'SET')}`"]
        facts += [f"- Reads: {', '.join(inputs)}"] if inputs else []
        facts.append(f"- Writes: {', '.join(code(item) for item in outputs)}")
        facts += (
            ["- Frozen: `indus-cot repro` never runs it; people decide when to pull."] if body.get("frozen") else []
        )
        parts += [f"## {name}", "\n".join(facts)]
        rows = [
            (code(path), words)
            for path, words in described["files"].items()
            if any(path == item or path.startswith(f"{item}/") for item in outputs)
        ]
        if rows:
            parts.append(described_table(["file", "content"], rows))
    common = [(code(path), words) for path, words in described["in every folder of a stage"].items()]
    others = [(code(path), words) for path, words in described["other"].items()]
    parts += ["## In the folder of every stage", described_table(["file", "content"], common)]
    parts += ["## Other files", described_table(["file", "content"], others)]
    return "\n\n".join(parts) + "\n"


def scoreboard_page() -> str:
    """Published results, from ``eval/scoreboard.yaml``."""
    titles = [load_benchmarks()[name].BENCHMARK.title for name in SETS]
    lines = sorted(published(), key=lambda line: (line.mean is None, -(line.mean or 0)))
    rows = []
    for line in lines:
        name = f"[{line.name}](#{_anchor(line.name)})"
        figures = [f"{line.figures[item]:.1f}" if item in line.figures else "" for item in SETS]
        rows.append((name, line.measure, *figures, "" if line.mean is None else f"{line.mean:.1f}"))
    parts = [
        "# Scoreboard",
        "Generated from `eval/scoreboard.yaml`: figures that others report, in per cent, as their sources print them. "
        "None was measured by this project. `indus-cot report` puts the figures of your own runs above these lines.",
        "The unrounded figures that IAD-R1's repository publishes for Qwen-VL-Max on MPDD and SDD fit exactly one set "
        "of whole counts on the official lists each; `indus-cot rescore --counts` computes the figures from the "
        "counts. In the paper's own table, F1 does not follow from recall and balanced accuracy on those lists.",
        table(["line", "measure", *titles, "mean"], rows),
        "## Sources and limits",
    ]
    for line in lines:
        source = f"[{line.source}]({line.address})" if line.address else line.source
        facts = [
            f"- Source: {source}",
            f"- Published test list: {_yes_no(line.same_list)}. Same protocol: {_yes_no(line.same_protocol)}.",
            f"- {line.protocol}",
        ]
        parts += [f"### {line.name} {{ #{_anchor(line.name)} }}", "\n".join(facts)]
    return "\n\n".join(parts) + "\n"


def bench_page(root: Path) -> str:
    """The rows of ``make bench``, each with the docstring of its function."""
    rows = [
        (code(name), first_paragraph(ast.get_docstring(function)), *_target(function))
        for name, function in _bench_functions(root)
    ]
    head = (root / "docs_build/bench.md").read_text(encoding="utf-8")
    return f"{head}\n## Rows\n\nGenerated from `bench/`.\n\n{table(['row', 'measures', 'against', 'target'], rows)}"


def data_sets_page(root: Path) -> str:
    """Every data set with the facts of its module."""
    modules = {name: module for name, module in load_benchmarks().items() if module.BENCHMARK.published}
    head = (root / "docs_build/data_sets.md").read_text(encoding="utf-8")
    sets = yaml.safe_load((root / "params.yaml").read_text(encoding="utf-8"))["pull"]
    rows = [
        (f"[{facts.title}](#{name})", sets[name]["role"] if name in sets else "", facts.licence, facts.redistribution,
         code(facts.archive or ""))
        for name, facts in ((name, module.BENCHMARK) for name, module in modules.items())
    ]  # fmt: skip
    parts = [head, table(["set", "role", "licence of the data", "redistribution", "archive"], rows)]
    for name, module in modules.items():
        parts += _data_set(name, module.BENCHMARK, inspect.getdoc(module) or "")
    return "\n\n".join(parts) + "\n"


def python_page(root: Path) -> str:
    """The public names of ``indus_cot``; mkdocstrings fills in signatures and docstrings."""
    options = "    options:\n      show_root_heading: false\n      show_root_toc_entry: false\n      heading_level: 3"
    parts = ["# Python API", f"::: indus_cot\n{options}\n      members: false"]
    for name, place in public_names(root).items():
        parts += [f"## {name}", f"```python\nfrom indus_cot import {name}\n```"]
        options = (
            "    options:\n      show_root_heading: false\n      show_root_toc_entry: false\n      heading_level: 3"
        )
        parts.append(f"::: {place}\n{options}")
    return "\n\n".join(parts) + "\n"


def public_names(root: Path) -> dict[str, str]:
    """Public names of ``indus_cot`` with the module path of each: the imports that type checkers see."""
    tree = ast.parse((root / "indus_cot/__init__.py").read_text(encoding="utf-8"))
    imports = [node for node in ast.walk(tree) if isinstance(node, ast.ImportFrom) and node.module]
    names = {alias.asname or alias.name: f"{node.module}.{alias.name}" for node in imports for alias in node.names}
    public: list[str] = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Assign) and any(getattr(item, "id", "") == "__all__" for item in node.targets):
            public = ast.literal_eval(node.value)
    return {name: names[name] for name in public if name in names}


def examples_page(root: Path) -> str:
    """The programs of ``examples/``, with their text."""
    parts = [
        "# Example programs",
        "Small programs to copy from. Each is one file, runs as it stands, and is run by `make test`. Run them in a "
        "checkout once `make demo` has made the environment.",
    ]
    for path in sorted((root / "examples").glob("*.py")):
        text = path.read_text(encoding="utf-8").strip()
        parts += [f"## {path.name}", f"```python\n{text}\n```"]
    return "\n\n".join(parts) + "\n"


def prices_page(root: Path) -> str:
    """prices.yaml as it is."""
    text = (root / "prices.yaml").read_text(encoding="utf-8").strip()
    return (
        "# Prices\n\n`prices.yaml` says what each model costs. [Budget and cache](../how-to/budget-and-cache.md) says "
        f"how it is used. Add a line for a model of yours.\n\n```yaml\n{text}\n```\n"
    )


def gpu_configurations_page(root: Path) -> str:
    """The text beside the configurations of accelerate."""
    return (
        (root / "train/configs/README.md")
        .read_text(encoding="utf-8")
        .replace(
            "# Launching on GPUs",
            "# Launch configurations\n\nFrom `train/configs/README.md`; the files lie beside it.",
            1,
        )
    )


def _data_set(name: str, facts: Benchmark, text: str) -> Iterator[str]:
    yield f"## {facts.title} {{ #{name} }}"
    counts = [f"{count} {label} {split}" for (split, label), count in facts.published.items()]
    rows = [
        ("name in `pull`", code(name)),
        ("licence", facts.licence),
        ("redistribution", f"{facts.redistribution}: {facts.clause}"),
        ("attribution", facts.attribution),
        ("address", f"<{facts.homepage}>" if facts.homepage else ""),
        ("archive", code(facts.archive or "")),
        ("sha256", code(facts.sha256 or "")),
        ("published counts", ", ".join(counts)),
        ("categories", f"{len(facts.categories)}: {', '.join(facts.categories)}" if facts.categories else ""),
        ("citation", facts.citation),
    ]
    yield table(["", ""], [row for row in rows if row[1]])
    yield convert_docstring(text)
    if facts.published_test:
        tests = [(category, *counts) for category, counts in facts.published_test.items()]
        yield '??? note "Test images by category"\n\n' + _indent(table(["category", "normal", "anomalous"], tests))
    labels = [(code(kind), ", ".join(map(code, names))) for kind, names in facts.labels.items()]
    if labels:
        yield '??? note "Labels by defect type"\n\n' + _indent(table(["type", "labels of the data set"], labels))


def _bench_functions(root: Path) -> Iterator[tuple[str, ast.FunctionDef]]:
    tree = ast.parse((root / "bench/__main__.py").read_text(encoding="utf-8"))
    rows: dict[str, str] = next(
        ast.literal_eval(node.value)
        for node in tree.body
        if isinstance(node, ast.Assign) and getattr(node.targets[0], "id", "") == "ROWS"
    )
    for name, module in rows.items():
        functions = ast.parse((root / f"bench/{module}.py").read_text(encoding="utf-8")).body
        yield name, next(item for item in functions if isinstance(item, ast.FunctionDef) and item.name == name)


def _target(function: ast.FunctionDef) -> tuple[str, str]:
    """The rival and the target of a row, as far as they are written out in the call of ``Row``."""
    against = target = ""
    for call in ast.walk(function):
        if isinstance(call, ast.Call) and getattr(call.func, "id", "") == "Row" and len(call.args) == 6:
            texts = [str(item.value) if isinstance(item, ast.Constant) else "" for item in call.args]
            against, target = texts[2], f"{'≥' if texts[5] == 'higher' else '≤'} {texts[4]}"
    return against, target


def _labels_of(leaf: str) -> str:
    found = []
    for module in load_benchmarks().values():
        facts: Benchmark = module.BENCHMARK
        if labels := facts.labels.get(leaf):
            found.append(f"{facts.title}: {', '.join(map(code, labels))}")
    return "; ".join(found)


def _docstring(function: Callable[..., Any]) -> str:
    text, _, arguments = convert_docstring(inspect.getdoc(function) or "").partition("\nArgs:\n")
    if not arguments:
        return text
    entries = re.split(r"\n {4}(?=\w)", f"\n{arguments.rstrip()}")
    return text + "\n" + "\n".join(f"- {' '.join(entry.split())}" for entry in entries if entry.strip())


def _json_type(schema: dict[str, Any]) -> str:
    if "enum" in schema:
        return "one of " + ", ".join(code(value) for value in schema["enum"])
    if schema.get("type") == "array":
        return f"list of {_json_type(schema.get('items', {}))}"
    if "anyOf" in schema:
        return " or ".join(_json_type(item) for item in schema["anyOf"])
    return str(schema.get("type", json.dumps(schema)))


def _out(item: Any) -> str:
    return (item if isinstance(item, str) else next(iter(item))).replace("${key}", "SET")


def _anchor(name: str) -> str:
    return re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-")


def _yes_no(value: bool | None) -> str:
    return {True: "yes", False: "no", None: "not stated"}[value]


def _indent(text: str) -> str:
    return "\n".join(f"    {line}" if line else "" for line in text.splitlines())
