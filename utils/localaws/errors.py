"""The exceptions that become an answer to an AWS client."""


class AwsError(Exception):
    """An error that a client sees: AWS's code, message and HTTP status, and the fields of its error shape.

    The front turns it into the JSON 1.1 form, ``{"__type": code, "message": message, **fields}``, or where it has a
    `root` into XML: S3's with the root `Error`, the other services' with `ErrorResponse`.
    """

    def __init__(self, code: str, message: str, status: int = 400, root: str = "", **fields):
        super().__init__(message)
        self.root = root
        self.code = code
        self.message = message
        self.status = status
        self.fields = fields


class Invalid(AwsError):
    """A request that the service refuses; the message says why."""

    def __init__(self, message: str):
        super().__init__("ValidationException", message)


class NotServed(AwsError):
    """What AWS would do and localaws does not; `mend` is what can be done instead."""

    def __init__(self, what: str, mend: str):
        super().__init__("NotServedByLocalaws", f"localaws does not serve {what}: {mend}.", 501)
