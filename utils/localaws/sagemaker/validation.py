"""Requests and answers against botocore's service model, as strict as the service itself.

The client checks required members, types and ranges; the service checks patterns and enums as well, and words its
refusals in one form. Both come from the same model, so nothing is listed here by hand.
"""

import functools
import re

import botocore.session

from localaws.errors import AwsError, Invalid, NotServed


@functools.cache
def service_model(service: str = "sagemaker"):
    """botocore's model of a service's API."""
    return botocore.session.get_session().get_service_model(service)


@functools.cache
def _pattern(pattern: str) -> re.Pattern:
    """The model's Java pattern for Python, whose `re` lacks the Unicode classes."""
    classes = {"L": r"\w", "N": r"\w", "Z": r"\s", "Alnum": "a-zA-Z0-9"}
    classes |= {"ASCII": r"[\x00-\x7f]", "Print": "[ -~]"}  # which stand alone
    pattern = pattern.replace(r"[\p{Print}]", r"\p{Print}")
    pattern = re.sub(r"\\p\{(\w+)\}", lambda match: classes[match[1]], pattern)
    # Java's characters have 16 bits: one beyond them is a pair.
    pattern = pattern.replace(r"\uD800\uDC00-\uDBFF\uDFFF", r"\U00010000-\U0010FFFF")
    return re.compile(pattern.replace(r"\z", r"\Z"))


# How the service's deserialiser names what it found and what it wanted.
_JSON_TYPES = {
    bool: "BOOLEAN_VALUE",
    str: "STRING_VALUE",
    int: "NUMBER_VALUE",
    float: "NUMBER_VALUE",
    list: "START_ARRAY",
    dict: "START_OBJECT",
}
_SHAPES = {
    "string": (str, "String"),
    "integer": (int, "Integer"),
    "long": (int, "Long"),
    "float": ((int, float), "Float"),
    "double": ((int, float), "Double"),
    "timestamp": ((int, float), "Timestamp"),
    "boolean": (bool, "Boolean"),
    "list": (list, "List"),
    "map": (dict, "Map"),
    "structure": (dict, "Structure"),
}


def _bounds(shape, value) -> list[str]:
    """What of the shape's length, range, enum and pattern `value` breaks, in the service's words."""
    meta, broken = shape.metadata, []
    sized = shape.type_name in ("string", "list", "map")
    size, what = (len(value), "have length") if sized else (value, "have value")
    if "min" in meta and size < meta["min"]:
        broken.append(f"Member must {what} greater than or equal to {meta['min']}")
    if "max" in meta and size > meta["max"]:
        broken.append(f"Member must {what} less than or equal to {meta['max']}")
    if "enum" in meta and value not in meta["enum"]:
        broken.append(f"Member must satisfy enum value set: [{', '.join(meta['enum'])}]")
    if "pattern" in meta and not _pattern(meta["pattern"]).fullmatch(value):
        broken.append(f"Member must satisfy regular expression pattern: {meta['pattern']}")
    return broken


def _spell(value) -> str:
    """A value as the service prints it: strings quoted, maps as `{key=value}`."""
    if isinstance(value, dict):
        return "{" + ", ".join(f"{key}={_spell(item)}" for key, item in value.items()) + "}"
    if isinstance(value, list):
        return "[" + ", ".join(_spell(item) for item in value) + "]"
    return str(value)


def _check(shape, value, path: str, broken: list[str]) -> None:
    wanted, name = _SHAPES[shape.type_name]
    if not isinstance(value, wanted) or (isinstance(value, bool) and wanted is not bool):
        found = _JSON_TYPES.get(type(value), type(value).__name__)
        raise AwsError("SerializationException", f"{found} can not be converted to a {name} (at '{path}')")
    rules = _bounds(shape, value)
    if shape.type_name == "structure":
        _check_members(shape, value, path, broken)
    elif shape.type_name == "list":
        for number, item in enumerate(value, 1):
            _check(shape.member, item, f"{path}.{number}.member", broken)
    elif shape.type_name == "map":
        for key, item in value.items():
            for part, item_shape, text in (("keys", shape.key, key), ("value", shape.value, item)):
                if item_shape.type_name != "string" or not isinstance(text, str):
                    _check(item_shape, text, f"{path}.{key}.member", broken)
                elif inner := _bounds(item_shape, text):
                    rules.append(f"Map {part} must satisfy constraint: [{', '.join(inner)}]")
    broken += [f"Value '{_spell(value)}' at '{path}' failed to satisfy constraint: {rule}" for rule in rules]


def _check_members(shape, value: dict, path: str, broken: list[str]) -> None:
    def at(member):
        lower = member[0].lower() + member[1:]
        return f"{path}.{lower}" if path else lower

    for member in shape.required_members:
        if value.get(member) is None:
            null = f"Value null at '{at(member)}'"
            broken.append(f"{null} failed to satisfy constraint: Member must not be null")
    for member, item in value.items():
        if member not in shape.members:
            known = ", ".join(shape.members)
            raise Invalid(f'Unknown field "{member}" at "{path or "request"}": expected one of {known}')
        if item is not None:
            _check(shape.members[member], item, at(member), broken)


def validate(operation: str, request: dict, service: str = "sagemaker") -> None:
    """Check `request` against the input shape of `operation`.

    Raises AwsError: ValidationException (ValidationError from the runtime) in the service's own form, all that is
    wrong in one message; SerializationException for a value of another JSON type.
    """
    broken: list[str] = []
    _check_members(service_model(service).operation_model(operation).input_shape, request, "", broken)
    if broken:
        noun = "error" if len(broken) == 1 else "errors"
        code = "ValidationError" if service == "sagemaker-runtime" else "ValidationException"
        raise AwsError(code, f"{len(broken)} validation {noun} detected: {'; '.join(broken)}")


def _is_off(value) -> bool:
    """Whether a value asks for nothing: what an unserved field may hold."""
    if isinstance(value, dict):
        return all(_is_off(item) for item in value.values())
    return value in (None, False, "", [], "None", 0)


def parse_served(text: str) -> dict[str, set[str]]:
    """`"A B.C B.D=x|y"` -> {"A": set(), "B.C": set(), "B.D": {"x", "y"}}: served paths and, where not all, values."""
    paths = (item.partition("=") for item in text.split())
    return {path: set(values.split("|")) if values else set() for path, _, values in paths}


def refuse_unserved(operation: str, request: dict, served: dict[str, set[str]]) -> None:
    """Refuse by name each field (or value of one) that `operation` takes on AWS and we do not serve.

    A path that is served serves all below it. Lists are looked through. A field that is switched off (false, empty,
    "None") passes. Raises NotServed.
    """

    def walk(value, path):
        if isinstance(value, list):
            for item in value:
                walk(item, path)
        elif path in served:
            if served[path] and value not in served[path]:
                mend = f"localaws serves {', '.join(sorted(served[path]))}"
                raise NotServed(f'{path} "{value}" of {operation}', mend)
        elif isinstance(value, dict) and (not path or any(name.startswith(path + ".") for name in served)):
            for name, item in value.items():
                walk(item, f"{path}.{name}" if path else name)
        elif not _is_off(value):
            raise NotServed(f"{path} of {operation}", "leave the field out, or run this against AWS")

    walk(request, "")


def prune(operation: str, answer: dict, service: str = "sagemaker") -> dict:
    """`answer` cut down to the output shape of `operation`: what we keep for ourselves never leaves.

    Times are in whole milliseconds, as the service tells them.
    """

    def cut(shape, value):
        if shape.type_name == "structure":
            return {
                name: cut(shape.members[name], item)
                for name, item in value.items()
                if name in shape.members and item is not None
            }
        if shape.type_name == "list":
            return [cut(shape.member, item) for item in value]
        return round(value, 3) if shape.type_name == "timestamp" else value

    shape = service_model(service).operation_model(operation).output_shape
    return cut(shape, answer) if shape else {}
