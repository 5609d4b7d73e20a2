"""The house: folders that can be overlooked, imports without circles, a short way to an answer."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from run_command import run_python

PACKAGES = ("runtime", "train", "export", "benchmarks")
MOST_MODULES = 12
"""Of a folder, `__init__.py` not counted."""


def _files(root: Path) -> list[Path]:
    return [path for name in PACKAGES for path in sorted((root / name).rglob("*.py"))]


def test_a_folder_has_a_dozen_modules_at_most(root: Path) -> None:
    counts: dict[Path, int] = {}
    for path in [*_files(root), *(root / "tests").rglob("*.py")]:
        counts[path.parent] = counts.get(path.parent, 0) + (path.name != "__init__.py")
    assert {str(f.relative_to(root)): n for f, n in counts.items() if n > MOST_MODULES} == {}


def _module(root: Path, path: Path) -> str:
    parts = path.relative_to(root).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def _imports(root: Path, path: Path) -> Iterator[str]:
    """Names of modules of ours that are imported as a file is, without the leading `ifmmin`."""
    package = path.parent.relative_to(root).parts
    for node in ast.parse(path.read_text(encoding="utf-8")).body:
        if isinstance(node, ast.ImportFrom):
            if node.level:
                base = list(package[: len(package) - node.level + 1])
            elif (node.module or "").startswith("ifmmin."):
                base = []
            else:
                continue
            tail = (node.module or "").removeprefix("ifmmin.")
            home = ".".join([*base, *filter(None, [tail])])
            yield home
            yield from (f"{home}.{name.name}" for name in node.names)


def test_imports_have_no_circle(root: Path) -> None:
    paths = {_module(root, path): path for path in _files(root)}
    graph = {
        name: {m for m in _imports(root, path) if m in paths and m != name}
        for name, path in paths.items()
        if path.name != "__init__.py"
    }
    graph = {name: {m for m in found if m in graph} for name, found in graph.items()}
    assert sum(map(len, graph.values())) > 300
    while leaves := [name for name, found in graph.items() if not found & graph.keys()]:
        for name in leaves:
            del graph[name]
    assert graph == {}, "these import each other"


def test_inside_a_package_imports_are_relative(root: Path) -> None:
    for path in _files(root):
        if "suite" in path.parts:
            continue
        package = path.relative_to(root).parts[0]
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.ImportFrom) and node.level == 0:
                own = (node.module or "").startswith(f"ifmmin.{package}")
                assert not own, f"{path}: {node.lineno}"


_THEIRS = {"_obj", "_dynamo", "_inductor", "_replace", "_asdict", "_fields"}
"""What ctypes, PyTorch and named tuples have in place of public names."""


def _private_names(tree: ast.AST) -> Iterator[ast.AST]:
    """Uses of names that belong to another object or module, also as patched by their names."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute):
            own = isinstance(node.value, ast.Name) and node.value.id in ("self", "cls")
            names = [] if own else [node.attr]
        elif isinstance(node, ast.ImportFrom):
            names = [*(node.module or "").split("."), *(name.name for name in node.names)]
        elif isinstance(node, ast.Call) and ast.unparse(node.func).endswith("setattr"):
            texts = [a.value for a in node.args[:2] if isinstance(a, ast.Constant)]
            names = [part for text in texts for part in str(text).split(".")]
        else:
            continue
        names = [name for name in names if name.startswith("_") and not name.startswith("__")]
        if set(names) - _THEIRS:
            yield node


def test_tests_reach_for_no_private_name(root: Path) -> None:
    assert len(list(_private_names(ast.parse("a._b\nfrom c import _d\nx.setattr('e._f', 1)")))) == 3
    found = {
        f"{path.relative_to(root)}:{getattr(node, 'lineno', 0)}: {ast.unparse(node)[:60]}"
        for path in sorted((root / "tests").rglob("*.py"))
        for node in _private_names(ast.parse(path.read_text(encoding="utf-8")))
    }
    assert found == set()


def test_who_imports_the_runtime_waits_for_nothing_of_the_commands() -> None:
    ran = run_python("import ifmmin.runtime; print(*sys.modules)")
    loaded = {name.partition(".")[0] for name in ran.out.split()}
    assert "numpy" in loaded
    assert not loaded & {"typer", "rich", "platformdirs", "onnxruntime", "safetensors"}


def _entered(root: Path, script: str, bundle: Path) -> set[str]:
    """Files of the runtime that a script's `work()` enters once it is warm."""
    ran = run_python(_TRACE.format(script=script), bundle, root / "runtime")
    return set(ran.out.split())


_TRACE = """
import numpy as np
from ifmmin.runtime import Predictor
predictor = Predictor(sys.argv[1], backend="onnxruntime-cpu")
frames = {{"a": np.ones((9, 5), np.float32), "t": np.ones((6, 11), np.float32)}}
{script}
for _ in range(3): work()
found = set()
def trace(frame, event, argument):
    name = frame.f_code.co_filename
    if name.startswith(sys.argv[2]): found.add(name[len(sys.argv[2]) + 1:])
sys.setprofile(trace)
work()
sys.setprofile(None)
print(*sorted(found), sep="\\n")
"""
_PREDICT = "work = lambda: predictor.predict(frames)"
_STREAM = """
stream = predictor.stream()
def work():
    stream.push({"a": frames["a"]})
    stream.predict()
"""


@pytest.mark.parametrize(("script", "most"), [(_PREDICT, 6), (_STREAM, 7)])
def test_an_answer_enters_few_files(make_bundle: Any, root: Path, script: str, most: int) -> None:
    bundle = make_bundle(("a", "a_t"), shapes=("latency", "stream"))
    entered = _entered(root, script, bundle)
    assert 2 <= len(entered) <= most, sorted(entered)
