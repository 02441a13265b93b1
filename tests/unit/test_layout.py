"""The import rules of the layout (layers, Ray and torch at their places) and the length of files."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
MAX_LINES = 300

# Lower floors first; a name stands for everything below it.
LAYERS = [
    ["pipeline.errors", "pipeline.redact", "pipeline.config"],
    ["pipeline.storage"],
    ["pipeline.engine"],
    ["pipeline.data"],
    ["pipeline.clicks"],
    ["pipeline.augment", "pipeline.model", "pipeline.weights"],
    ["pipeline.stream"],
    ["pipeline.train", "pipeline.evaluate"],
    ["pipeline.tune"],
    ["pipeline.report"],
    ["pipeline.tracking"],
    ["pipeline.predict"],
    ["pipeline.serve"],
    ["jobs"],
]
LAYER_OF = {name: number for number, names in enumerate(LAYERS) for name in names}
DOOR = "pipeline.predict.predictor"
STRANGERS = [("pipeline.train", "pipeline.evaluate"), ("pipeline.evaluate", "pipeline.train")]
RAY_MODULES = [
    "pipeline.engine.connect",
    "pipeline.engine.device",
    "pipeline.engine.main",
    "pipeline.engine.preflight",
    "pipeline.engine.watch",
    "pipeline.data.shards",
    "pipeline.stream.stream",
    "pipeline.train.launch",
    "pipeline.train.mailbox",
    "pipeline.train.trainer",
    "pipeline.tune.search",
    "pipeline.tune.cfr_sweep",
    "pipeline.tune.icl_sweep",
    "pipeline.tune.icl_tuner",
    "pipeline.tune.icl_trial",
    "pipeline.evaluate.job",
    "pipeline.evaluate.pool",
    "pipeline.predict.job",
    "pipeline.serve.app",
    "pipeline.serve.server",
]
TORCH_SIDE = ["pipeline.clicks.disks", "pipeline.clicks.batched"]  # of clicks
NUMPY_SIDE = ["pipeline.data", "pipeline.augment", "pipeline.clicks", "pipeline.stream"]
TORCH_MODULES = ["torch", "torchvision", "timm", "pipeline.model", *TORCH_SIDE]


def inside(module: str, names: list[str]) -> str:
    """The longest of `names` that is `module` or a package above it; "" if none is."""
    return max((n for n in names if module == n or module.startswith(n + ".")), key=len, default="")


def imports(source: str, module: str, is_package: bool = False) -> Iterator[tuple[int, str]]:
    """(line, absolute dotted name) of every import in the text of `module`, those inside functions too.

    `from a import b` gives "a.b": whether b is a module or a name in a does not matter to the prefix rules.
    """
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield node.lineno, alias.name
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                parents = module.split(".")
                parents = parents[: len(parents) - node.level + is_package]
                base = ".".join([*parents, base] if base else parents)
            for alias in node.names:
                yield node.lineno, f"{base}.{alias.name}"


def problems(source: str, module: str, is_package: bool = False) -> list[str]:
    """One line for each import in the text of `module` that breaks a rule."""
    names = list(LAYER_OF)
    layer = -1 if module == "pipeline" else LAYER_OF.get(inside(module, names))  # it imports its door only
    if layer is None:
        return [f"{module} has no layer; add it to LAYERS"]
    found = []
    for line, target in imports(source, module, is_package):
        where = f"{module}:{line} imports {target}"
        target_layer = LAYER_OF.get(inside(target, names))
        if inside(target, ["pipeline", "jobs"]) and target_layer is None:
            found.append(f"{where}, which has no layer; add it to LAYERS")
        elif module == "pipeline" and inside(target, [DOOR]):
            continue
        elif target_layer is not None and target_layer > layer:
            found.append(f"{where}, a higher layer")
        if any(inside(module, [a]) and inside(target, [b]) for a, b in STRANGERS):
            found.append(f"{where}: train and evaluate never import each other")
        if inside(target, ["ray"]) and module not in RAY_MODULES:
            found.append(f"{where}: not one of the files that may use Ray")
        if inside(target, RAY_MODULES) and module not in RAY_MODULES and not inside(module, ["jobs"]):
            found.append(f"{where}, which brings Ray with it")
        if inside(module, NUMPY_SIDE) and module not in TORCH_SIDE and inside(target, TORCH_MODULES):
            found.append(f"{where}: no torch here")
    return found


def cycles(graph: dict[str, set[str]]) -> list[str]:
    """The import cycles among modules, each as "a > b > a"."""
    found: list[str] = []
    done: set[str] = set()

    def visit(module: str, path: list[str]) -> None:
        if module in path:
            found.append(" > ".join([*path[path.index(module) :], module]))
        elif module not in done:
            for target in sorted(graph.get(module, ())):
                visit(target, [*path, module])
            done.add(module)

    for module in sorted(graph):
        visit(module, [])
    return found


def too_long(texts: dict[str, str]) -> list[str]:
    """Names of texts with more than MAX_LINES lines."""
    return [f"{name} has {n} lines" for name, text in texts.items() if (n := len(text.splitlines())) > MAX_LINES]


def python_files(*folders: str) -> Iterator[Path]:
    for folder in folders:
        yield from sorted((ROOT / folder).rglob("*.py"))


def modules() -> dict[str, tuple[str, bool]]:
    """{module name: (text, is a package's own file)} of pipeline and jobs."""
    found = {}
    for path in python_files("pipeline", "jobs"):
        parts = path.relative_to(ROOT).with_suffix("").parts
        package = parts[-1] == "__init__"
        found[".".join(parts[:-1] if package else parts)] = (path.read_text(), package)
    return found


def test_every_import_keeps_the_rules() -> None:
    found = modules()
    assert len(found) > 10
    assert [p for name, (text, package) in found.items() for p in problems(text, name, package)] == []


def test_no_import_cycles() -> None:
    found = modules()
    names = list(found)
    graph = {
        name: {inside(target, names) for _, target in imports(text, name, package)} - {"", name}
        for name, (text, package) in found.items()
    }
    assert cycles(graph) == []


def test_no_long_file() -> None:
    folders = [path.name for path in ROOT.iterdir() if path.is_dir() and path.name[0] != "." and path.name != "build"]
    texts = {str(path.relative_to(ROOT)): path.read_text() for path in python_files(*folders)}
    assert "tests/unit/test_layout.py" in texts
    assert too_long(texts) == []


def test_numpy_side_loads_neither_torch_nor_ray() -> None:
    """What the import statements promise, seen from a running interpreter."""
    light = [m for m in modules() if inside(m, NUMPY_SIDE) and m not in [*RAY_MODULES, *TORCH_MODULES]]
    script = f"import sys, {', '.join(light)}\nprint(*{{'torch', 'ray'}} & set(sys.modules))"
    result = subprocess.run([sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, check=True)
    assert result.stdout.strip() == ""


@pytest.mark.parametrize(
    ("module", "source", "complaint"),
    [
        ("pipeline.config", "from pipeline.data.schema import Row", "higher layer"),
        ("pipeline.clicks.encode", "import pipeline.augment.suem", "higher layer"),
        ("pipeline.data.schema", "def f():\n    from pipeline.clicks import encode", "higher layer"),
        ("pipeline.augment.suem", "from ..stream.samples import sample", "higher layer"),
        ("pipeline.model.head", "from pipeline.train import loss", "higher layer"),
        ("pipeline.train.icl", "from pipeline.tracking import run", "higher layer"),
        ("pipeline.report.report", "import jobs.recipes", "higher layer"),
        ("pipeline.train.trainer", "from pipeline.evaluate.metrics import noc", "never import each other"),
        ("pipeline.evaluate.cfr", "from pipeline import train", "never import each other"),
        ("pipeline.train.icl", "import ray", "may use Ray"),
        ("pipeline.data.manifest", "from ray.data import Dataset", "may use Ray"),
        ("jobs.train", "import ray.train", "may use Ray"),
        ("pipeline.model.neck", "from pipeline.engine import preflight", "brings Ray"),
        ("pipeline.train.state", "from .trainer import Trainer", "brings Ray"),
        ("pipeline.augment.transforms", "import torch", "no torch"),
        ("pipeline.stream.stream", "import torch.utils.data", "no torch"),
        ("pipeline.data.readers.folders", "from timm import data", "no torch"),
        ("pipeline.stream.stream", "from pipeline.model import segmenter", "no torch"),
        ("pipeline.clicks.simulate", "from pipeline.clicks.disks import disk_maps", "no torch"),
        ("pipeline.gui.window", "import numpy", "no layer"),
        ("jobs.train", "import pipeline.gui", "no layer"),
    ],
)
def test_a_broken_rule_is_seen(module: str, source: str, complaint: str) -> None:
    assert any(complaint in problem for problem in problems(source, module))


def test_a_package_has_its_own_layer() -> None:
    assert problems("from pipeline.train import trainer", "pipeline.data", is_package=True)
    assert problems("from . import data", "pipeline", is_package=True)
    assert problems("import numpy", "pipeline", is_package=True) == []


@pytest.mark.parametrize(
    ("module", "source"),
    [
        ("pipeline.clicks.disks", "import torch"),
        (
            "pipeline.stream.stream",
            "import ray.data\nfrom pipeline.engine.preflight import nodes\nimport raylike, torchlike",
        ),
        ("pipeline.train.trainer", "import torch, ray\nfrom pipeline.stream.stream import batches"),
        (
            "pipeline.evaluate.job",
            "from pipeline.data import shards\nfrom pipeline.model.checkpoints import load_model",
        ),
        ("pipeline.tune.cfr_sweep", "from pipeline.train import trainer\nfrom pipeline.evaluate import job"),
        ("jobs.train", "from pipeline.train import trainer\nfrom pipeline.engine.main import main"),
    ],
)
def test_a_kept_rule_is_silent(module: str, source: str) -> None:
    assert problems(source, module) == []


def test_cycles_and_length_are_seen() -> None:
    assert cycles({"a": {"b"}, "b": {"c"}, "c": {"b"}}) == ["b > c > b"]
    assert cycles({"a": {"b", "c"}, "b": {"c"}}) == []
    assert too_long({"short": "x\n" * MAX_LINES}) == []
    assert too_long({"long": "x\n" * (MAX_LINES + 1)}) == [f"long has {MAX_LINES + 1} lines"]
