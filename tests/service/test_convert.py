"""The protocol's spec messages against engine/spec.py, field by field; and the generated code against the .proto
files.
"""

import subprocess
import sys
import typing
from pathlib import Path
from typing import Annotated, Any, Literal, get_args, get_origin

import pytest
from google.protobuf.descriptor import Descriptor, FieldDescriptor
from pydantic import BaseModel
from pydantic.fields import FieldInfo

from posttrain.engine import spec
from posttrain.service.convert import choice_of, spec_to_proto, to_dict
from posttrain.service.errors import InvalidFieldError
from posttrain.service.proto import spec_pb2

ROOT = Path(__file__).parents[2]
SCALARS = {
    str: FieldDescriptor.TYPE_STRING,
    int: FieldDescriptor.TYPE_INT64,
    float: FieldDescriptor.TYPE_DOUBLE,
    bool: FieldDescriptor.TYPE_BOOL,
}


def bare(annotation: Any) -> Any:
    while get_origin(annotation) is Annotated:
        annotation = get_args(annotation)[0]
    if get_origin(annotation) is Literal:
        return str
    return annotation


def members(annotation: Any) -> list[type[BaseModel]]:
    """The classes of a tagged choice, or nothing."""
    inner = get_args(bare(annotation)) if get_origin(bare(annotation)) not in (list, None) else ()
    return [member for member in inner if isinstance(member, type) and issubclass(member, BaseModel)]


def compare_model(model: type[BaseModel], message: Descriptor, seen: set[str]) -> None:
    # A subclass without fields of its own has other defaults only: the message is its base's.
    assert message.name in {ancestor.__name__ for ancestor in model.__mro__ if ancestor in (model, *model.__bases__)}
    seen.add(message.name)
    tag = {"kind", "type"} & set(model.model_fields)
    fields = {name: info for name, info in model.model_fields.items() if name not in tag}
    assert [field.name for field in message.fields] == list(fields), f"{model.__name__}: other fields, or another order"
    for field in message.fields:
        compare_field(f"{model.__name__}.{field.name}", fields[field.name], field, seen)


def compare_field(place: str, info: FieldInfo, field: FieldDescriptor, seen: set[str]) -> None:
    annotation = bare(info.annotation)
    repeated = get_origin(annotation) is list
    assert field.is_repeated == repeated, place
    if repeated:
        annotation = bare(get_args(annotation)[0])
    if members(annotation):
        compare_choice(place, members(annotation), field.message_type, seen)
    elif isinstance(annotation, type) and issubclass(annotation, BaseModel):
        compare_model(annotation, field.message_type, seen)
    else:
        assert field.type == SCALARS[annotation], place
        # A default is declared in spec.py alone: the wire must tell "absent" from "zero".
        assert repeated or field.has_presence == (not info.is_required()), place


def compare_choice(place: str, classes: list[type[BaseModel]], message: Descriptor, seen: set[str]) -> None:
    seen.add(message.name)
    tag = choice_of(message)
    assert tag, f"{place}: {message.name} is no tagged choice"
    by_tag = {model.model_fields[tag].default: model for model in classes}
    assert {field.name for field in message.fields} == set(by_tag), place
    for field in message.fields:
        compare_model(by_tag[field.name], field.message_type, seen)


def test_messages_equal_the_spec() -> None:
    seen: set[str] = set()
    compare_choice("JobSpec", list(typing.get_args(spec.AnySpec)), spec_pb2.JobSpec.DESCRIPTOR, seen)
    assert seen == set(spec_pb2.DESCRIPTOR.message_types_by_name)


FULL: dict[str, dict[str, Any]] = {
    "ift": {
        "kind": "ift",
        "base": "tiny@1",
        "output": "bot",
        "data": [{"dataset": "a@1", "weight": 0.5}, {"dataset": "b@2"}],
        "seed": 7,
        "adapter": {"type": "lora", "rank": 4, "rank_stabilized": True, "targets": ["q_proj"]},
        "duration": {"type": "steps", "max_steps": 3},
        "then": {"type": "gate", "suites": ["reasoning"], "alias": "staging"},
        "template": {"type": "own"},
        "loss_on": "last_turn",
    },
    "sft": {"kind": "sft", "base": "tiny@production", "output": "bot", "data": [{"dataset": "a@1"}]},
    "tool_use": {
        "kind": "tool_use",
        "base": "tiny@production",
        "output": "bot",
        "data": [{"dataset": "a@1"}],
        "call_format": "llama3",
        "on_bad_call": "skip",
        "require_tools": False,
    },
    "evaluate": {
        "kind": "evaluate",
        "version": "bot@3",
        "suites": ["refusal", "tool_use"],
        "template": {"type": "plain", "num_shots": 0},
        "shard": "dev",
    },
}


@pytest.mark.parametrize("kind", FULL)
def test_round_trip(kind: str) -> None:
    declared = spec.parse_spec(FULL[kind])
    plain = declared.model_dump(mode="json")
    over_the_wire = spec_pb2.JobSpec.FromString(spec_to_proto(plain).SerializeToString())
    assert spec.parse_spec(to_dict(over_the_wire)) == declared


def test_absent_takes_the_declared_default_and_zero_stays_zero() -> None:
    message = spec_to_proto(FULL["sft"])
    assert "seed" not in to_dict(message)
    message.sft.duration.epochs.SetInParent()
    message.sft.optimizer.weight_decay = 0.0
    plain = to_dict(message)
    assert plain["duration"] == {"type": "epochs"}
    assert plain["optimizer"] == {"weight_decay": 0.0}
    assert spec.parse_spec(plain).duration == spec.EpochsDuration()  # type: ignore[union-attr]


def test_an_unknown_field_number_is_refused_by_place() -> None:
    message = spec_to_proto(FULL["ift"])
    later = message.SerializeToString()
    inner = spec_pb2.OptimizerOptions(learning_rate=0.1).SerializeToString() + b"\xf8\x06\x01"  # field 111
    message.ift.optimizer.MergeFromString(inner)
    with pytest.raises(InvalidFieldError, match=r"optimizer: unknown option \(field number 111") as caught:
        to_dict(message)
    assert caught.value.violations[0].field == "optimizer"
    assert to_dict(spec_pb2.JobSpec.FromString(later))["kind"] == "ift"


def test_generated_code_is_fresh(tmp_path: Path) -> None:
    folder = ROOT / "service" / "proto"
    names = [f"posttrain/service/proto/{path.name}" for path in sorted(folder.glob("*.proto"))]
    outputs = [f"--python_out={tmp_path}", f"--pyi_out={tmp_path}", f"--grpc_python_out={tmp_path}"]
    command = [sys.executable, "-m", "grpc_tools.protoc", "-Iposttrain/service/proto=service/proto", *outputs, *names]
    subprocess.run(command, cwd=ROOT, check=True)
    fresh = {path.name: path.read_bytes() for path in (tmp_path / "posttrain/service/proto").iterdir()}
    ours = {path.name: path.read_bytes() for path in folder.glob("*_pb2*")}
    assert ours == fresh, "run `make proto`"
