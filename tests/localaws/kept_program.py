"""Run actions on S3 through the backend, in a process of its own: moto is one for each process.

Reads a JSON list of actions a line; prints the state before, the state after it was brought back twice, and how many
entries the database has of S3. The client is boto3, short of the network.
"""

import contextlib
import json
import os
import pathlib
import sys
import tempfile
from urllib.parse import unquote, urlsplit

import boto3
from botocore.awsrequest import AWSResponse
from werkzeug import Request
from werkzeug.test import EnvironBuilder

from localaws.moto import backend
from localaws.state.database import Database

BODIES = {"small": b"1", "large": b"2" * 9000, "other": b"3"}
WEST = {"LocationConstraint": "us-west-2"}


class Raw:
    """What botocore reads an answer's body from."""

    def __init__(self, data):
        self.data = data

    def stream(self, *_, **__):
        yield self.data

    def read(self, *_):
        data, self.data = self.data, b""
        return data


def send(request, **_):
    """Give a boto3 request to the backend as the front would."""
    parts = urlsplit(request.url)
    headers = {name: v.decode() if isinstance(v, bytes) else v for name, v in request.headers.items()}
    for name in ("Transfer-Encoding", "Content-Length"):
        headers.pop(name, None)
    builder = EnvironBuilder(
        method=request.method, base_url="http://127.0.0.1", data=request.body or b"", headers=headers
    )
    environ = builder.get_environ()
    environ["PATH_INFO"] = unquote(parts.path, "latin-1")
    environ["QUERY_STRING"] = parts.query
    environ["REQUEST_URI"] = parts.path + ("?" + parts.query if parts.query else "")
    answer = current(Request(environ), "us-west-2", "s3")
    return AWSResponse(request.url, answer.status_code, dict(answer.headers), Raw(answer.get_data()))


def begin(folder):
    """Return a backend that knows nothing yet, as after a start."""
    fresh = backend.Backend(pathlib.Path(folder), Database(pathlib.Path(folder)))
    fresh.app = APP
    fresh.recover()
    return fresh


def act(action, bucket, *rest):
    where = {"Bucket": bucket}
    match action:
        case "put":
            s3.put_object(**where, Key=rest[0], Body=BODIES[rest[1]])
        case "put_if":
            etag = s3.head_object(**where, Key=rest[0])["ETag"]
            s3.put_object(**where, Key=rest[0], Body=BODIES[rest[1]], IfMatch=etag)
        case "delete":
            s3.delete_object(**where, Key=rest[0])
        case "delete_many":
            s3.delete_objects(**where, Delete={"Objects": [{"Key": key} for key in set(rest)]})
        case "copy":
            s3.copy_object(**where, Key=rest[0], CopySource={"Bucket": rest[1], "Key": rest[2]})
        case "tag":
            s3.put_object_tagging(**where, Key=rest[0], Tagging={"TagSet": [{"Key": "k", "Value": "v"}]})
        case "upload":
            upload = dict(
                **where, Key=rest[0], UploadId=s3.create_multipart_upload(**where, Key=rest[0])["UploadId"]
            )
            etag = s3.upload_part(**upload, PartNumber=1, Body=b"part" * 3000)["ETag"]
            if rest[1] == "complete":
                parts = [{"PartNumber": 1, "ETag": etag}]
                s3.complete_multipart_upload(**upload, MultipartUpload={"Parts": parts})
            elif rest[1] == "abort":
                s3.abort_multipart_upload(**upload)
        case "create_bucket":
            s3.create_bucket(**where, CreateBucketConfiguration=WEST)
        case "delete_bucket":
            s3.delete_bucket(**where)
        case "version":
            s3.put_bucket_versioning(**where, VersioningConfiguration={"Status": "Enabled"})


def state():
    seen = []
    for entry in s3.list_buckets()["Buckets"]:
        bucket = entry["Name"]
        seen.append((bucket, entry["CreationDate"]))
        for version in s3.list_object_versions(Bucket=bucket).get("Versions", []):
            where = {"Bucket": bucket, "Key": version["Key"]}
            if version["VersionId"] != "null":
                where["VersionId"] = version["VersionId"]
            seen.append(
                (bucket, version["Key"], version["VersionId"], version["ETag"], version["LastModified"])
            )
            try:
                seen.append(s3.get_object(**where)["Body"].read())
                seen.append(s3.get_object_tagging(**where)["TagSet"])
            except s3.exceptions.ClientError as error:  # under a delete marker
                seen.append(error.response["Error"]["Code"])
        for upload in s3.list_multipart_uploads(Bucket=bucket).get("Uploads", []):
            seen.append((bucket, upload["Key"], upload["UploadId"]))
    return repr(seen)


os.environ.update(AWS_ACCESS_KEY_ID="k", AWS_SECRET_ACCESS_KEY="s", AWS_DEFAULT_REGION="us-west-2")
s3 = boto3.client("s3", endpoint_url="http://127.0.0.1")
s3.meta.events.register("before-send.s3", send)

HOME = pathlib.Path(tempfile.mkdtemp())
APP = backend.Backend(HOME, Database(HOME)).app  # takes moto longer to make than a test to run

for line in sys.stdin:
    with tempfile.TemporaryDirectory() as folder:
        current = begin(folder)
        for action in json.loads(line):
            # A key or bucket that is not there is as good a request as any.
            with contextlib.suppress(s3.exceptions.ClientError):
                act(*action)
        before = state()
        for _ in range(2):
            current = begin(folder)
            after = state()
            if after != before:
                break
        counts = Database(pathlib.Path(folder)).counts()
        entries = sum(count for kind, count in counts.items() if kind.startswith("s3"))
        print(json.dumps([before, after, entries]), flush=True)
