"""The part of JSON Schema 2020-12 that our schemas use: checked for form, and applied to documents."""

import re
from typing import Any, Final

_TYPES: Final[dict[str, tuple[type, ...]]] = {
    "object": (dict,),
    "array": (list,),
    "string": (str,),
    "integer": (int,),
    "number": (int, float),
    "boolean": (bool,),
    "null": (type(None),),
}
_NOTES: Final = {"$schema", "$defs", "title", "description", "default", "format", "discriminator", "contentEncoding"}
_RULES: Final = {
    "$ref",
    "additionalProperties",
    "anyOf",
    "enum",
    "items",
    "maxItems",
    "maxLength",
    "maxProperties",
    "maximum",
    "minItems",
    "minLength",
    "minimum",
    "pattern",
    "properties",
    "propertyNames",
    "required",
    "type",
}
_PYTHON_ONLY: Final = re.compile(r"\(\?(?:P|[aiLmsux]|#|<[=!]|>)|\\[AZz]|[*+?}]\+")


class SchemaError(AssertionError):
    """A schema that is none, or a document that does not fit."""


def check_schema(schema: Any, root: Any = None) -> None:
    """Refuse unknown keywords, references to nowhere and patterns that only Python understands."""
    root = schema if root is None else root
    unknown = schema.keys() - _NOTES - _RULES
    _expect(not unknown, f"unknown keywords {unknown}")
    if "$ref" in schema:
        _follow(schema["$ref"], root)
    if "pattern" in schema:
        re.compile(schema["pattern"])
        _expect(not _PYTHON_ONLY.search(schema["pattern"]), f"{schema['pattern']} is not ECMA-262")
    _expect(schema.get("type", "null") in _TYPES, f"unknown type {schema.get('type')}")
    for parts in (schema.get("$defs", {}), schema.get("properties", {})):
        for part in parts.values():
            check_schema(part, root)
    for part in schema.get("anyOf", []):
        check_schema(part, root)
    for key in ("items", "additionalProperties", "propertyNames"):
        if isinstance(schema.get(key), dict):
            check_schema(schema[key], root)


def validate(value: Any, schema: Any, root: Any = None, place: str = "$") -> None:
    """Refuse a document that does not fit. Raises: SchemaError."""
    root = schema if root is None else root
    if "$ref" in schema:
        validate(value, _follow(schema["$ref"], root), root, place)
    if "anyOf" in schema:
        _expect(any(_fits(value, part, root) for part in schema["anyOf"]), f"{place} fits none of anyOf")
    if "type" in schema:
        is_right = isinstance(value, _TYPES[schema["type"]]) and isinstance(value, bool) <= (
            schema["type"] == "boolean"
        )
        _expect(is_right, f"{place} is no {schema['type']}")
    _expect("enum" not in schema or value in schema["enum"], f"{place} is not in enum")
    match value:
        case str():
            _expect(re.search(schema.get("pattern", ""), value) is not None, f"{place} does not match")
            _check_range(len(value), schema.get("minLength"), schema.get("maxLength"), place)
        case int() | float():
            _check_range(value, schema.get("minimum"), schema.get("maximum"), place)
        case list():
            _check_range(len(value), schema.get("minItems"), schema.get("maxItems"), place)
            for index, item in enumerate(value):
                validate(item, schema.get("items", {}), root, f"{place}[{index}]")
        case dict():
            _check_range(len(value), None, schema.get("maxProperties"), place)
            _expect(value.keys() >= set(schema.get("required", [])), f"{place} lacks a required field")
            for key, item in value.items():
                validate(key, schema.get("propertyNames", {}), root, f"{place} key")
                inner = schema.get("properties", {}).get(key, schema.get("additionalProperties", {}))
                validate(item, inner if isinstance(inner, dict) else {}, root, f"{place}.{key}")


def _fits(value: Any, schema: Any, root: Any) -> bool:
    try:
        validate(value, schema, root)
    except SchemaError:
        return False
    return True


def _follow(reference: str, root: Any) -> Any:
    prefix, _, name = reference.rpartition("/")
    _expect(prefix == "#/$defs" and name in root["$defs"], f"{reference} leads nowhere")
    return root["$defs"][name]


def _check_range(number: float, low: float | None, high: float | None, place: str) -> None:
    _expect((low is None or number >= low) and (high is None or number <= high), f"{place} is out of range")


def _expect(is_so: bool, problem: str) -> None:
    if not is_so:
        raise SchemaError(problem)
