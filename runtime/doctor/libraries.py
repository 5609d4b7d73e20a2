"""Shared libraries of CUDA and TensorRT: those that the loader finds, and those that lie about."""

from __future__ import annotations

import os
import re

from ifmmin.runtime.doctor.facts import Library
from ifmmin.runtime.doctor.host import Host

NAMES = (
    "libcuda",
    "libcudart",
    "libcublasLt",
    "libcudnn",
    "libnvinfer",
    "libnvonnxparser",
    "libtensorrt_rtx",
    "libnvdla_compiler",
)
_WANTED = re.compile(rf"^(?:{'|'.join(NAMES)})\.so(?:\.\d{{1,9}}){{0,4}}$")
_IN_PACKAGES = ("nvidia/*/lib", "tensorrt_libs", "tensorrt_rtx_libs", "tensorrt_lean_libs")
_ELSEWHERE = (
    "/usr/local/cuda*/lib64",
    "/usr/local/cuda*/targets/*/lib",
    "/usr/lib/*-linux-gnu",
    "/usr/lib/*-linux-gnu/nvidia",
)


def find_libraries(host: Host) -> tuple[Library, ...]:
    """Each file once, under the shortest name that has a major version."""
    loader = parse_ldconfig(host.run("ldconfig", "-p"))
    loaded = {path for _, path in loader}
    paths = [*(path for _, path in loader), *_lying_about(host)]
    found: dict[str, Library] = {}
    for path in sorted(paths, key=lambda path: (path not in loaded, len(path), path)):
        name, real = path.rpartition("/")[2], host.resolve(path)
        bare = name.endswith(".so") and "nvdla" not in name  # a link for compilers, of no version
        gone = not host.find(real)  # the loader's cache may be older than the files
        if bare or gone or real in found:
            continue
        found[real] = Library(name=name, version=_version(real), path=path, loader=path in loaded)
    return tuple(sorted(found.values(), key=lambda library: (library.name, library.path)))


def parse_ldconfig(text: str) -> list[tuple[str, str]]:
    """Names and paths, of the libraries that matter, from what `ldconfig -p` prints."""
    lines = re.findall(r"^\s*(\S+)\s+\([^\n]*?\)\s+=>\s+(\S+)[ \t]*$", text, flags=re.MULTILINE)
    return [(name, path) for name, path in lines if _WANTED.match(name)]


def _lying_about(host: Host) -> list[str]:
    folders = [f"{site}/{inside}" for site in host.site_folders() for inside in _IN_PACKAGES]
    folders += _ELSEWHERE
    folders += [f for f in host.environ.get("LD_LIBRARY_PATH", "").split(os.pathsep) if f]
    paths = [
        path for folder in folders for name in NAMES for path in host.find(f"{folder}/{name}.so*")
    ]
    return [path for path in paths if _WANTED.match(path.rpartition("/")[2])]


def _version(path: str) -> str:
    return path.rpartition(".so")[2].strip(".")
