"""Container files and the unit of systemd keep to good habits and do what they say; the node of
ROS 2 answers; the Jetson page names findings that exist."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from made_wheels import write_wheel
from run_command import run_python

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


def _tool(name: str) -> str:
    """A program beside this Python or on the path; skips the test where there is none."""
    places = [str(Path(sys.executable).parent), os.environ.get("PATH", "")]
    found = shutil.which(name, path=os.pathsep.join(places))
    if found is None:
        pytest.skip(f"{name} is not installed")
    return found


@pytest.mark.parametrize("name", DOCKERFILES)
def test_hadolint_finds_nothing(root: Path, name: str, tmp_path: Path) -> None:
    hadolint, path = _tool("hadolint"), root / "docker" / name
    done = subprocess.run([hadolint, path], capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stdout) == (0, "")
    careless = tmp_path / "Dockerfile"
    careless.write_text(path.read_text().replace("--no-install-recommends ", ""))
    done = subprocess.run([hadolint, careless], capture_output=True, text=True, timeout=60)
    assert "DL3015" in done.stdout


INDEX = {
    "onnxruntime-gpu": ("1.26.0", "1.31.1"), "tensorrt-cu12": ("10.16.1.11", "11.4.0"),
    "cuda-python": ("12.9.1", "13.1.0"),
}  # fmt: skip
"""Packages that containers install, in place of an index: what fits, and what does not."""


@pytest.mark.parametrize("name", DOCKERFILES)
def test_the_pip_steps_run(root: Path, name: str, tmp_path: Path) -> None:
    """The wheel is built of what is copied, and installed by the very command."""
    pytest.importorskip("setuptools", "77")
    found = _instructions(root / "docker" / name)
    source, index = tmp_path / "src", tmp_path / "index"
    for _, rest in (pair for pair in found if pair[0] == "COPY"):
        *copied, target = rest.split()
        for one in copied:
            into = source / target if target != "./" else source / one
            into.parent.mkdir(parents=True, exist_ok=True)
            if (root / one).is_dir():
                shutil.copytree(root / one, into, ignore=shutil.ignore_patterns("__pycache__"))
            else:
                shutil.copy(root / one, into)
    for package, versions in INDEX.items():
        for version in versions:
            write_wheel(index, package.replace("-", "_"), version)
    subprocess.run([sys.executable, "-m", "venv", tmp_path / "python"], check=True, timeout=120)
    own = [path for path in sys.path if Path(path).name == "site-packages"]
    environment = {
        **os.environ, "PATH": f"{tmp_path / 'python' / 'bin'}{os.pathsep}{os.environ['PATH']}",
        "PYTHONPATH": os.pathsep.join(own), "PIP_NO_INDEX": "1", "PIP_FIND_LINKS": str(index),
        "PIP_NO_DEPS": "1", "PIP_NO_BUILD_ISOLATION": "0", "PIP_IGNORE_INSTALLED": "1",
    }  # fmt: skip
    steps = [rest for name, rest in found if name == "RUN" and "apt-get" not in rest]
    assert len(steps) == 2
    for step in steps:
        line = re.sub(r"--mount=\S+ ", "", step).replace("/wheels", str(tmp_path / "wheels"))
        subprocess.run(
            ["bash", "-ceuo", "pipefail", line.replace("/opt/ifmmin", str(tmp_path / "opt"))],
            cwd=source, env=environment, check=True, timeout=300, capture_output=True,
        )  # fmt: skip
    doctor = tmp_path / "opt" / "bin" / "ifmmin-doctor"
    done = subprocess.run(
        [doctor, "--version"], capture_output=True, text=True, env=environment, timeout=60
    )
    assert done.returncode == 0, done.stderr
    (site,) = (tmp_path / "opt" / "lib").glob("*/site-packages")
    versions = {path.name for path in site.glob("*.dist-info")}
    assert "cuda_python-12.9.1.dist-info" in versions
    assert ("tensorrt_cu12-10.16.1.11.dist-info" in versions) == ("desktop" in name)
    assert (site / "ifmmin" / "runtime" / "models" / "speech" / "manifest.json").is_file()


UNIT = "examples/ifmmin-serve.service"
_HARDENED = {
    "DynamicUser": "yes", "NoNewPrivileges": "yes", "ProtectSystem": "strict",
    "ProtectHome": "yes", "PrivateDevices": "yes", "CapabilityBoundingSet": "",
    "MemoryDenyWriteExecute": "yes", "IPAddressDeny": "any",
}  # fmt: skip


def _unit(text: str) -> Mapping[str, str]:
    lines = [line for line in text.splitlines() if "=" in line and not line.startswith("#")]
    return dict(line.split("=", 1) for line in lines)


def test_the_unit_is_hardened(root: Path) -> None:
    found = _unit((root / UNIT).read_text())
    assert {name: found.get(name) for name in _HARDENED} == _HARDENED
    assert float(found["TimeoutStopSec"]) > 30, "accepted requests are answered for so long"


def test_systemd_takes_the_unit(root: Path, tmp_path: Path) -> None:
    analyze = _tool("systemd-analyze")
    unit = tmp_path / "ifmmin-serve.service"
    text = (root / UNIT).read_text().replace("/opt/ifmmin/bin/ifmmin-serve", sys.executable)

    def judged(*words: str, content: str) -> subprocess.CompletedProcess[str]:
        unit.write_text(content)
        return subprocess.run(
            [analyze, *words, str(unit)], capture_output=True, text=True, timeout=60
        )

    verified = judged("verify", content=text)
    assert (verified.returncode, verified.stderr) == (0, "")
    assert "protect home" in judged("verify", content=text.replace("Home=yes", "Home=so")).stderr
    security = ("security", "--offline=true", "--no-pager", "--threshold=15")
    if "offline" in judged(*security, content=text).stderr:
        pytest.skip("this systemd judges no file")
    assert judged(*security, content=text).returncode == 0, "exposure is above 1.5 of 10"
    weaker = text.replace("SystemCallFilter=", "# ").replace("ProtectKernel", "# ")
    assert judged(*security, content=weaker).returncode


def test_it_serves_without_memory_that_is_written_and_run(root: Path) -> None:
    """As the unit demands of the kernel by MemoryDenyWriteExecute."""
    pytest.importorskip("uvicorn", reason="the extra serve is not installed")
    ran = run_python(_DENIED, root / "tests" / "support" / "programs")
    if ran.code == 3:
        pytest.skip("this kernel cannot deny it (Linux 6.3 can)")
    assert ran.code == 0, ran.err
    assert ran.out == "denied\nhappy\n"


_DENIED = """
import ctypes, mmap, sys
sys.path.insert(0, sys.argv[1])
if ctypes.CDLL(None).prctl(65, 1, 0, 0, 0):  # PR_SET_MDWE, which children inherit
    sys.exit(3)
try:
    mmap.mmap(-1, 4096, prot=mmap.PROT_WRITE | mmap.PROT_EXEC)
except PermissionError:
    print("denied")
from served import served
import numpy as np
with served(rpc=False) as server:
    answer = server.infer("speech", {"text": np.array(["what a nice surprise"], object)})
    label = answer["label"][0]
    print(label if isinstance(label, str) else label.decode())
"""


class _FakeNode:
    """Of rclpy: keeps what a node subscribes to and publishes."""

    def __init__(self, name: str) -> None:
        self.heard: dict[str, Callable[[Any], None]] = {}
        self.told: list[dict[str, Any]] = []
        self.warned: list[str] = []
        self.seconds = 100.0

    def declare_parameter(self, name: str, value: Any) -> Any:
        return SimpleNamespace(value=value)

    def create_publisher(self, kind: Any, topic: str, depth: int) -> Any:
        return SimpleNamespace(publish=lambda message: self.told.append(json.loads(message.data)))

    def create_subscription(self, kind: Any, topic: str, hear: Any, depth: int) -> None:
        self.heard[topic] = hear

    def create_timer(self, period: float, tell: Callable[[], None]) -> None:
        self.tell = tell

    def get_clock(self) -> Any:
        now = SimpleNamespace(nanoseconds=int(self.seconds * 1e9))
        return SimpleNamespace(now=lambda: now)

    def get_logger(self) -> Any:
        return SimpleNamespace(warning=self.warned.append)


def test_the_node_of_ros_2_answers(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    text = (root / "docs" / "ros2.md").read_text()
    assert "**Not run under ROS 2**" in text
    (code,) = re.findall(r"^```python\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)
    assert code.count("\n") <= 64
    stand_ins = {
        "rclpy": {}, "rclpy.node": {"Node": _FakeNode}, "audio_common_msgs": {},
        "audio_common_msgs.msg": {"AudioData": SimpleNamespace}, "std_msgs": {},
        "std_msgs.msg": {"String": SimpleNamespace},
    }  # fmt: skip
    for name, content in stand_ins.items():
        monkeypatch.setitem(sys.modules, name, SimpleNamespace(**content))
    space: dict[str, Any] = {"__name__": "node"}
    exec(compile(code, "ros2.md", "exec"), space)
    node = space["EmotionNode"]()
    node.tell()
    assert node.told == []
    node.heard["words"](SimpleNamespace(data="What a wonderful surprise!"))
    node.tell()
    assert node.told[-1]["label"] == "happy"
    assert node.told[-1]["pattern"] == "t"
    sound = (root / "examples" / "recordings" / "angry.wav").read_bytes()[44:]
    for first in range(0, len(sound), 6400):
        node.seconds += 0.2
        node.heard["audio"](SimpleNamespace(data=sound[first : first + 6400]))
        node.tell()
    assert node.told[-1]["pattern"] == "a_t"
    assert len(node.told[-1]["probabilities"]) == 4
    node.seconds += 5
    node.tell()
    assert node.warned == []
    assert node.told[-1]["pattern"] == "t", "nobody spoke for five seconds"
    count = len(node.told)
    node.seconds += 60
    node.tell()
    assert len(node.told) == count, "nothing is new enough to count"
    node.heard["audio"](SimpleNamespace(data=b"odd"))
    node.heard["audio"](SimpleNamespace(data=b""))
    node.heard["words"](SimpleNamespace(data="word " * 1_000_000))
    assert len(node.warned) <= 1, "a bad message ends nothing"


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
