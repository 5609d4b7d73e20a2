"""Container files keep to good habits; the Jetson page names findings that exist."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

DOCKERFILES = ("desktop-gpu.Dockerfile", "jetson.Dockerfile")


def _instructions(path: Path) -> list[tuple[str, str]]:
    """Instructions in order, continued lines joined, comments left out."""
    lines = [line for line in path.read_text().splitlines() if not line.lstrip().startswith("#")]
    joined = re.sub(r"\\\n\s*", " ", "\n".join(lines))
    split = [line.partition(" ") for line in joined.splitlines() if line.strip()]
    return [(name, rest.strip()) for name, _, rest in split]


@pytest.mark.parametrize("name", DOCKERFILES)
def test_dockerfile(root: Path, name: str) -> None:
    path = root / "docker" / name
    found = _instructions(path)
    known = {"FROM", "WORKDIR", "COPY", "RUN", "SHELL", "ENV", "USER", "CMD"}
    assert {instruction for instruction, _ in found} <= known
    assert "Not built here" in path.read_text().split("\nFROM", 1)[0]
    for _, image in (pair for pair in found if pair[0] == "FROM"):
        tag = image.split()[0].rpartition(":")[2]
        assert re.search(r"\d+\.\d+", tag), f"{image}: a pinned tag"
    last = max(index for index, pair in enumerate(found) if pair[0] == "FROM")
    users = [rest for instruction, rest in found[last:] if instruction == "USER"]
    assert users
    assert users[-1] not in ("root", "0")
    assert not any(re.search(r"(?i)password|secret|token", rest) for _, rest in found)


@pytest.mark.parametrize("name", DOCKERFILES)
def test_dockerfile_leaves_no_caches(root: Path, name: str) -> None:
    runs = [
        rest for instruction, rest in _instructions(root / "docker" / name) if instruction == "RUN"
    ]
    for run in runs:
        assert ("apt-get install" in run) == ("rm -rf /var/lib/apt/lists/*" in run)
        assert ("pip install" in run or "pip wheel" in run) == ("--no-cache-dir" in run)


@pytest.mark.parametrize("name", DOCKERFILES)
def test_dockerfile_copies_what_there_is(root: Path, name: str) -> None:
    for instruction, rest in _instructions(root / "docker" / name):
        if instruction == "COPY":
            for source in rest.split()[:-1]:
                assert (root / source).exists()


def test_the_page_says_what_was_not_tried(root: Path) -> None:
    text = (root / "docs" / "jetson.md").read_text()
    assert "Nothing on this page was run on real hardware" in text.split("\n## ")[0]


def test_the_page_knows_the_findings(root: Path) -> None:
    rules: set[str] = set()
    for path in (root / "runtime" / "doctor").glob("rules.py"):
        rules |= set(re.findall(r"finding\(\s*\"([a-z0-9-]+)\"", path.read_text()))
    named = set(
        re.findall(
            r"`([a-z][a-z0-9-]+)`", (root / "docs/jetson.md").read_text().split("| finding")[1]
        )
    )
    assert {rule for rule in named if "-" in rule} - {"onnxruntime-gpu"} <= rules
    assert {rule for rule in rules if rule.startswith(("jet", "tensorrt", "onnx"))} <= named
