"""The one error that a user can cause, in a request, in training data or in a model folder."""

SHOWN = 24


class InputError(ValueError):
    """Something that the user gave cannot be used.

    The message names the thing, what was expected and how to mend it. `status` and `code` are
    what the server answers; `details` (row, column, value) are put beside them.
    """

    def __init__(self, message: str, code: str = "bad_request", status: int = 400, **details):
        super().__init__(message)
        self.code, self.status, self.details = code, status, details


def shown(value: bytes | str) -> str:
    """The first characters of what was sent: enough to find it, too little to give a payload back."""
    text = value[: 4 * SHOWN].decode("utf-8", "replace") if isinstance(value, bytes) else value
    return text if len(text) <= SHOWN else text[: SHOWN - 1] + "…"
