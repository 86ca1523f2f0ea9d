"""The bodies of requests and of some answers, as protobuf messages made at start from a table of fields.

Names, numbers and types are those of perspective 5.6.1. Every single field has presence here, so that what a client did not
say and what it said to be zero stay apart.
"""

from collections.abc import Mapping
from functools import cache
from typing import Any

from google.protobuf import descriptor_pb2, descriptor_pool, message_factory
from google.protobuf.message import DecodeError, Message

# message: "name number type", then how often: "*" many, "@" the values of a map from strings, "#" of one from numbers, "|x" one
# of those in group x.
FIELDS: Mapping[str, tuple[str, ...]] = {
    "Empty": (),
    "Id": ("id 1 uint32",),
    "HostedTables": ("subscribe 1 bool",),
    "Scalar": ("bool 1 bool |scalar", "float 4 double |scalar", "string 6 string |scalar", "null 7 enum |scalar"),
    "Columns": ("columns 1 string *",),
    "ColumnsUpdate": ("default_columns 1 enum |of", "columns 2 Columns |of"),
    "Filter": ("column 1 string", "op 2 string", "value 3 Scalar *"),
    "Sort": ("column 1 string", "op 2 enum"),
    "Aggregates": ("aggregations 1 string *",),
    "Order": ("column 1 string", "desc 2 bool"),
    "Window": (
        "source 2 string",
        "op 3 string",
        "partition_by 4 string *",
        "order_by 5 Order",
        "rows 6 uint32 |frame",
        "range 7 double |frame",
        "cumulative 8 enum |frame",
        "offset 9 uint32",
        "alpha 10 double",
    ),
    "Config": (
        "group_by 1 string *",
        "split_by 2 string *",
        "columns 3 ColumnsUpdate",
        "filter 4 Filter *",
        "sort 5 Sort *",
        "expressions 6 string @",
        "aggregates 7 Aggregates @",
        "filter_op 8 enum",
        "group_by_depth 9 uint32",
        "group_rollup_mode 10 enum",
        "windows 11 Window @",
        "split_rollup_mode 12 enum",
    ),
    "TableData": (
        "csv 2 string |data",
        "arrow 3 bytes |data",
        "rows 4 string |data",
        "cols 5 string |data",
        "ndjson 7 string |data",
    ),
    "Edit": ("data 1 TableData", "port_id 2 uint32"),
    "HostedTable": ("entity_id 1 string", "index 2 string", "limit 3 uint32"),
    "Hosted": ("table_infos 1 HostedTable *",),
    "MadeView": ("view_id 1 string",),
    "MakeView": ("view_id 1 string", "config 2 Config"),
    "Describe": ("config 1 Config",),
    "ValidateExpressions": ("expressions 1 string @",),
    "ColumnPaths": ("start_col 1 uint32", "end_col 2 uint32"),
    "Viewport": (
        "start_row 1 uint32",
        "start_col 2 uint32",
        "end_row 3 uint32",
        "end_col 4 uint32",
        "emit_legacy_row_path_names 5 bool",
    ),
    "ToText": ("viewport 1 Viewport", "id 2 bool", "index 3 bool", "formatted 4 bool"),
    "ToArrow": ("viewport 1 Viewport", "compression 2 string"),
    "ToCsv": ("viewport 1 Viewport",),
    "MinMax": ("column_name 1 string",),
    "OnUpdate": ("mode 1 enum",),
    "Error": ("message 1 string", "status 2 enum"),
    "RowIndex": ("row_index 1 uint32",),
    "Depth": ("depth 1 uint32",),
    # Of answers, what is read or changed on the way.
    "Features": (
        "group_by 1 bool",
        "split_by 2 bool",
        "expressions 3 bool",
        "on_update 4 bool",
        "sort 5 bool",
        "filter_ops 6 Options #",
        "aggregates 7 AggregateOptions #",
        "group_rollup_mode 8 enum *",
        "window_aggregates 9 WindowOptions #",
        "unordered 10 bool",
        "split_rollup_mode 11 enum *",
        "since_5_6 12 bool",  # true from 5.6.1; nothing that is published names it
    ),
    "Options": ("options 1 string *",),
    "AggregateOptions": ("aggregates 1 AggregateOption *",),
    "AggregateOption": ("name 1 string", "args 2 enum *"),
    "WindowOptions": ("options 1 WindowOption *",),
    "WindowOption": ("name 1 string", "frames 2 string *", "offset 3 bool", "alpha 4 bool", "result_type 5 enum"),
    "Description": (
        "expression_schema 1 enum @",
        "expression_errors 2 ExpressionError @",
        "view 3 ViewDescription",
        "config_error 4 string",
    ),
    "ViewDescription": ("schema 1 enum @",),
    "ExpressionError": ("error_message 1 string", "line 2 uint32", "column 3 uint32"),
    "ValidatedExpressions": (
        "expression_schema 1 enum @",
        "errors 2 ExpressionError @",
        "expression_alias 3 string @",
    ),
    "Text": ("text 1 string",),
    "Dimensions": (
        "num_table_rows 1 uint32",
        "num_table_columns 2 uint32",
        "num_view_rows 3 uint32",
        "num_view_columns 4 uint32",
    ),
}

_Field = descriptor_pb2.FieldDescriptorProto
_TYPES = {
    "bool": _Field.TYPE_BOOL,
    "bytes": _Field.TYPE_BYTES,
    "double": _Field.TYPE_DOUBLE,
    "enum": _Field.TYPE_INT32,  # the same bytes; which values there are is checked where they are used
    "string": _Field.TYPE_STRING,
    "uint32": _Field.TYPE_UINT32,
}
_PACKAGE = "parallax.perspective"


class UnknownFields(Exception):
    """A message with fields that this program does not know: what they would mean cannot be told."""


def new(name: str, **fields: Any) -> Any:
    """Return a message with some fields."""
    return _classes()[name](**fields)


def parse(name: str, body: bytes) -> Any:
    """Read a message.

    Raises:
        DecodeError: the bytes are not one.
        UnknownFields: it has fields that are not in the table.
    """
    message = new(name)
    message.ParseFromString(body)
    size = message.ByteSize()
    message.DiscardUnknownFields()
    if message.ByteSize() != size:
        raise UnknownFields(f"{name} has fields that are not known here")
    return message


def encode(message: Message) -> bytes:
    """Return a message's bytes: equal messages give equal bytes."""
    return message.SerializeToString(deterministic=True)


@cache
def _classes() -> Mapping[str, Any]:
    file = descriptor_pb2.FileDescriptorProto(name="parallax/perspective.proto", package=_PACKAGE, syntax="proto3")
    for name, fields in FIELDS.items():
        message = file.message_type.add(name=name)
        groups: dict[str, int] = {}
        for words in fields:  # groups proper must stand before those that only mean "has presence"
            for group in (word[1:] for word in words.split() if word[0] == "|"):
                if group not in groups:
                    groups[group] = len(message.oneof_decl)
                    message.oneof_decl.add(name=group)
        for words in fields:
            _add_field(message, words.split(), groups)
    pool = descriptor_pool.DescriptorPool()
    pool.Add(file)
    return {name: message_factory.GetMessageClass(pool.FindMessageTypeByName(f"{_PACKAGE}.{name}")) for name in FIELDS}


def _add_field(message: Any, words: list[str], groups: Mapping[str, int]) -> None:
    name, number, kind, *often = words
    field = message.field.add(name=name, number=int(number), label=_Field.LABEL_OPTIONAL)
    if often in (["@"], ["#"]):
        entry = message.nested_type.add(name="".join(part.title() for part in name.split("_")) + "Entry")
        entry.options.map_entry = True
        for part, part_kind in (("key 1", "string" if often == ["@"] else "uint32"), ("value 2", kind)):
            part_name, part_number = part.split()
            _set_type(entry.field.add(name=part_name, number=int(part_number), label=_Field.LABEL_OPTIONAL), part_kind)
        field.label, field.type = _Field.LABEL_REPEATED, _Field.TYPE_MESSAGE
        field.type_name = f".{_PACKAGE}.{message.name}.{entry.name}"
        return
    _set_type(field, kind)
    if often == ["*"]:
        field.label = _Field.LABEL_REPEATED
    elif often:
        field.oneof_index = groups[often[0][1:]]
    elif kind in _TYPES:
        field.proto3_optional = True
        field.oneof_index = len(message.oneof_decl)
        message.oneof_decl.add(name=f"_{name}")


def _set_type(field: Any, kind: str) -> None:
    if kind in _TYPES:
        field.type = _TYPES[kind]
    else:
        field.type, field.type_name = _Field.TYPE_MESSAGE, f".{_PACKAGE}.{kind}"


__all__ = ["DecodeError", "UnknownFields", "encode", "new", "parse"]
