"""Servers that the tests of a file share."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
from served import Served, served
from small_bundles import ALL

from ifmmin.runtime.frontends import openface
from ifmmin.runtime.frontends.openface import COLUMNS

_NEEDED = ("grpc", "httptools", "prometheus_client", "starlette", "uvicorn", "uvloop", "websockets")
collect_ignore_glob = [] if all(map(find_spec, _NEEDED)) else ["test_*.py"]
"""Without the extra `serve` there is nothing to test; `make test` and `test-runtime` have it."""


@pytest.fixture(scope="session")
def batches(make_bundle: Callable[..., Path]) -> Path:
    """A tiny bundle of all patterns and shapes."""
    return make_bundle(ALL)


@pytest.fixture(scope="module")
def small(batches: Path) -> Iterator[Served]:
    """A server of it."""
    with served("-b", batches) as server:
        yield server


@pytest.fixture(scope="module")
def speech() -> Iterator[Served]:
    """A server of the bundle that ships."""
    with served() as server:
        yield server


@pytest.fixture(scope="module")
def openface_csv(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """As OpenFace writes it, with a column that does not count."""
    path = tmp_path_factory.mktemp("face") / "face.csv"
    columns = ["frame", "face_id", "success", "gaze_0_x", *COLUMNS]
    rng = np.random.default_rng(0)
    rows = [[number, 0, 1, 0.1, *rng.random(len(COLUMNS)).round(2)] for number in range(1, 9)]
    lines = [", ".join(map(str, row)) for row in [columns, *rows]]
    path.write_text("\n".join(lines) + "\n")
    return path


@pytest.fixture(scope="module")
def face_bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny bundle whose faces come from OpenFace."""
    pytest.importorskip("torch", reason="torch, which makes bundles, is not installed")
    import msgspec
    import small_networks

    from ifmmin.export.export import Request, export_bundle
    from ifmmin.runtime.modality import ALL_PATTERNS, Modality
    from ifmmin.train.checkpoint import save_checkpoint

    folder = tmp_path_factory.mktemp("faces")
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(small_networks.DIMS, "v", len(COLUMNS))
        network = small_networks.small_network()
    features = dict(network.config.features)
    features[Modality.V] = msgspec.structs.replace(
        features[Modality.V], frontend=openface.specify("frame")
    )
    network.config = msgspec.structs.replace(network.config, features=features)
    save_checkpoint(folder / "model.safetensors", network, {"corpus": "made"})
    request = Request(precisions=("fp32",), shapes=("latency", "stream"))
    export_bundle(
        folder / "model.safetensors", list(ALL_PATTERNS), folder / "bundle", request=request
    )
    return folder / "bundle"


@pytest.fixture(scope="module")
def faces(face_bundle: Path) -> Iterator[Served]:
    """A server of it."""
    with served("-b", face_bundle, rpc=False) as server:
        yield server
