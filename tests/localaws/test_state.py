"""What localaws keeps: bodies that pass through without lying in memory, lines in pages, entries that cannot be used."""

import hashlib
import http.client
import io
import json
import pickle
import sqlite3
import sys
import time
from pathlib import Path

import psutil
import pytest
from botocore.auth import S3SigV4Auth
from botocore.awsrequest import AWSRequest
from botocore.exceptions import ClientError

from localaws.moto import kept
from localaws.state.database import Database

WEST = {"LocationConstraint": "us-west-2"}
MB = 1 << 20


def server_of(aws) -> psutil.Process:
    return psutil.Process(json.loads((aws.home / "server.json").read_text())["pid"])


def kill(aws) -> None:
    server_of(aws).kill()


class Zeros(io.RawIOBase):
    """A body of so many bytes, which nobody holds."""

    def __init__(self, size: int):
        self.size, self.at = size, 0

    def readable(self):
        return True

    def seekable(self):
        return True

    def tell(self):
        return self.at

    def seek(self, offset, whence=0):
        self.at = offset + (0, self.at, self.size)[whence]
        return self.at

    def read(self, count=-1):
        count = min(self.size - self.at, self.size if count is None or count < 0 else count)
        self.at += count
        return bytes(count)


# Bodies


@pytest.mark.skipif(sys.platform != "linux", reason="asks /proc for the most memory that it had")
@pytest.mark.parametrize("size", [200 * MB, pytest.param(1536 * MB, marks=pytest.mark.slow)])
def test_a_large_object_passes_through_and_is_never_in_memory(fresh, tmp_path, size):
    """moto alone takes three times its size to store it, and once more for each reader."""
    fresh.up()
    s3 = fresh.client("s3")
    s3.create_bucket(Bucket="large", CreateBucketConfiguration=WEST)
    s3.put_object(Bucket="large", Key="one", Body=Zeros(size))
    s3.upload_fileobj(Zeros(size), "large", "parts")
    s3.copy({"Bucket": "large", "Key": "one"}, "large", "copy")
    for key in ("one", "parts", "copy"):
        s3.download_file("large", key, str(tmp_path / "got"))
        assert (tmp_path / "got").stat().st_size == size
    lines = Path(f"/proc/{server_of(fresh).pid}/status").read_text().splitlines()
    status = dict(line.split(":", 1) for line in lines)
    assert int(status["VmHWM"].split()[0]) / 1024 < 600


def test_a_range_of_an_object_of_parts_and_copies_of_it(localaws):
    s3 = localaws.client("s3")
    s3.create_bucket(Bucket="ranges", CreateBucketConfiguration=WEST)
    body = bytes(range(256)) * 50_000
    upload = s3.create_multipart_upload(Bucket="ranges", Key="k")["UploadId"]
    parts = []
    for number, part in enumerate((body[: 6 * MB], body[6 * MB : 12 * MB], body[12 * MB :]), 1):
        tag = s3.upload_part(Bucket="ranges", Key="k", UploadId=upload, PartNumber=number, Body=part)["ETag"]
        parts.append({"PartNumber": number, "ETag": tag})
    s3.complete_multipart_upload(Bucket="ranges", Key="k", UploadId=upload, MultipartUpload={"Parts": parts})
    s3.copy_object(Bucket="ranges", Key="copy", CopySource="ranges/k")
    again = s3.create_multipart_upload(Bucket="ranges", Key="piece")["UploadId"]
    source = {"CopySource": "ranges/k", "CopySourceRange": f"bytes={6 * MB - 5}-{6 * MB + 4}"}
    tag = s3.upload_part_copy(Bucket="ranges", Key="piece", UploadId=again, PartNumber=1, **source)
    parts = [{"PartNumber": 1, "ETag": tag["CopyPartResult"]["ETag"]}]
    s3.complete_multipart_upload(
        Bucket="ranges", Key="piece", UploadId=again, MultipartUpload={"Parts": parts}
    )

    def got(key, **options):
        return s3.get_object(Bucket="ranges", Key=key, **options)["Body"].read()

    assert got("k") == got("copy") == body
    assert got("k", Range=f"bytes={6 * MB - 3}-{12 * MB + 2}") == body[6 * MB - 3 : 12 * MB + 3]
    assert got("copy", Range="bytes=-7") == body[-7:]
    assert got("piece") == body[6 * MB - 5 : 6 * MB + 5]
    with pytest.raises(ClientError, match="InvalidRange"):
        got("k", Range=f"bytes={len(body)}-")


class Streaming(S3SigV4Auth):
    """Signs a request whose body is not hashed as a whole."""

    def payload(self, request):
        return "STREAMING-UNSIGNED-PAYLOAD-TRAILER"


def put_chunked(aws, path: str, body: bytes) -> tuple[int, bytes]:
    """Send a body in the encoding aws-chunked, with its checksum after it, as SDKs of other languages do."""
    headers = {
        "Content-Encoding": "aws-chunked",
        "X-Amz-Trailer": "x-amz-checksum-crc32",
        "X-Amz-Decoded-Content-Length": "11",
    }
    request = AWSRequest("PUT", f"{aws.endpoint_url}{path}", headers=headers)
    Streaming(aws.client("s3")._request_signer._credentials, "s3", "us-west-2").add_auth(request)
    connection = http.client.HTTPConnection(aws.endpoint_url.removeprefix("http://"), timeout=20)
    connection.request("PUT", path, body, dict(request.headers))
    answer = connection.getresponse()
    return answer.status, answer.read()


def test_a_body_in_chunks_is_stored_without_its_frame(localaws):
    s3 = localaws.client("s3")
    s3.create_bucket(Bucket="chunks", CreateBucketConfiguration=WEST)
    framed = b"6\r\nhello \r\n5\r\nworld\r\n0\r\nx-amz-checksum-crc32:DUoRhQ==\r\n\r\n"
    assert put_chunked(localaws, "/chunks/k", framed)[0] == 200
    got = s3.get_object(Bucket="chunks", Key="k", ChecksumMode="ENABLED")
    assert (got["Body"].read(), got.get("ContentEncoding", "")) == (b"hello world", "")
    status, answer = put_chunked(localaws, "/chunks/bad", b"no size at all\r\nhello")
    assert status == 400
    assert b"<Code>IncompleteBody</Code>" in answer and b"aws-chunked" in answer


def test_a_body_that_changed_is_not_served_and_not_brought_back(fresh):
    fresh.up()
    s3 = fresh.client("s3")
    s3.create_bucket(Bucket="damaged", CreateBucketConfiguration=WEST)
    s3.put_object(Bucket="damaged", Key="whole", Body=b"whole")
    s3.put_object(Bucket="damaged", Key="changed", Body=b"as it was put")
    s3.put_object(Bucket="damaged", Key="lost", Body=b"lost")
    body = fresh.home / "bodies" / hashlib.sha256(b"as it was put").hexdigest()
    body.write_bytes(b"as it was not")
    with pytest.raises(ClientError, match="have changed since they were stored"):
        s3.get_object(Bucket="damaged", Key="changed")
    kill(fresh)
    (fresh.home / "bodies" / hashlib.sha256(b"lost").hexdigest()).unlink()
    told = fresh.command("up").stdout
    assert "Not brought back: s3 object damaged/changed: the bytes of" in told
    assert "Not brought back: s3 object damaged/lost:" in told and "is missing" in told
    assert "In it: 1 bucket, 1 object" in told
    assert s3.get_object(Bucket="damaged", Key="whole")["Body"].read() == b"whole"
    assert (fresh.home / "aside" / f"body-{body.name}").read_bytes() == b"as it was not"


# Lines


def test_lines_are_given_in_pages_forth_and_back(localaws):
    logs = localaws.client("logs")
    logs.create_log_group(logGroupName="pages")
    now = int(time.time() * 1000)
    for stream in ("one", "two"):
        logs.create_log_stream(logGroupName="pages", logStreamName=stream)
        for turn in range(3):
            events = [{"timestamp": now + turn, "message": f"{stream} {turn} {i}"} for i in range(4)]
            logs.put_log_events(logGroupName="pages", logStreamName=stream, logEvents=events)
    expected = [f"one {turn} {i}" for turn in range(3) for i in range(4)]

    def page(**options):
        answer = logs.get_log_events(logGroupName="pages", logStreamName="one", limit=5, **options)
        return [event["message"] for event in answer["events"]], answer

    forth, answer = page(startFromHead=True)
    seen = forth
    while forth:
        forth, answer = page(nextToken=answer["nextForwardToken"])
        seen = seen + forth
    assert seen == expected
    back, answer = page()
    seen = back
    while back:
        back, answer = page(nextToken=answer["nextBackwardToken"])
        seen = back + seen
    assert seen == expected
    found, token = [], {}
    while True:
        answer = logs.filter_log_events(logGroupName="pages", filterPattern='" 1"', limit=3, **token)
        found += [event["message"] for event in answer["events"]]
        if "nextToken" not in answer:
            break
        token = {"nextToken": answer["nextToken"]}
    assert found == [
        message
        for turn in range(3)
        for message in [f"{stream} {turn} {i}" for stream in ("one", "two") for i in range(4)]
        if " 1" in message
    ]
    (described,) = logs.describe_log_streams(logGroupName="pages", logStreamNamePrefix="one")["logStreams"]
    assert (described["firstEventTimestamp"], described["lastEventTimestamp"]) == (now, now + 2)
    logs.delete_log_stream(logGroupName="pages", logStreamName="one")
    logs.create_log_stream(logGroupName="pages", logStreamName="one")
    assert page(startFromHead=True)[0] == []


# Entries


def test_an_entry_that_names_what_is_not_motos_is_not_read(tmp_path):
    class Evil:
        def __reduce__(self):
            return (open, (str(tmp_path / "made"), "w"))

    database = Database(tmp_path)
    database.put("s3 bucket", "evil", pickle.dumps(Evil()))
    kept.Kept(database).load()
    assert not (tmp_path / "made").exists()
    assert database.lost == [
        f"s3 bucket evil: UnpicklingError: it names io.open (kept as {tmp_path / 'aside' / 's3 bucket-evil'})"
    ]
    assert not database.counts()


def test_what_a_damaged_database_still_has_is_taken_from_it(tmp_path):
    database = Database(tmp_path)
    for number in range(2_000):
        database.put("thing", f"{number:04}", b"x" * 200)
    del database  # which closes its file
    file = tmp_path / "state.db"
    with sqlite3.connect(file) as connection:
        size = connection.execute("PRAGMA page_size").fetchone()[0]
    with file.open("r+b") as pages:
        for page in range(20, 30):
            pages.seek(page * size)
            pages.write(b"\xff" * size)
    again = Database(tmp_path)
    found = [name for name, _ in again.entries("thing")]
    assert 1_500 < len(found) < 2_000
    (told,) = again.lost
    assert "is damaged" in told and f"{len(found):,} entries" in told
    assert list((tmp_path / "aside").glob("state-*.db"))


def test_an_entry_whose_bytes_changed_is_put_aside(tmp_path):
    database = Database(tmp_path)
    database.put("thing", "one", b"first")
    database.put("thing", "two", b"second")
    with database.transaction() as connection:
        connection.execute("UPDATE entry SET value = ? WHERE name = 'one'", (b"other",))
    assert [name for name, _ in database.entries("thing")] == ["two"]
    assert (tmp_path / "aside" / "thing-one").read_bytes() == b"other"
    assert "its bytes are not those that were written" in database.lost[0]
