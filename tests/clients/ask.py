"""Ask a server by Triton's own clients: ask.py EXPECTED.npz HTTP_PORT GRPC_PORT; see serve.py."""

from __future__ import annotations

import sys
from typing import Any

import numpy as np
import tritonclient.grpc
import tritonclient.http


def check(module: Any, client: Any, expected: dict[str, Any]) -> int:
    """Names, metadata, configuration, and the answers of every model; how many were compared."""
    told: dict[str, Any] = {"as_json": True} if module is tritonclient.grpc else {}
    assert client.is_server_live()
    assert client.is_server_ready()
    assert client.get_server_metadata(**told)["name"] == "ifmmin"
    index = client.get_model_repository_index(**told)
    names = [one["name"] for one in (index["models"] if told else index)]
    patterns = [name.removeprefix("logits/") for name in expected if name.startswith("logits/")]
    assert names == [*patterns, "emotion", "speech", "stream"], names
    for name in names:
        assert client.is_model_ready(name)
        metadata = client.get_model_metadata(name, **told)
        config = client.get_model_config(name, **told)
        config = config["config"] if told else config
        assert [i["name"] for i in metadata["inputs"]] == [i["name"] for i in config["input"]]
    compared = 0
    for pattern in patterns:
        inputs = [_input(module, m, expected[f"input/{m}"]) for m in pattern.split("_")]
        for model in (pattern, "emotion"):
            found = client.infer(model, inputs, request_id="7").as_numpy("logits")
            assert np.abs(found - expected[f"logits/{pattern}"]).max() < 1e-4, model
            compared += 1
    text = _input(module, "text", np.array([str(expected["text"]).encode()], object), "BYTES")
    found = client.infer("speech", [text]).as_numpy("logits")
    assert np.abs(found - expected["speech"]).max() < 1e-4
    steps = len(expected["pieces"])
    for step, (piece, wanted) in enumerate(
        zip(expected["pieces"], expected["stream"], strict=True)
    ):
        found = client.infer(
            "stream", [_input(module, patterns[0], piece)], sequence_id=3,
            sequence_start=step == 0, sequence_end=step == steps - 1,
        ).as_numpy("logits")  # fmt: skip
        assert np.abs(found - wanted).max() < 1e-4, step
    said = ""
    try:
        client.infer("nothing", [])
    except module.InferenceServerException as error:
        said = str(error)
    assert "wanted one of" in said
    return compared + steps + 1


def _input(module: Any, name: str, array: Any, datatype: str = "FP32") -> Any:
    made = module.InferInput(name, array.shape, datatype)
    made.set_data_from_numpy(array)
    return made


def main(path: str, http: str, grpc: str) -> None:
    """Both ways."""
    expected = dict(np.load(path))
    for module, port in ((tritonclient.http, http), (tritonclient.grpc, grpc)):
        client = module.InferenceServerClient(f"127.0.0.1:{port}")
        compared = check(module, client, expected)
        sys.stdout.write(f"{module.__name__}: {compared} answers are the predictor's\n")
        client.close()


if __name__ == "__main__":
    main(*sys.argv[1:])
