"""The exceptions that become an answer to an AWS client."""


class AwsError(Exception):
    """An error that a client sees: AWS's code, message and HTTP status, and the fields of its error shape.

    The front turns it into the form of the caller's protocol (protocol.py); `fields` go into JSON alone.
    """

    def __init__(self, code: str, message: str, status: int = 400, **fields):
        super().__init__(message)
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
