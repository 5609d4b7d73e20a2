"""Messages of the Open Inference Protocol and of gRPC's health check, as protobuf has them.

Made from the tables below, without generated code, so that they follow whichever protobuf is
installed. Enumerations are their numbers, which is the same on the wire; of Triton's model
configuration there is what clients ask for.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from google.protobuf import descriptor_pb2, descriptor_pool, message_factory

_TENSOR = "string name=1; string datatype=2; repeated int64 shape=3"
_CONTENT = "map InferParameter parameters=4; InferTensorContents contents=5"
_NAMED = "string name=1; string version=2"
_INFERENCE = {
    "ServerLiveRequest": "",
    "ServerLiveResponse": "bool live=1",
    "ServerReadyRequest": "",
    "ServerReadyResponse": "bool ready=1",
    "ModelReadyRequest": _NAMED,
    "ModelReadyResponse": "bool ready=1",
    "ServerMetadataRequest": "",
    "ServerMetadataResponse": _NAMED + "; repeated string extensions=3",
    "ModelMetadataRequest": _NAMED,
    "TensorMetadata": _TENSOR,
    "ModelMetadataResponse": "string name=1; repeated string versions=2; string platform=3; "
    "repeated TensorMetadata inputs=4; repeated TensorMetadata outputs=5",
    "InferParameter": "bool bool_param=1; int64 int64_param=2; string string_param=3; "
    "double double_param=4; uint64 uint64_param=5",
    "InferTensorContents": "repeated bool bool_contents=1; repeated int32 int_contents=2; "
    "repeated int64 int64_contents=3; repeated uint32 uint_contents=4; "
    "repeated uint64 uint64_contents=5; repeated float fp32_contents=6; "
    "repeated double fp64_contents=7; repeated bytes bytes_contents=8",
    "InferInputTensor": f"{_TENSOR}; {_CONTENT}",
    "InferRequestedOutputTensor": "string name=1; map InferParameter parameters=2",
    "InferOutputTensor": f"{_TENSOR}; {_CONTENT}",
    "ModelInferRequest": "string model_name=1; string model_version=2; string id=3; "
    "map InferParameter parameters=4; repeated InferInputTensor inputs=5; "
    "repeated InferRequestedOutputTensor outputs=6; repeated bytes raw_input_contents=7",
    "ModelInferResponse": "string model_name=1; string model_version=2; string id=3; "
    "map InferParameter parameters=4; repeated InferOutputTensor outputs=5; "
    "repeated bytes raw_output_contents=6",
    "ModelStreamInferResponse": "string error_message=1; ModelInferResponse infer_response=2",
    "ModelConfigRequest": _NAMED,
    "ModelInput": "string name=1; int32 data_type=2; repeated int64 dims=4; bool optional=8",
    "ModelOutput": "string name=1; int32 data_type=2; repeated int64 dims=3",
    "LatestVersions": "uint32 num_versions=1",
    "VersionPolicy": "LatestVersions latest=1",
    "SequenceBatching": "uint64 max_sequence_idle_microseconds=1",
    "ModelConfig": "string name=1; string platform=2; VersionPolicy version_policy=3; "
    "int32 max_batch_size=4; repeated ModelInput input=5; repeated ModelOutput output=6; "
    "SequenceBatching sequence_batching=13; string backend=17",
    "ModelConfigResponse": "ModelConfig config=1",
    "RepositoryIndexRequest": "string repository_name=1; bool ready=2",
    "ModelIndex": "string name=1; string version=2; string state=3; string reason=4",
    "RepositoryIndexResponse": "repeated ModelIndex models=1",
}
_HEALTH = {"HealthCheckRequest": "string service=1", "HealthCheckResponse": "int32 status=1"}
_FIELD = descriptor_pb2.FieldDescriptorProto
_CHOICES = {"InferParameter": "parameter_choice"}
"""Messages of which one field at a time is set."""
SERVING, NOT_SERVING = 1, 2
"""Of `HealthCheckResponse.status`."""
TYPES = (
    "", "BOOL", "UINT8", "UINT16", "UINT32", "UINT64", "INT8", "INT16", "INT32", "INT64", "FP16",
    "FP32", "FP64", "STRING",
)  # fmt: skip
"""Of `data_type`, by number."""


def _messages(package: str, tables: Mapping[str, str]) -> dict[str, Any]:
    """The classes of messages by name."""
    file = descriptor_pb2.FileDescriptorProto(
        name=f"ifmmin/{package}.proto", package=package, syntax="proto3"
    )
    for name, fields in tables.items():
        message = file.message_type.add(name=name)
        if name in _CHOICES:
            message.oneof_decl.add(name=_CHOICES[name])
        for field in filter(None, fields.split("; ")):
            _add(message, field, package, bool(_CHOICES.get(name)))
    pool = descriptor_pool.DescriptorPool()
    pool.Add(file)
    return {
        name: message_factory.GetMessageClass(pool.FindMessageTypeByName(f"{package}.{name}"))
        for name in tables
    }


def _add(message: Any, field: str, package: str, chosen: bool) -> None:
    """A field of `kind name=number`, where `repeated` or `map` may stand before."""
    *how, kind, rest = field.split()
    name, _, number = rest.partition("=")
    made = message.field.add(name=name, number=int(number), label=_FIELD.LABEL_OPTIONAL)
    if chosen:
        made.oneof_index = 0
    if how:
        made.label = _FIELD.LABEL_REPEATED
    if how == ["map"]:
        entry = message.nested_type.add(name=name.capitalize() + "Entry")
        entry.options.map_entry = True
        _add(entry, "string key=1", package, False)
        _add(entry, f"{kind} value=2", package, False)
        kind = f"{message.name}.{entry.name}"
    number_of_kind = getattr(_FIELD, f"TYPE_{kind.upper()}", None)
    if number_of_kind is None:
        made.type, made.type_name = _FIELD.TYPE_MESSAGE, f".{package}.{kind}"
    else:
        made.type = number_of_kind


INFERENCE = _messages("inference", _INFERENCE)
"""Classes of messages of the protocol, by name."""
HEALTH = _messages("grpc.health.v1", _HEALTH)
"""Those of gRPC's health check."""
