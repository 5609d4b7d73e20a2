"""Whatever is wrong with a released checkpoint is named, in one line, and nothing is written."""

from __future__ import annotations

import io
import os
import re
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from mutations import bounded
from released_reference import Reference, read_released, run_import

from ifmmin.runtime.errors import CheckpointError

Breaker = Callable[[Path, Reference], None]


def _options(**changes: Any) -> Breaker:
    def change(root: Path, reference: Reference) -> None:
        reference.save(root, options=changes)

    return change


def _net(name: str, **changes: Any) -> Breaker:
    """Change, add or (None) remove entries of a net."""

    def change(root: Path, reference: Reference) -> None:
        path = root / "3" / f"17_net_{name}.pth"
        content = torch.load(path, weights_only=True)
        for key, value in changes.items():
            content[key.replace("__", ".")] = value
        torch.save({k: v for k, v in content.items() if v is not None}, path)

    return change


def _file(name: str, content: Any) -> Breaker:
    def change(root: Path, reference: Reference) -> None:
        path = root / name
        if content is None:
            path.unlink()
        elif isinstance(content, bytes):
            path.write_bytes(content)
        else:
            torch.save(content, path)

    return change


def _pickled(zipped: bool) -> Breaker:
    """Put a pickle that takes a GiB into A, as an archive or as of before torch 1.6."""
    asks = b"\x80\x02cbuiltins\nbytearray\nq\x00J\x00\x00\x00\x40\x85R."

    def change(root: Path, reference: Reference) -> None:
        path = root / "3" / "17_net_A.pth"
        if zipped:
            with zipfile.ZipFile(path, "w") as archive:
                archive.writestr("archive/data.pkl", asks)
                archive.writestr("archive/version", "3")
        else:
            content = io.BytesIO()
            torch.save({}, content, _use_new_zipfile_serialization=False)
            # The dictionary is the last pickle but that of the storages.
            path.write_bytes(content.getvalue().replace(b"\x80\x02}q\x00.", asks))

    return change


def _pipe(name: str) -> Breaker:
    def change(root: Path, reference: Reference) -> None:
        (root / name).unlink(missing_ok=True)
        os.mkfifo(root / name)

    return change


def _linked(root: Path, reference: Reference) -> None:
    with h5py.File(root / "x.h5", "w") as file:
        file["3"] = h5py.ExternalLink("other.h5", "/3")


def _nothing(root: Path, reference: Reference) -> None:
    pass


class Hostile:
    """A pickle that would run something."""

    def __reduce__(self) -> Any:
        return (Path.touch, (Path("it_ran"),))


MISTAKES: dict[str, tuple[Breaker, list[str], str]] = {
    "form": (_nothing, ["-form"], r"autoencoder_2\.py of the code .*Here decoders before the last"),
    "fold": (_nothing, ["--fold", "4"], "has no fold 4; it has 3"),
    "epoch": (_nothing, ["--epoch", "5"], "has no epoch 5; it has 17"),
    "conf": (_file("train_opt.conf", None), [], "has no train_opt.conf; give checkpoints/NAME"),
    "json": (_file("train_opt.conf", b"{"), [], "train_opt.conf cannot be read as JSON"),
    "list": (_file("train_opt.conf", b"[1]"), [], "got a list, wanted an object"),
    "method": (_options(embd_method_a="mean"), [], "embd_method_a must be one of .* got 'mean'"),
    "variant": (_options(run_idx="V0200"), [], "shared_2.weight, but run_idx 'V0200' .* means 4"),
    "attends": (_options(embd_method_v="attention"), [], "key attention_vector_weight is missing"),
    "absent": (_file("3/17_net_V.pth", None), [], "17_net_V.pth is missing"),
    "mmin": (_file("3/17_net_invariant.pth", None), [], "without a net invariant this is an MMIN"),
    "unknown": (_file("3/17_net_D.pth", b""), [], r"17_net_D\.pth is not a file of this reference"),
    "mixed": (_file("3/17_net_Shared.pth", b""), [], "17_net_Shared.pth does not go with"),
    "empty": (_file("3/17_net_A.pth", b""), [], r"17_net_A\.pth cannot be read as"),
    "text": (_file("3/17_net_A.pth", b"hello"), [], r"17_net_A\.pth cannot be read"),
    "hostile": (_file("3/17_net_A.pth", Hostile()), [], r"cannot be read .*UnpicklingError"),
    "memory": (_pickled(True), [], r"17_net_A\.pth cannot be read .*UnpicklingError"),
    "old memory": (_pickled(False), [], r"17_net_A\.pth cannot be read .*UnpicklingError"),
    "no end": (_net("A", rnn__bias_ih_l0=torch.zeros(1).expand(1 << 29)), [], "takes 2,0.. MiB, "),
    "pipe": (_pipe("3/17_net_A.pth"), [], r"17_net_A\.pth is a pipe, wanted a file"),
    "options": (_pipe("train_opt.conf"), [], r"train_opt\.conf is a pipe, wanted a file"),
    "methods": (_options(embd_method_a=["last"]), [], r"must be one of .* got \['last'\]"),
    "wide": (_net("A", rnn__weight_ih_l0=torch.ones(24, 0)), [], "dim must be at least 1, got 0"),
    "pipe of statistics": (_pipe("x.h5"), ["--statistics", "made/x.h5"], "is a pipe, wanted a fi"),
    "link": (_linked, ["--statistics", "made/x.h5"], "3/mean is behind a link"),
    "tensor": (_file("3/17_net_A.pth", torch.ones(2)), [], "got Tensor, wanted a state_dict"),
    "nested": (_net("A", rnn={}), [], "key rnn holds a dict"),
    "nan": (_net("C", fc_out__bias=torch.full((4,), torch.nan)), [], "fc_out.bias .*not finite"),
    "int": (_net("C", fc_out__bias=torch.ones(4, dtype=torch.int64)), [], "bias holds torch.int64"),
    "norm": (_net("C", module__2__running_mean=torch.ones(9)), [], "running_mean is of batch norm"),
    "extra": (_net("L", conv4__bias=torch.ones(9)), [], "key conv4.bias is not expected"),
    "lacking": (_net("AE", encoder_1__2__bias=None), [], "key encoder_1.2.bias is missing"),
    "shape": (_net("AE", decoder_2__0__bias=torch.ones(3)), [], r"0.bias has shape \(3,\), wanted"),
    "widths": (_net("V", rnn__bias_ih_l0=torch.ones(28)), [], r"bias_ih_l0 has shape \(28,\)"),
    "axes": (_net("L", conv1__weight=torch.ones(6)), [], r"conv1.weight has shape \(6,\), wanted"),
    "labels": (_nothing, ["--labels", "a,b"], "got a,b, wanted 4 different names"),
    "frames": (_nothing, ["--missing-frames", "a=0"], "got 'a=0', wanted for example a=45"),
    "letter": (_nothing, ["--missing-frames", "x=3"], "unknown modality 'x'"),
    "twice": (_nothing, ["--missing-frames", "a=3,a=4"], "names a twice"),
    "short": (_nothing, ["--missing-frames", "t=4"], "missing_length of t must be at least 5"),
    "no file": (_nothing, ["--statistics", "none.h5"], "gives no mean and std for fold 3"),
    "utterance": (_options(norm_method="utt"), ["--statistics", "x"], "with the utterance's own"),
}  # fmt: skip


@pytest.mark.parametrize("name", MISTAKES)
def test_mistakes_are_told(tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    break_it, words, message = MISTAKES[name]
    reference, root, out = Reference(), tmp_path / "made", tmp_path / "new" / "it.safetensors"
    reference.save(root)
    break_it(root, reference)
    form = None if "-form" in words else "cascade"
    with bounded():
        error = run_import(root, out, *[w for w in words if w != "-form"], form=form, code=2)
    assert re.search(message, error), error
    assert error.count("\n") == 1
    assert [p.name for p in tmp_path.iterdir()] == ["made"]


@pytest.mark.parametrize("form", ["stage1", "cascade", "mmin"])
def test_a_key_of_too_many_axes_is_named_and_no_other(tmp_path: Path, form: str) -> None:
    for name, net in Reference(form=form).nets.items():
        for key in net:
            reference = Reference(form=form)
            reference.nets[name][key] = net[key][None]
            root = reference.save(tmp_path / f"{name}-{key}")
            with pytest.raises(CheckpointError, match=f"17_net_{name}.pth: key {key} "):
                read_released(root, form)


def test_mistakes_about_sums_settling_and_models(tmp_path: Path) -> None:
    out = tmp_path / "it.safetensors"
    summed = Reference(pooling=("maxpool", "attention")).save(tmp_path / "summed")
    said = run_import(summed, out, code=2)
    assert "a sum over time never settles; say how many frames" in said
    run_import(summed, out, "--missing-frames", "v=50")
    out.unlink()
    slow = Reference(pooling="last")
    for key, value in slow.nets["A"].items():
        value[:] = 0
        if key.startswith("rnn.bias_ih"):
            value[6:12], value[12:18] = 9.0, 0.01  # gates that keep nearly all and add a little
    said = run_import(slow.save(tmp_path / "slow"), out, code=2)
    assert re.search(r"a missing a .* from 100 to 200 frames .* by 0\.\d", said)
    lost = Reference(form="mmin").save(tmp_path / "lost", options={"model": "IFMMIN"})
    said = run_import(lost, out, form=None, code=2)
    assert "17_net_invariant.pth is missing and train_opt.conf says" in said
    assert not out.exists()


@settings(
    max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(data=st.data())
def test_any_key_that_is_not_right_is_named(tmp_path: Path, data: st.DataObject) -> None:
    form = data.draw(st.sampled_from(["stage1", "cascade", "parallel"]))
    reference = Reference(form=form, pooling="attention")
    name = data.draw(st.sampled_from(sorted(reference.nets)))
    net = reference.nets[name]
    key = data.draw(st.sampled_from(sorted(net)))
    if data.draw(st.booleans()):
        key += "_twin"
        net[key] = np.ones(3)
    elif data.draw(st.booleans()):
        net[key] = net[key][None]
    else:
        net[key] = np.full_like(net[key], np.inf)
    root = reference.save(tmp_path / "made", prefix=data.draw(st.sampled_from(["", "module."])))
    for stale in root.rglob("*.pth"):
        if stale.name.split("_net_")[1][:-4] not in reference.nets:
            stale.unlink()
    with pytest.raises(CheckpointError, match=rf"17_net_{name}.pth: key (module\.)?{key} "):
        read_released(root, form)
