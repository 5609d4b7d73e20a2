"""What the processor can do, and what graphs ask of it."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from numpy.typing import NDArray
from onnx import TensorProto, helper
from run_command import run_python
from small_graphs import floats, graph_bytes, lstm_bytes, node_bytes, scan_bytes

from ifmmin.benchmarks.device.machine import Machine
from ifmmin.benchmarks.roofline import probe
from ifmmin.benchmarks.roofline.count import Count, count_graph
from ifmmin.benchmarks.roofline.probe import (
    ProbeFailed,
    Rates,
    Span,
    compile_probe,
    find_compiler,
    measure_rates,
    run_compiled,
    run_probe,
    working_sets,
)
from ifmmin.benchmarks.scenarios.bench import Bounds
from ifmmin.runtime.backends.onnxruntime import OnnxRuntimeCpu
from ifmmin.runtime.errors import InputError
from ifmmin.runtime.process import usable_cores

SMALL = Span(smallest=16 << 10, largest=4 << 20)
LEVEL = {"size": 1, "rate": 1, "busy": 1}
NOTHING = {"float32": 0, "int8": None, "int8_kernel": "", "busy": 1, "read": [LEVEL]}
compiler = pytest.mark.skipif(find_compiler() is None, reason="there is no C compiler")


@pytest.fixture(scope="module")
def kept(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A cache in which the C probe lies once it was used."""
    return tmp_path_factory.mktemp("kept")


def _script(path: Path, *lines: str) -> Path:
    path.write_text("\n".join(("#!/bin/sh", *lines)) + "\n")
    path.chmod(0o755)
    return path


def _require_sound(rates: Rates, threads: int) -> None:
    assert rates.threads == threads
    assert 1e8 < rates.float32 < 1e14
    sizes = [reading.size for reading in rates.read]
    assert sizes == sorted(set(sizes))
    assert SMALL.smallest * 0.9 < sizes[0] <= SMALL.smallest
    assert SMALL.largest / 2 < sizes[-1] <= SMALL.largest
    assert all(1e8 < reading.rate < 1e14 for reading in rates.read)
    assert all(0.0 <= reading.busy < 1.2 for reading in rates.read)


@compiler
@pytest.mark.parametrize("threads", sorted({1, usable_cores()}))
def test_c_probe(kept: Path, threads: int) -> None:
    rates = run_compiled(threads, SMALL, kept)
    _require_sound(rates, threads)
    assert rates.probe.startswith("C, by ")
    assert rates.int8 is None or rates.int8 > rates.float32 / 4
    assert rates.int8_kernel.startswith("not timed") == (rates.int8 is None)
    # Two sizes per doubling, and the first cache is not slower than the last.
    assert len(rates.read) == 17
    assert rates.read[0].rate > 0.5 * rates.read[-1].rate


@compiler
def test_the_program_is_kept(kept: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run_compiled(1, SMALL, kept)
    monkeypatch.setattr(probe, "compile_probe", lambda *_: pytest.fail("compiled again"))
    run_compiled(1, SMALL, kept)
    (folder,) = (kept / "probes").iterdir()
    assert [path.name for path in folder.iterdir()] == ["probe"]


@compiler
def test_each_compiler_has_its_own_program(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    compilers = [_script(tmp_path / name, 'for last; do :; done; echo > "$last"') for name in "xy"]
    for number, (own, device) in enumerate(
        [(compilers[0], "one"), (compilers[0], "one"), (compilers[1], "one"), (compilers[1], "two")]
    ):
        monkeypatch.setenv("CC", str(own))
        monkeypatch.setattr(probe, "device_name", lambda name=device: name)
        with pytest.raises(ProbeFailed):  # it is no program
            run_compiled(1, SMALL, tmp_path / "kept")
        assert len(list((tmp_path / "kept" / "probes").iterdir())) == max(1, number)


@compiler
def test_a_cache_that_cannot_be_written_is_done_without(tmp_path: Path) -> None:
    in_the_way = tmp_path / "file"
    in_the_way.write_text("")
    _require_sound(run_compiled(1, SMALL, in_the_way), 1)


@compiler
@pytest.mark.parametrize(
    "words", [["0", "16384", "32768"], ["1", "100", "32768"], ["1", "32768", "16384"], []]
)
def test_the_program_refuses_nonsense(tmp_path: Path, words: list[str]) -> None:
    found = find_compiler()
    assert found is not None
    compile_probe(found, tmp_path / "probe")
    done = subprocess.run([tmp_path / "probe", *words], capture_output=True, timeout=60)
    assert (done.returncode, done.stdout) == (2, b"")
    assert done.stderr.count(b"\n") == 1


def test_the_compiler_that_is_asked_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    own = _script(tmp_path / "my-cc", "exit 0")
    monkeypatch.setenv("CC", f"{own} -m64")
    assert find_compiler() == [str(own), "-m64"]
    monkeypatch.setenv("CC", str(tmp_path / "absent"))
    assert find_compiler() != [str(tmp_path / "absent")]
    monkeypatch.setenv("CC", "")
    monkeypatch.setattr(shutil, "which", lambda name: None)
    assert find_compiler() is None


def test_a_compiler_without_march_is_given_mcpu(tmp_path: Path) -> None:
    told = tmp_path / "told"
    own = _script(
        tmp_path / "cc",
        f'echo "$@" >> {told}',
        'case "$*" in *-march=native*) echo "error: unknown value native" >&2; exit 1;; esac',
        'for last; do :; done; echo made > "$last"',
    )
    compile_probe([str(own)], tmp_path / "probe")
    assert (tmp_path / "probe").read_text() == "made\n"
    assert [("-mcpu=native" in line) for line in told.read_text().splitlines()] == [False, True]


def test_a_failed_compiler_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    own = _script(tmp_path / "cc", 'echo "probe.c:1: error: no headers" >&2', "exit 1")
    monkeypatch.setenv("CC", str(own))
    with pytest.raises(ProbeFailed, match=r"does not compile .*error: no headers"):
        run_compiled(1, SMALL, tmp_path / "kept")
    assert [path for path in (tmp_path / "kept").rglob("*") if path.is_file()] == []


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        ("kill -ILL $$", "it ended with status -4"),
        ("echo out of memory >&2; exit 1", "out of memory"),
        ("echo '{\"float32\": 1}'", "printed something else than rates"),
        (f"echo '{json.dumps(NOTHING)}'", "measured nothing"),
    ],
)
def test_a_program_that_fails_says_why(tmp_path: Path, line: str, reason: str) -> None:
    program = _script(tmp_path / "probe", line)
    with pytest.raises(ProbeFailed, match=reason):
        run_probe(program, 1, SMALL, "made")
    with pytest.raises(ProbeFailed, match="cannot be started"):
        run_probe(tmp_path / "absent", 1, SMALL, "made")


def test_without_a_compiler_one_line_has_the_cure(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(probe, "find_compiler", lambda: None)
    with pytest.raises(
        ProbeFailed, match=r"no C compiler \(cc, gcc, clang\); install one"
    ) as caught:
        measure_rates()
    assert "\n" not in str(caught.value)
    refused: list[tuple[str, int, str]] = []
    bounds = Bounds(object(), lambda *told: refused.append((*told[:2], str(told[2]))))  # type: ignore[arg-type]
    assert bounds.rates(1) is bounds.rates(1) is None
    assert refused == [("bound", 1, str(caught.value))]


@pytest.mark.parametrize("threads", [0, usable_cores() + 1])
def test_as_many_threads_as_cores(threads: int) -> None:
    wanted = f"limits of {threads} threads .* ask for 1 to {usable_cores()}"
    with pytest.raises(InputError, match=wanted):
        measure_rates(threads)


def test_working_sets_reach_beyond_the_last_cache(tmp_path: Path) -> None:
    _cache(tmp_path, level=1, kib=32, kind="Data")
    _cache(tmp_path, level=3, kib=32 << 10, kind="Unified")
    _memory(tmp_path, gib=64)
    machine = Machine(str(tmp_path))
    assert working_sets(machine, 1) == Span(smallest=16 << 10, largest=128 << 20)
    # A share must hold whole groups of vectors, however many threads there are.
    assert working_sets(machine, 64).smallest == 256 << 10
    _memory(tmp_path, gib=0.25)
    assert working_sets(machine, 1).largest == 64 << 20
    assert working_sets(Machine(str(tmp_path / "nothing")), 1).largest == 16 << 20


def _cache(root: Path, level: int, kib: int, kind: str) -> None:
    folder = root / f"sys/devices/system/cpu/cpu0/cache/index{level}"
    folder.mkdir(parents=True)
    facts = {"level": level, "size": f"{kib}K", "type": kind, "shared_cpu_list": "0"}
    for name, fact in facts.items():
        (folder / name).write_text(f"{fact}\n")


def _memory(root: Path, gib: float) -> None:
    (root / "proc").mkdir(exist_ok=True)
    (root / "proc/meminfo").write_text(f"MemAvailable: {int(gib * (1 << 20))} kB\n")


A = {"x": "a"}


def _count(content: bytes, **sizes: int) -> Count:
    return count_graph(content, sizes, A)


def _read_bytes(count: Count) -> int:
    """Of weights, each as often as a node or a step reads it."""
    return sum(sum(work.weights.values()) * work.repeats for work in count.works)


@pytest.mark.parametrize(
    ("operator", "shape", "weights", "attributes", "wanted"),
    [
        ("MatMul", ["B", "T", 7], [(7, 11)], {}, 2 * 5 * 7 * 11),
        ("Gemm", [3, 7], [(11, 7), (11,)], {"transA": 0, "transB": 1}, 3 * 7 * 11),
        ("Gemm", [7, 3], [(11, 7), (11,)], {"transA": 1, "transB": 1}, 3 * 7 * 11),
        ("Conv", ["B", 1, "T", 10], [(6, 1, 3, 10)], {}, 2 * (5 - 3 + 1) * 6 * 3 * 10),
        ("Conv", [1, 4, 9], [(6, 2, 3)], {"group": 2, "pads": [1, 1]}, 9 * 6 * 2 * 3),
    ],
)
def test_products(operator: str, shape: Any, weights: Any, attributes: Any, wanted: int) -> None:
    arrays = {f"w{index}": floats(*size) for index, size in enumerate(weights)}
    count = _count(node_bytes(operator, shape, arrays, **attributes), B=2, T=5)
    assert count.arithmetic == wanted
    assert count.weight_bytes == sum(array.nbytes for array in arrays.values())
    (work,) = count.works
    assert (work.kind, work.part, work.repeats, work.operator) == ("float32", "a", 1, operator)


@pytest.mark.parametrize("directions", [1, 2])
def test_lstm(directions: int) -> None:
    T, B, D, H = 9, 2, 5, 8
    count = _count(lstm_bytes("T", "B", D, H, directions), T=T, B=B)
    assert count.arithmetic == directions * 4 * H * (D + H) * T * B
    inputs, state = count.works
    assert (inputs.repeats, inputs.arithmetic) == (1, directions * 4 * H * D * T * B)
    assert (state.repeats, state.arithmetic) == (T, directions * 4 * H * H * B)
    assert inputs.weights == {"W": directions * 16 * H * D, "B": directions * 32 * H}
    assert state.weights == {"R": directions * 16 * H * H}
    assert count.weight_bytes == directions * (16 * H * (D + H) + 32 * H)
    assert _read_bytes(count) == count.weight_bytes + (T - 1) * directions * 16 * H * H


def test_a_loop_takes_its_body_once_per_step() -> None:
    count = _count(scan_bytes("T", 8), T=9)
    assert count.arithmetic == 9 * 8 * 8
    (work,) = count.works
    assert (work.repeats, sum(work.weights.values()), work.part) == (9, 4 * 8 * 8, "a")
    assert work.node == "/loop/Scan/product"


def test_quantised_product_and_lstm() -> None:
    from ifmmin.export.quantize.dynamic import DynamicQuantiser

    T, D, H = 6, 5, 8
    product = helper.make_node("MatMul", ["y", "w"], ["z"], "/after/MatMul")
    lstm = onnx.load_from_string(lstm_bytes(T, 1, D, H))
    lstm.graph.node.append(product)
    lstm.graph.initializer.append(onnx.numpy_helper.from_array(floats(H, 16), "w"))
    lstm.graph.output[0].name = "z"
    quantise = DynamicQuantiser(lstm, [], lambda m: OnnxRuntimeCpu().load(m.SerializeToString()))
    small = quantise(list(quantise.groups))
    plain, count = (_count(model.SerializeToString()) for model in (lstm, small))
    assert count.arithmetic == plain.arithmetic == 4 * H * (D + H) * T + T * H * 16
    assert {work.kind for work in count.works if work.arithmetic} == {"int8"}
    assert count.works[1].repeats == T
    # Four times fewer, and a scale and a zero point per column, or per gate of an LSTM.
    saved = plain.weight_bytes - count.weight_bytes
    assert saved > 3 * (4 * H * (D + H) + H * 16) - 8 * (8 * H + 16)
    assert saved < 3 * (4 * H * (D + H) + H * 16)


def test_pairs_count_as_8_bits() -> None:
    quantised = np.ones((7, 11), np.int8)
    scalars: dict[str, NDArray[Any]] = {"s": np.array(0.1, np.float32), "z": np.array(0, np.int8)}
    nodes = [
        helper.make_node("QuantizeLinear", ["x", "s", "z"], ["q"], "q"),
        helper.make_node("DequantizeLinear", ["q", "s", "z"], ["dx"], "dx"),
        helper.make_node("DequantizeLinear", ["w", "s", "z"], ["dw"], "dw"),
        helper.make_node("MatMul", ["dx", "dw"], ["y"], "/m/MatMul"),
    ]
    count = _count(graph_bytes(nodes, {"x": [3, 7]}, {"w": quantised, **scalars}))
    (work,) = count.works
    assert (work.kind, work.arithmetic) == ("int8", 3 * 7 * 11)
    assert sum(work.weights.values()) == 7 * 11 + 4 + 1  # the scale, the zero point


def test_8_bit_product_that_onnx_runtime_fuses() -> None:
    weights: dict[str, NDArray[Any]] = {"w": np.ones((7, 11), np.uint8), "s": floats(1)}
    content = node_bytes("DynamicQuantizeMatMul", ["T", 7], weights, domain="com.microsoft")
    (work,) = _count(content, T=4).works
    assert (work.kind, work.arithmetic) == ("int8", 4 * 7 * 11)


def test_constants_are_computed_once_and_not_counted() -> None:
    nodes = [
        helper.make_node("Transpose", ["w"], ["t"], "t", perm=[1, 0]),
        helper.make_node("MatMul", ["u", "t"], ["folded"], "folded"),
        helper.make_node("MatMul", ["x", "folded"], ["y"], "/m/MatMul"),
    ]
    content = graph_bytes(nodes, {"x": [3, 7]}, {"w": floats(11, 5), "u": floats(7, 5)})
    count = _count(content)
    assert count.arithmetic == 3 * 7 * 11
    # Either 7 x 11 values, or the 11 x 5 and 7 x 5 they are made of: the less.
    assert count.weight_bytes == 4 * min(7 * 11, 11 * 5 + 7 * 5)


def test_weights_that_nodes_share_are_there_once_and_read_twice() -> None:
    nodes = [
        helper.make_node("MatMul", ["x", "w"], ["h"], "/one/MatMul"),
        helper.make_node("MatMul", ["h", "w"], ["y"], "/two/MatMul"),
    ]
    count = _count(graph_bytes(nodes, {"x": [1, 7]}, {"w": floats(7, 7)}))
    assert (count.weight_bytes, _read_bytes(count)) == (4 * 49, 8 * 49)


def test_indices_are_no_weights_and_an_unknown_operator_is_named() -> None:
    assert _count(node_bytes("Unsqueeze", [3], {"axes": np.array([0])})).works == ()
    weights = {"W": floats(1, 6, 3), "R": floats(1, 6, 2)}
    assert _count(node_bytes("GRU", [4, 1, 3], weights, hidden_size=2)).uncounted == ("GRU",)


def test_half_precision_has_half_the_bytes() -> None:
    weights = {"w": floats(7, 11).astype(np.float16)}
    (work,) = _count(node_bytes("MatMul", [3, 7], weights, kind=TensorProto.FLOAT16)).works
    assert (work.kind, sum(work.weights.values())) == ("float16", 2 * 7 * 11)


def test_a_free_axis_needs_a_size_and_counting_needs_onnx(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(InputError, match=r"free axis T, sizes were given for B; give the size"):
        _count(lstm_bytes("T", "B", 3, 2), B=1)
    content = lstm_bytes("T", "B", 3, 2)
    monkeypatch.setitem(sys.modules, "onnx", None)
    with pytest.raises(InputError, match="pip install onnx"):
        _count(content, T=2, B=1)


def test_imports_without_onnx_and_torch() -> None:
    script = "from ifmmin.benchmarks.roofline import bound, count, probe, profile"
    assert run_python(script, without=("onnx", "torch", "onnxruntime")).code == 0
