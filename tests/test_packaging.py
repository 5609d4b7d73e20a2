"""What is installed, who may import whom, and bundles kept for an interpreter without torch."""

from __future__ import annotations

import ast
import email
import re
import shutil
import subprocess
import sys
import tarfile
import zipfile
from fnmatch import fnmatch
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest
from run_command import call, run_python
from small_bundles import VARIABLE, keep, kept

from ifmmin.runtime.cli.commands import COMMANDS

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib  # pyright: ignore[reportMissingImports]

FOLDERS = ("train", "export", "runtime", "benchmarks")
MAY_IMPORT = {
    "runtime": {"runtime"}, "train": {"train", "runtime"}, "export": {"export", "train", "runtime"},
    "benchmarks": set(FOLDERS),
}  # fmt: skip


def _project(root: Path) -> dict[str, Any]:
    return tomllib.loads((root / "pyproject.toml").read_text())


def test_every_package_is_listed(root: Path) -> None:
    found = {
        "ifmmin." + ".".join(path.parent.relative_to(root).parts)
        for folder in FOLDERS
        for path in (root / folder).rglob("__init__.py")
    }
    assert found == set(_project(root)["tool"]["setuptools"]["packages"])


def test_the_extra_tensorrt_brings_tensorrt_where_no_system_does(root: Path) -> None:
    wanted = _project(root)["project"]["optional-dependencies"]["tensorrt"]
    assert "tensorrt>=10.3; platform_machine == 'x86_64'" in wanted


@pytest.mark.parametrize("folder", FOLDERS)
def test_imports_point_one_way(root: Path, folder: str) -> None:
    for path in (root / folder).rglob("*.py"):
        text = path.read_text()
        assert "\nimport fcntl" not in text, f"{path}: fcntl is of POSIX alone; import it in use"
        for node in ast.walk(ast.parse(text)):
            names = []
            if isinstance(node, ast.Import):
                names = [alias.name for alias in node.names]
            elif isinstance(node, ast.ImportFrom) and node.level == 0:  # else of its own package
                names = [node.module or ""]
            for name in names:
                parts = name.split(".")
                if parts[0] == "ifmmin" and len(parts) > 1:
                    assert parts[1] in MAY_IMPORT[folder], f"{path} imports {name}"
                if folder == "runtime":
                    assert parts[0] not in {"torch", "onnx", "h5py"}, f"{path} imports {name}"


def test_runtime_imports_without_torch(root: Path) -> None:
    modules = [
        "ifmmin." + ".".join(path.relative_to(root).with_suffix("").parts)
        for path in sorted((root / "runtime").rglob("*.py"))
        if path.name != "__init__.py"
    ]
    assert len(modules) > 10
    blocked = ["torch", "onnx", "h5py", "yaml", "fcntl"]
    assert run_python(f"import {', '.join(modules)}", without=blocked).code == 0


def test_on_another_system_runtime_imports_and_a_command_says_what_is_wrong() -> None:
    script = (
        "sys.platform = 'darwin'\n"
        "import ifmmin.runtime\n"
        "from ifmmin.runtime.cli.run import main\n"
        "sys.exit(main(['--help']))"
    )
    ran = run_python(script, without=["fcntl"])
    assert (ran.code, ran.out, ran.err.count("\n")) == (2, "", 1)
    assert "got the system darwin, wanted linux; run the commands of ifmmin on Linux" in ran.err


def test_the_tests_of_runtime_can_be_read_without_torch(root: Path) -> None:
    """Another interpreter runs them, see `make test-runtime`."""
    script = (
        "sys.path[:0] = sys.argv[1:4]\n"
        "from runpy import run_path\n"
        "for path in sys.argv[4:]: run_path(path)"
    )
    folders = [root / "tests" / name for name in ("support", "support/programs", "fakes")]
    paths = map(str, sorted((root / "tests" / "runtime").rglob("test_*.py")))
    # That one skips itself where TensorRT-RTX is not installed.
    names = [path for path in paths if not path.endswith("test_tensorrt_build.py")]
    assert len(names) > 20
    assert run_python(script, *folders, *names, without=["torch"]).code == 0


def test_without_an_engine_one_line_says_what_to_install() -> None:
    script = (
        "from ifmmin.runtime.backends import make_backend\n"
        "from ifmmin.runtime.cli.app import guarded\n"
        "sys.exit(guarded(lambda: make_backend('onnxruntime-cpu') and 0))"
    )
    ran = run_python(script, without=["onnxruntime"])
    assert (ran.code, ran.err.count("\n")) == (2, 1)
    assert "ifmmin[cpu]" in ran.err
    assert "ifmmin[gpu]" in ran.err


WEIGHTS = (
    "README.md",
    "a.latency.fp32.onnx",
    "manifest.json",
    "minilm-vocabulary.txt",
    "model.safetensors",
)
"""Files of each kind that lies in the bundle that ships."""
LICENCES = {"MIT": "LICENSE", "Apache-2.0": "licenses/Apache-2.0.txt",
            "CC-BY-NC-SA-4.0": "licenses/CC-BY-NC-SA-4.0.txt"}  # fmt: skip


def test_wheel_and_sdist_hold_what_they_should(root: Path, tmp_path: Path) -> None:
    copy = tmp_path / "tree"
    subprocess.run(["git", "clone", "-q", str(root), str(copy)], check=True)
    shutil.rmtree(copy / "runtime" / "models", ignore_errors=True)  # large
    weights = [f"runtime/models/speech/{name}" for name in WEIGHTS]
    for name in weights:
        (copy / name).parent.mkdir(parents=True, exist_ok=True)
        (copy / name).write_text("in place of the real one")
    build = [sys.executable, "-m", "build", "--no-isolation", "--outdir", str(tmp_path / "dist")]
    subprocess.run([*build, str(copy)], check=True, capture_output=True)
    (wheel,) = (tmp_path / "dist").glob("*.whl")
    names = zipfile.ZipFile(wheel).namelist()
    assert {name.split("/")[0] for name in names if ".dist-info" not in name} == {"ifmmin"}
    assert "ifmmin/__init__.py" not in names
    assert [name for name in names if "test" in name.rpartition("/")[2]] == []
    for folder in FOLDERS:
        assert f"ifmmin/{folder}/py.typed" in names
    for name in ("train/recipes/iemocap.yaml", "export/card.md", "benchmarks/report/report.html"):
        assert f"ifmmin/{name}" in names
    assert {f"ifmmin/{name}" for name in weights} <= set(names)
    (folder,) = {name.partition("/")[0] for name in names if ".dist-info" in name}
    about = email.message_from_bytes(zipfile.ZipFile(wheel).read(f"{folder}/METADATA"))
    assert about["License-Expression"] == " AND ".join(LICENCES)
    texts = {"NOTICE", "licenses/MIT-silero-vad.txt", *LICENCES.values()}
    assert set(about.get_all("License-File", [])) == texts
    assert {f"{folder}/licenses/{name}" for name in texts} <= set(names)
    (sdist,) = (tmp_path / "dist").glob("*.tar.gz")
    with tarfile.open(sdist) as archive:
        files = {name.partition("/")[2] for name in archive.getnames()}
    wanted = {"runtime/predictor.py", "benchmarks/pipeline.py", "tests/conftest.py"}
    assert {*wanted, *texts, *weights} <= files


def test_images_are_built_from_all_that_a_wheel_wants(root: Path) -> None:
    project = _project(root)["project"]
    wanted = {name.partition("/")[0] for name in (*project["license-files"], project["readme"])}
    for path in (root / "docker").glob("*.Dockerfile"):
        copied = re.findall(r"^COPY (?!--)(.*) \S+$", path.read_text(), re.MULTILINE)
        assert {*FOLDERS, *wanted, "pyproject.toml"} <= set(" ".join(copied).split()), path.name


def test_the_notice_says_whose_the_weights_that_ship_are(root: Path) -> None:
    notice = (root / "NOTICE").read_text()
    heads = re.findall(r"^\S+\.\w+(?:, \S+)*$", notice, re.MULTILINE)
    assert len(heads) == notice.count("    Licence: ") == 4
    patterns = [pattern for head in heads for pattern in head.split(", ")]

    def told(name: str) -> bool:
        return any(fnmatch(name, pattern) for pattern in patterns)

    assert all(map(told, WEIGHTS))
    assert not told("another.onnx")
    sizes = {p: p.stat().st_size for p in (root / "runtime" / "models").rglob("*") if p.is_file()}
    assert [str(path) for path in sizes if not told(path.name)] == []
    assert sum(sizes.values()) <= 36_000_000
    assert all(f"({name})" in notice for name in LICENCES.values())


def test_every_command_says_what_the_weights_may_be_used_for() -> None:
    for spec in COMMANDS:
        told = call(import_module(spec.module).main, "--version").out
        assert told.startswith("ifmmin ")
        assert "weights that come with it are for non-commercial use (CC BY-NC-SA 4.0)" in told
        assert told.rstrip().endswith(str(Path("models", "speech", "README.md")))


def _bundle(folder: Path, content: str) -> Path:
    folder.mkdir()
    (folder / "manifest.json").write_text(content)
    return folder


def test_the_last_one_kept_is_given(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(VARIABLE, str(tmp_path / "kept"))
    for content in ("first", "second"):
        keep(_bundle(tmp_path / content, content), "a.fp32")
    assert (kept("a.fp32") / "manifest.json").read_text() == "second"
    assert [path.name for path in (tmp_path / "kept").iterdir()] == ["a.fp32"]
    monkeypatch.setenv(VARIABLE, str(tmp_path))
    with pytest.raises(pytest.fail.Exception, match=r"has no bundle a\.fp32; run make test-run"):
        kept("a.fp32")


def test_without_a_folder_it_is_skipped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(VARIABLE, raising=False)
    keep(_bundle(tmp_path / "made", ""), "a.fp32")
    with pytest.raises(pytest.skip.Exception, match="names no folder"):
        kept("a.fp32")
