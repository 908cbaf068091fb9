"""The one error that a user can cause, in a request, in training data or in a model folder, and its words."""

SHOWN = 24


class InputError(ValueError):
    """Something that the user gave cannot be used.

    The message names the thing, what was expected and how to mend it. `status` and `code` are
    what the server answers; `details` (row, column, value) are put beside them. `columns` is how many the row has,
    where its first one is what is wrong: only who knows the model can say whether that is one too many.
    """

    columns: int | None = None

    def __init__(self, message: str, code: str = "bad_request", status: int = 400, **details):
        super().__init__(message)
        if not isinstance(code, str):
            raise TypeError(
                f"InputError(message, code, status): code must be a word, as 'bad_request'; found {code!r}"
            )
        self.code, self.status, self.details = code, status, details


def shown(value: bytes | str) -> str:
    """The first characters of what was sent: enough to find it, too little to give a payload back."""
    text = value[: 4 * SHOWN].decode("utf-8", "replace") if isinstance(value, bytes) else value
    return text if len(text) <= SHOWN else text[: SHOWN - 1] + "…"


def hint(line: bytes, header: str) -> str:
    """What a line that is no row of numbers seems to be, and how to mend it; nothing where nothing seems sure.

    `header` is what to say of a line of names.
    """
    if line.startswith(b"\x1f\x8b"):
        return "; it seems to be compressed with gzip: say so with 'Content-Encoding: gzip'"
    if line.startswith((b"\xff\xfe", b"\xfe\xff")) or 3 * line.count(0) > len(line):
        return "; the text seems to be UTF-16: write it as UTF-8"
    try:
        text = line.decode().strip()
    except UnicodeDecodeError:
        return ""
    if len(text) > 1 << 16:  # to look closer would cost memory
        return ""
    if text.startswith(("{", "[")):
        return "; it seems to be JSON: send it as application/json"
    if "\r" in text:
        return "; its lines seem to end in CR alone: end them in LF or CRLF"
    for mark, name in {";": "';'", "\t": "a tab", "|": "'|'", " ": "a blank"}.items():
        cells = [cell.replace(",", ".") for cell in text.split(mark)]
        if len(cells) > 1 and (all(map(_is_number, cells)) or (mark != " " and "," not in text)):
            return f"; the delimiter seems to be {name}: expected a comma, and a point in numbers"
    cells = [cell.strip(' \t"') for cell in text.split(",")]
    return header if any(cells) and all(not cell or is_name(cell) for cell in cells) else ""


def _is_number(cell: str) -> bool:
    try:
        float(cell)
    except ValueError:
        return False
    return True


def is_name(cell: str) -> bool:
    """Whether a cell seems to be a word, and not a number that is missing or written otherwise."""
    missing = ("nan", "na", "n/a", "null", "none", "inf", "infinity", "true", "false")
    return (
        bool(cell)
        and (cell[0].isalpha() or cell[0] == "_")
        and cell.isprintable()
        and cell.lower() not in missing
    )
