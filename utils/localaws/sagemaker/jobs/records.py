"""What a batch transform does with records: filters in AWS's subset of JSONPath, and the join of input and output.

A CSV row counts as a JSON array of its cells, which stay the strings that they were.
"""

import csv
import io
import itertools
import json
import re

import jsonpath_ng

_INDEX = r"-?\d*:-?\d*|-?\d+"  # the longer first: findall takes the first that fits
_NAME = r"'[^']*'|\"[^\"]*\""
_STEP = re.compile(
    rf"\.[\w-]+|\.\*|\[\*\]|\[(?:{_INDEX})(?:\s*,\s*(?:{_INDEX}))*\]|\[(?:{_NAME})(?:\s*,\s*(?:{_NAME}))*\]"
)
FORMATS = {
    "text/csv": "csv",
    "application/json": "json",
    "application/jsonlines": "json",
    "application/x-jsonlines": "json",
}


class RecordError(Exception):
    """A record that cannot be filtered or joined; the message says why."""


def record_format(content_type: str | None) -> str | None:
    """ "csv" or "json", or None for a type that filters and joins cannot read."""
    return FORMATS.get((content_type or "").split(";")[0].strip().lower())


class Filter:
    """An InputFilter or OutputFilter. Raises ValueError for what AWS does not document: `..`, filters, scripts."""

    def __init__(self, expression: str):
        steps = _STEP.findall(expression[1:])
        if not expression.startswith("$") or "".join(steps) != expression[1:]:
            raise ValueError(
                f"\"{expression}\" is not a supported JSONPath: expected $ and then .name, ['name', ...], [n, ...], "
                "[start:end] or *"
            )
        # The library does not know a list of indices and slices in one bracket: each becomes a path of its own.
        choices = [self._alternatives(step) for step in steps]
        self._paths = [jsonpath_ng.parse("$" + "".join(path)) for path in itertools.product(*choices)]
        self._expression = expression
        self._names = bool(steps) and bool(re.match(r"\[\s*['\"].*,", steps[-1]))
        self._single = not any(re.search(r"[,:*]", re.sub(_NAME, "", step)) for step in steps)
        self.is_identity = not steps

    @staticmethod
    def _alternatives(step: str) -> list[str]:
        parts = re.findall(_NAME + "|" + _INDEX, step) if step.startswith("[") and step != "[*]" else []
        return [f"[{part}]" for part in parts] or [step]

    def __call__(self, value):
        """The part of `value` that the expression selects. Raises RecordError where an index or name is missing."""
        found = []
        for path in self._paths:
            matches = path.find(value)
            if not matches and ":" not in str(path) and "*" not in str(path):
                raise RecordError(f"{self._expression} selects what the record does not have")
            found += matches
        if self._names:
            return {str(match.path): match.value for match in found}
        return found[0].value if self._single else [match.value for match in found]


def decode(text: str, kind: str):
    """One record as data: a CSV row as a list of strings, JSON as what it says. Raises RecordError."""
    try:
        return next(csv.reader([text], strict=True), []) if kind == "csv" else json.loads(text)
    except (csv.Error, ValueError) as error:
        raise RecordError(f"{error}: {text[:80]}") from error


def encode(value, kind: str) -> str:
    """A record's text, without a line end."""
    if kind == "json":
        return json.dumps(value, ensure_ascii=False, separators=(",", ":"))
    row = value if isinstance(value, list) else [value]
    buffer = io.StringIO()
    csv.writer(buffer, lineterminator="").writerow(row)
    return buffer.getvalue()


def join(source, output, kind: str):
    """Input and output of one record, as AWS joins them: cells appended, or `SageMakerOutput` beside the input."""
    if kind == "csv":
        return source + output
    if isinstance(source, dict):
        return source | {"SageMakerOutput": output}
    return {"SageMakerInput": source, "SageMakerOutput": output}
