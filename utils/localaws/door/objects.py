"""What is in a bucket, and the beginning of an object: read as any client reads it, bounded, and told as text."""

import codecs
import csv
import json
from contextlib import closing, suppress

from botocore.exceptions import ClientError

from localaws.errors import AwsError

OBJECTS = 100  # of a bucket, in one answer
BYTES = 1 << 16  # of an object
ROWS, COLUMNS, CELL = 30, 20, 120  # of a table
LINES, CHARACTERS = 200, 2000  # of a text, and of a line of it
TABLES = {"text/csv": ",", "text/tab-separated-values": "\t"}
ENDINGS = {".csv": ",", ".csv.out": ",", ".tsv": "\t"}


def listing(s3, bucket: str, prefix: str, token: str) -> dict:
    """Return a page of what is below a prefix: `prefixes` and `objects`, and the token of the next. Raises AwsError."""
    more = {"ContinuationToken": token} if token else {}
    try:
        page = s3.list_objects_v2(Bucket=bucket, Prefix=prefix, Delimiter="/", MaxKeys=OBJECTS, **more)
    except ClientError as error:
        raise _refused(error) from None
    return {
        "prefixes": [one["Prefix"] for one in page.get("CommonPrefixes", ())],
        "objects": [
            {"key": one["Key"], "bytes": one["Size"], "at": one["LastModified"].timestamp()}
            for one in page.get("Contents", ())
        ],
        "next": page.get("NextContinuationToken"),
    }


def look_into(s3, bucket: str, key: str) -> dict:
    """Return the beginning of an object: its `rows` where it is a table, else its `text`, or neither where it is no text.

    `whole` tells whether that is all of it. Raises AwsError.
    """
    try:
        about = s3.get_object(Bucket=bucket, Key=key)
    except ClientError as error:
        raise _refused(error) from None
    with closing(about["Body"]) as stream:  # a stream: the rest of a large one is not read
        size, body = about["ContentLength"], stream.read(BYTES)
    kind, whole = about.get("ContentType", "").split(";")[0], len(body) == size
    told = {"bytes": size, "type": kind, "whole": whole}
    text = beginning(body, whole)
    if text is None or "\0" in text:
        return told
    lines = text.splitlines()
    if not whole and len(lines) > 1:
        lines.pop()  # it is cut
    delimiter = TABLES.get(kind) or next(
        (mark for end, mark in ENDINGS.items() if key.lower().endswith(end)), None
    )
    if delimiter:
        with suppress(csv.Error):  # it is not what it calls itself: as it is, then
            rows = [row for row in csv.reader(lines[: ROWS + 1], delimiter=delimiter) if row][:ROWS]
            return {
                **told,
                "rows": [[cell[:CELL] for cell in row[:COLUMNS]] for row in rows],
                "columns": max(map(len, rows), default=0),
                "count": sum(1 for line in lines if line.strip()) if whole else None,
            }
    if whole and (kind == "application/json" or key.lower().endswith(".json")):
        with suppress(ValueError, RecursionError):
            lines = json.dumps(json.loads(text), indent=2, ensure_ascii=False).splitlines()
    shown = [line[:CHARACTERS] for line in lines[:LINES]]
    return {**told, "text": "\n".join(shown), "whole": whole and shown == lines}


def beginning(data: bytes, whole: bool) -> str | None:
    """The text that bytes are, of which the last letter may be cut unless they are `whole`; None where they are none."""
    try:
        return codecs.getincrementaldecoder("utf-8-sig")().decode(data, final=whole)
    except UnicodeDecodeError:
        return None


def _refused(error: ClientError) -> AwsError:
    told = error.response["Error"]
    return AwsError(told["Code"], told.get("Message", ""), 404)
