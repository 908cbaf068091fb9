"""The one exception that becomes an answer to an AWS client."""


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
