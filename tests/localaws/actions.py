"""What clients ask of localaws, by chance: a table of actions on few names, so that requests meet."""

import hashlib
import json
import random
import re
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from http.client import HTTPException
from xml.sax.saxutils import escape

import psutil
import tiny
from botocore.config import Config
from botocore.exceptions import BotoCoreError, ClientError
from botocore.parsers import ResponseParserError
from foreign import Foreign

SERVICES = ("s3", "logs", "iam", "ecr", "cloudwatch", "sagemaker")
VERSIONED = "with.versions"
BUCKETS = ("sagemaker-one", "two", VERSIONED, "fleeting")
KEYS = (
    "a",
    "deep/er/key",
    "a blank",
    "per%cent",
    "per%2Fcent",
    "plus+sign",
    "ünïcödé ✓",
    "<&'\">",
    "folder/",
    "~",
)
GROUPS, STREAMS = ("/app/one", "two"), ("s/1", "s2")
ROLES, POLICIES = ("walker", "runner"), ("readers", "writers")
REPOSITORIES = ("images", "team/images")
NAMES = ("first", "second", "third")
# SageMaker's resources, and what each is called in an ARN.
KINDS = {
    "Model": "model",
    "EndpointConfig": "endpoint-config",
    "Endpoint": "endpoint",
    "TrainingJob": "training-job",
    "TransformJob": "transform-job",
    "HyperParameterTuningJob": "hyper-parameter-tuning-job",
}
WEST = {"CreateBucketConfiguration": {"LocationConstraint": "us-west-2"}}
FULL_ACCESS = "arn:aws:iam::aws:policy/AmazonSageMakerFullAccess"
MANIFEST = "application/vnd.oci.image.manifest.v1+json"
PART = 5 << 20  # the least that S3 takes of a part that is not the last
NOON = 1767268800  # of 1 January 2026, for metrics: observed.py looks there

READ = {"Effect": "Allow", "Action": "s3:Get*", "Resource": "*"}
DOCUMENTS = [
    json.dumps({"Version": "2012-10-17", "Statement": [READ, {**READ, "Action": what}]})
    for what in ("s3:ListBucket", "logs:*", "iam:PassRole")
]


def bucket_policy(bucket: str, effect: str = "Allow", what: str = "s3:GetObject") -> str:
    """A bucket's policy for everybody."""
    rule = {"Effect": effect, "Principal": "*", "Action": what, "Resource": f"arn:aws:s3:::{bucket}/*"}
    return json.dumps({"Version": "2012-10-17", "Statement": [rule]})


@dataclass
class Request:
    """A request that is ready to be sent. `touches`: what of what observed.py sees it may change."""

    touches: tuple[tuple, ...]
    send: Callable
    # True: sent once more it changes nothing but times. False: it adds something each time. None: that depends
    twice: bool | None = True
    name: str = ""

    def answer(self) -> bool | None:
        """Whether it was acknowledged; None where no answer came that says what happened."""
        try:
            got = self.send()
        except ClientError as error:
            return None if error.response["ResponseMetadata"]["HTTPStatusCode"] >= 500 else False
        except (BotoCoreError, ResponseParserError, HTTPException, OSError):
            return None
        if not isinstance(got, tuple) or got[0] < 400:
            return True
        return None if got[0] >= 500 else False


class World:
    """The clients of a localaws that runs, what they asked of it so far, and chance."""

    def __init__(self, aws, seed: int):
        self.aws, self.chance = aws, random.Random(seed)
        self.began = time.time()
        self.told: list[Request] = []
        # Its image runs jobs and endpoints, where a history has them: they cost seconds.
        self.account: tiny.Account | None = None
        login = {"aws_access_key_id": aws.env["AWS_ACCESS_KEY_ID"]}
        login["aws_secret_access_key"] = aws.env["AWS_SECRET_ACCESS_KEY"]
        once = Config(retries={"total_max_attempts": 1}, connect_timeout=5, read_timeout=20)
        self.clients = {name: aws.client(name, config=once, **login) for name in SERVICES}
        self.s3, self.logs, self.iam, self.ecr, self.cloudwatch, self.sagemaker = self.clients.values()
        # By itself boto3 signs a URL in the older of S3's two ways.
        modern = once.merge(Config(signature_version="s3v4"))
        self.signers = (self.s3, aws.client("s3", config=modern, **login))
        self.foreign = Foreign(aws.env)
        self.pid = int(re.search(r"pid +(\d+)", aws.command("status").stdout)[1])

    def run_things(self, folder) -> None:
        """Have an image, a model and an endpoint's configuration, so that jobs and endpoints are among the actions."""
        self.account = tiny.account(self.aws, folder)
        self.data = self.account.put("data/a.csv", "1,2\n")
        self.model = self.account.model()
        self.config = self.account.config(self.model)

    @property
    def kinds(self) -> list[str]:
        """SageMaker's resources that there may be."""
        return [*KINDS] if self.account else ["Model", "EndpointConfig"]

    def settled(self, kind: str, name: str) -> None:
        """Wait until a job has ended, or an endpoint is not on its way."""
        describe = getattr(self.sagemaker, f"describe_{snake(kind)}")
        underway = (
            "InProgress",
            "Stopping",
            "Creating",
            "Updating",
            "SystemUpdating",
            "RollingBack",
            "Deleting",
        )
        tiny.wait_until(lambda: describe(**{f"{kind}Name": name})[f"{kind}Status"] not in underway)

    def kill(self) -> None:
        """Kill the server without a warning."""
        server = psutil.Process(self.pid)
        server.kill()
        tiny.wait_until(lambda: not server.is_running() or server.status() == psutil.STATUS_ZOMBIE)

    def up(self) -> str:
        """Start it again; what `up` said."""
        done = self.aws.command("up", check=False)
        assert done.returncode == 0, f"`up` fails after the kill:\n{done.stdout}{done.stderr}"
        assert f"{self.aws.endpoint_url} " in done.stdout, "it listens elsewhere now"
        self.pid = int(re.search(r"pid (\d+)", done.stdout)[1])
        for endpoint in self.sagemaker.list_endpoints()["Endpoints"]:
            self.settled("Endpoint", endpoint["EndpointName"])
        return done.stdout

    def requests(self, count: int, many: bool = False) -> list[Request]:
        """At most `count` requests that touch nothing of each other's; with `many`, or one action of several requests.

        With `many` also those that take seconds.
        """
        chosen: list[Request] = []
        possible = ACTIONS | RUNNING if many and self.account else ACTIONS
        for name in self.chance.choices([*possible], [weight for weight, _, _ in possible.values()], k=count):
            _, prepare, is_many = possible[name]
            if is_many and not (many and not chosen):
                continue
            request = prepare(self)
            request.name = name
            if any(set(request.touches) & set(other.touches) for other in chosen):
                continue
            chosen.append(request)
            if is_many:
                break
        return chosen

    # Chance

    def one(self, *choices):
        return self.chance.choice(choices)

    def place(self) -> tuple[str, str]:
        """A bucket and a key."""
        return self.one(*BUCKETS[:3] * 3, BUCKETS[3]), self.one(*KEYS)

    def body(self) -> bytes:
        return self.chance.randbytes(self.one(0, 1, 100, 9_000, 70_000))

    def tags(self) -> list[dict]:
        return [{"Key": key, "Value": self.one("", "1", "ü / +")} for key in self.one(("a",), ("a", "b:c"))]

    def versions(self, bucket: str, key: str) -> list[dict]:
        """The versions and delete markers of a key, as far as there is such a bucket."""
        try:
            listed = self.s3.list_object_versions(Bucket=bucket, Prefix=key)
        except ClientError:
            return []
        every = listed.get("Versions", []) + listed.get("DeleteMarkers", [])
        return [{"Key": key, "VersionId": one["VersionId"]} for one in every if one["Key"] == key]

    def upload(self) -> dict | None:
        """A multipart upload that is open."""
        found = []
        for bucket in BUCKETS:
            try:
                uploads = self.s3.list_multipart_uploads(Bucket=bucket).get("Uploads", [])
            except ClientError:
                continue
            found += [{"Bucket": bucket, "Key": one["Key"], "UploadId": one["UploadId"]} for one in uploads]
        return self.chance.choice(found) if found else None


# name -> weight, what prepares the request, whether that is many requests
ACTIONS: dict[str, tuple[int, Callable[[World], Request], bool]] = {}
RUNNING: dict[str, tuple[int, Callable[[World], Request], bool]] = {}


def action(weight: int = 1, many: bool = False, running: bool = False):
    """Enter a function into ACTIONS, or into RUNNING, whose actions need an account with an image."""

    def enter(function):
        (RUNNING if running else ACTIONS)[function.__name__] = weight, function, many
        return function

    return enter


def on_object(bucket: str, keys: str | list[str], send: Callable, twice: bool | None = None) -> Request:
    """A request that changes objects. In a bucket with versions it may add one each time that it is sent."""
    touches = tuple(("object", bucket, key) for key in ([keys] if isinstance(keys, str) else keys))
    return Request(touches, send, twice or (None if bucket == VERSIONED else True))


def on_upload(upload: dict, send: Callable, twice: bool = True) -> Request:
    where = upload["Bucket"], upload["Key"]
    return Request((("uploads", *where), ("object", *where)), send, None if where[0] == VERSIONED else twice)


# S3

OBJECT_FIELDS = (
    {},
    {"Metadata": {"who": "me", "empty": "", "blank": "a  b"}},
    {"Tagging": "a=1&b%20c=%C3%BC"},
    {"IfNoneMatch": "*"},
    {"StorageClass": "STANDARD_IA"},
    {
        "ContentType": "text/csv; charset=utf-8",
        "CacheControl": "no-cache",
        "ContentDisposition": 'attachment; "x"',
    },
    {"ServerSideEncryption": "AES256", "ContentEncoding": "gzip", "ContentLanguage": "de"},
    {"ACL": "public-read"},
    {"ChecksumAlgorithm": "SHA256"},
    {"WebsiteRedirectLocation": "/elsewhere"},
)
# What is set of a bucket: boto3's method without its first word, its arguments, what takes it away again.
BUCKET_SETTINGS = (
    ("bucket_acl", {"ACL": "public-read"}, None),
    ("bucket_acl", {"ACL": "private"}, None),
    (
        "bucket_cors",
        {"CORSConfiguration": {"CORSRules": [{"AllowedMethods": ["GET"], "AllowedOrigins": ["*"]}]}},
        "bucket_cors",
    ),
    (
        "bucket_encryption",
        {
            "ServerSideEncryptionConfiguration": {
                "Rules": [{"ApplyServerSideEncryptionByDefault": {"SSEAlgorithm": "AES256"}}]
            }
        },
        "bucket_encryption",
    ),
    (
        "bucket_lifecycle_configuration",
        {
            "LifecycleConfiguration": {
                "Rules": [
                    {
                        "ID": "old",
                        "Status": "Enabled",
                        "Filter": {"Prefix": "x/"},
                        "Expiration": {"Days": 900},
                    }
                ]
            }
        },
        "bucket_lifecycle",
    ),
    (
        "bucket_tagging",
        {"Tagging": {"TagSet": [{"Key": "a", "Value": "ü +"}, {"Key": "b", "Value": ""}]}},
        "bucket_tagging",
    ),
    (
        "bucket_website",
        {"WebsiteConfiguration": {"IndexDocument": {"Suffix": "index.html"}}},
        "bucket_website",
    ),
    (
        "bucket_ownership_controls",
        {"OwnershipControls": {"Rules": [{"ObjectOwnership": "ObjectWriter"}]}},
        "bucket_ownership_controls",
    ),
    (
        "public_access_block",
        {"PublicAccessBlockConfiguration": {"BlockPublicAcls": True}},
        "public_access_block",
    ),
    ("bucket_accelerate_configuration", {"AccelerateConfiguration": {"Status": "Enabled"}}, None),
)


@action(12)
def put_object(w):
    (bucket, key), body, fields = w.place(), w.body(), w.one(*OBJECT_FIELDS)
    return on_object(bucket, key, lambda: w.s3.put_object(Bucket=bucket, Key=key, Body=body, **fields))


@action(2)
def put_object_if_it_is_the_same(w):
    bucket, key = w.place()
    try:
        etag = w.s3.head_object(Bucket=bucket, Key=key)["ETag"]
    except ClientError:
        etag = '"none"'
    body = w.body()
    where = {"Bucket": bucket, "Key": key}
    send = partial(w.s3.put_object, **where, Body=body, IfMatch=etag)
    return Request((("object", bucket, key),), send, twice=None)


@action(3)
def put_by_presigned_url(w):
    (bucket, key), body = w.place(), w.body()
    url = w.one(*w.signers).generate_presigned_url("put_object", {"Bucket": bucket, "Key": key})
    return on_object(bucket, key, lambda: w.foreign.send("PUT", url, body))


@action(3)
def post_a_form(w):
    (bucket, key), body = w.place(), w.body()
    fields = w.one(
        {}, {"success_action_status": "201"}, {"Content-Type": "text/csv", "x-amz-meta-who": "form"}
    )
    post = w.one(*w.signers).generate_presigned_post(
        bucket, key, fields, [{name: fields[name]} for name in fields]
    )
    return on_object(bucket, key, lambda: w.foreign.form(post, body))


@action(3)
def copy_object(w):
    (bucket, key), source = w.place(), dict(zip(("Bucket", "Key"), w.place(), strict=True))
    if w.one(True, False) and (versions := w.versions(*source.values())):
        source["VersionId"] = w.one(*versions)["VersionId"]
    how = w.one(
        {},
        {"MetadataDirective": "REPLACE", "Metadata": {"copied": "yes"}, "ContentType": "text/plain"},
        {"TaggingDirective": "REPLACE", "Tagging": "copied=yes"},
        {"MetadataDirective": "COPY", "StorageClass": "STANDARD_IA"},
    )
    return on_object(bucket, key, lambda: w.s3.copy_object(Bucket=bucket, Key=key, CopySource=source, **how))


@action(4)
def delete_object(w):
    bucket, key = w.place()
    return on_object(bucket, key, lambda: w.s3.delete_object(Bucket=bucket, Key=key))


@action(2)
def delete_a_version(w):
    bucket, key = w.place()
    one = w.one(*w.versions(bucket, key) or [{"Key": key, "VersionId": "null"}])
    return on_object(bucket, key, lambda: w.s3.delete_object(Bucket=bucket, **one), twice=True)


@action(3)
def delete_objects(w):
    (bucket, _), keys = w.place(), w.chance.sample(KEYS, w.one(1, 2, 3))
    objects = [w.one({"Key": key}, *w.versions(bucket, key)) for key in keys]
    delete = {"Objects": objects, "Quiet": w.one(True, False)}
    return on_object(bucket, keys, lambda: w.s3.delete_objects(Bucket=bucket, Delete=delete))


# How other clients than AWS's own say it: without a namespace, in another order, with white space, with a prefix.
DELETIONS = (
    "<Delete>{0}</Delete>",
    '<?xml version="1.0" encoding="UTF-8"?>\n<Delete xmlns="http://s3.amazonaws.com/doc/2006-03-01/">\n {0}\n</Delete>\n',
    "<Delete><Quiet>true</Quiet>{0}</Delete>",
    '<s3:Delete xmlns:s3="http://s3.amazonaws.com/doc/2006-03-01/">{0}</s3:Delete>',
)


def deletion(form: str, objects: list[dict]) -> bytes:
    """The body of DeleteObjects in one of the DELETIONS."""
    prefix = "s3:" if "s3:" in form else ""
    inner = [
        "".join(f"<{prefix}{name}>{escape(text)}</{prefix}{name}>" for name, text in one.items())
        for one in objects
    ]
    return form.format("".join(f"<{prefix}Object>{one}</{prefix}Object>" for one in inner)).encode()


@action(4)
def delete_objects_as_foreign_clients_do(w):
    (bucket, _), keys = w.place(), w.chance.sample(KEYS, w.one(1, 2, 3))
    body = deletion(w.one(*DELETIONS), [w.one({"Key": key}, *w.versions(bucket, key)) for key in keys])
    return on_object(bucket, keys, lambda: w.foreign.s3("POST", bucket, query="delete=", body=body))


@action(2)
def tag_object(w):
    (bucket, key), tags = w.place(), {"TagSet": w.tags()}
    version = w.one({}, *[{"VersionId": one["VersionId"]} for one in w.versions(bucket, key)])
    where = {"Bucket": bucket, "Key": key, **version}
    return on_object(bucket, key, lambda: w.s3.put_object_tagging(**where, Tagging=tags), twice=True)


@action()
def untag_object(w):
    bucket, key = w.place()
    return on_object(bucket, key, lambda: w.s3.delete_object_tagging(Bucket=bucket, Key=key), twice=True)


@action()
def set_the_acl_of_an_object(w):
    (bucket, key), acl = w.place(), w.one("private", "public-read", "authenticated-read")
    return on_object(bucket, key, lambda: w.s3.put_object_acl(Bucket=bucket, Key=key, ACL=acl), twice=True)


@action(3)
def begin_an_upload(w):
    where, fields = dict(zip(("Bucket", "Key"), w.place(), strict=True)), w.one(*OBJECT_FIELDS[:3])
    return on_upload(where, lambda: w.s3.create_multipart_upload(**where, **fields), twice=False)


@action(4)
def upload_a_part(w):
    upload = w.upload() or {"Bucket": BUCKETS[0], "Key": "a", "UploadId": "none"}
    number = w.one(1, 2, 3)
    body = w.chance.randbytes(PART if number == 1 and w.one(True, False, False) else w.one(10, 9_000))
    return on_upload(upload, lambda: w.s3.upload_part(**upload, PartNumber=number, Body=body))


@action()
def upload_a_part_by_copy(w):
    upload = w.upload() or {"Bucket": BUCKETS[0], "Key": "a", "UploadId": "none"}
    source = dict(zip(("Bucket", "Key"), w.place(), strict=True))
    return on_upload(upload, lambda: w.s3.upload_part_copy(**upload, PartNumber=2, CopySource=source))


@action(3)
def complete_an_upload(w):
    upload = w.upload() or {"Bucket": BUCKETS[0], "Key": "a", "UploadId": "none"}
    try:
        parts = w.s3.list_parts(**upload).get("Parts", [])
    except ClientError:
        parts = []
    parts = [{"PartNumber": one["PartNumber"], "ETag": one["ETag"]} for one in parts]
    parts = w.one(parts, parts[-1:])
    return on_upload(
        upload, lambda: w.s3.complete_multipart_upload(**upload, MultipartUpload={"Parts": parts})
    )


@action()
def abort_an_upload(w):
    upload = w.upload() or {"Bucket": BUCKETS[0], "Key": "a", "UploadId": "none"}
    return on_upload(upload, lambda: w.s3.abort_multipart_upload(**upload))


@action(3)
def set_something_of_a_bucket(w):
    (bucket, _), (put, fields, _) = w.place(), w.one(*BUCKET_SETTINGS)
    return Request((("bucket", bucket),), lambda: getattr(w.s3, f"put_{put}")(Bucket=bucket, **fields))


@action()
def unset_something_of_a_bucket(w):
    (bucket, _), (_, _, delete) = w.place(), w.one(*[one for one in BUCKET_SETTINGS if one[2]])
    return Request((("bucket", bucket),), lambda: getattr(w.s3, f"delete_{delete}")(Bucket=bucket))


@action()
def set_the_policy_of_a_bucket(w):
    (bucket, _), policy = (
        w.place(),
        w.one(bucket_policy, lambda bucket: bucket_policy(bucket, "Deny", "s3:DeleteObject")),
    )
    return Request(
        (("bucket", bucket),), lambda: w.s3.put_bucket_policy(Bucket=bucket, Policy=policy(bucket))
    )


@action()
def unset_the_policy_of_a_bucket(w):
    bucket, _ = w.place()
    return Request((("bucket", bucket),), lambda: w.s3.delete_bucket_policy(Bucket=bucket))


@action(2)
def switch_versions(w):
    status = {"Status": w.one("Enabled", "Enabled", "Suspended")}
    where = {"Bucket": VERSIONED, "VersioningConfiguration": status}
    return Request((("bucket", VERSIONED),), lambda: w.s3.put_bucket_versioning(**where))


@action(2)
def create_bucket(w):
    bucket, fields = w.one(*BUCKETS), w.one({}, {"ACL": "public-read"})
    return Request((("bucket", bucket),), lambda: w.s3.create_bucket(Bucket=bucket, **WEST, **fields))


@action(2, many=True)
def remove_bucket(w):
    bucket = w.one(VERSIONED, "fleeting", "fleeting")

    def send():
        for key in KEYS:
            for one in w.versions(bucket, key):
                w.s3.delete_object(Bucket=bucket, **one)
        w.s3.delete_bucket(Bucket=bucket)

    return Request((("bucket", bucket),), send)


# Logs


def on_group(group: str, send: Callable, twice: bool = True) -> Request:
    return Request((("log group", group),), send, twice)


@action(2)
def create_log_group(w):
    group, fields = w.one(*GROUPS), w.one({}, {"tags": {"a": "1", "b": "ü"}})
    return on_group(group, lambda: w.logs.create_log_group(logGroupName=group, **fields))


@action()
def delete_log_group(w):
    group = w.one(*GROUPS)
    return on_group(group, lambda: w.logs.delete_log_group(logGroupName=group))


@action(2)
def create_log_stream(w):
    where = {"logGroupName": w.one(*GROUPS), "logStreamName": w.one(*STREAMS)}
    return on_group(where["logGroupName"], lambda: w.logs.create_log_stream(**where))


@action()
def delete_log_stream(w):
    where = {"logGroupName": w.one(*GROUPS), "logStreamName": w.one(*STREAMS)}
    return on_group(where["logGroupName"], lambda: w.logs.delete_log_stream(**where))


@action(8)
def put_log_events(w):
    where = {"logGroupName": w.one(*GROUPS), "logStreamName": w.one(*STREAMS)}
    now = round(w.began * 1000)
    events = [
        {
            "timestamp": now + w.chance.randrange(10_000),
            "message": w.one("a line", "ü ✓ \x1b[0m", "x" * 5000, "[] {}"),
        }
        for _ in range(w.one(1, 1, 5))
    ]
    touches = ("log group", where["logGroupName"]), ("metric", "logs", "lines")
    return Request(touches, lambda: w.logs.put_log_events(**where, logEvents=events), twice=False)


@action()
def set_the_retention(w):
    group, days = w.one(*GROUPS), w.one(1, 7, 400)
    return on_group(group, lambda: w.logs.put_retention_policy(logGroupName=group, retentionInDays=days))


@action()
def unset_the_retention(w):
    group = w.one(*GROUPS)
    return on_group(group, lambda: w.logs.delete_retention_policy(logGroupName=group))


@action()
def tag_log_group(w):
    group, tags = w.one(*GROUPS), {one["Key"]: one["Value"] for one in w.tags()}
    return on_group(group, lambda: w.logs.tag_log_group(logGroupName=group, tags=tags))


@action()
def untag_log_group(w):
    group = w.one(*GROUPS)
    return on_group(group, lambda: w.logs.untag_log_group(logGroupName=group, tags=["a"]))


@action()
def filter_metrics_from_a_log(w):
    group = w.one(*GROUPS)
    values = [{"metricName": "lines", "metricNamespace": "logs", "metricValue": "1"}]
    fields = {
        "logGroupName": group,
        "filterName": "lines",
        "filterPattern": "line",
        "metricTransformations": values,
    }
    return on_group(group, lambda: w.logs.put_metric_filter(**fields))


@action()
def allow_somebody_to_log(w):
    name, policy = w.one(*NAMES), w.one(*DOCUMENTS)
    fields = {"policyName": name, "policyDocument": policy}
    return Request((("log policy", name),), lambda: w.logs.put_resource_policy(**fields))


# What a client in another language, or a wrong one, may say, and what is answered 200 all the same.
ODD = (
    ("PutResourcePolicy", {"policyName": "odd", "policyDocument": "{}", "logGroupName": []}),
    ("CreateLogGroup", {"logGroupName": []}),
    ("CreateLogStream", {"logGroupName": [], "logStreamName": "s"}),
    ("DeleteLogGroup", {"logGroupName": {}}),
)


@action()
def say_something_odd(w):
    operation, fields = w.one(*ODD)
    body = json.dumps(fields).encode()
    send = partial(w.foreign.call, "logs", f"Logs_20140328.{operation}", body)
    return Request((("log policy", "odd"),), send)


# IAM


def on_role(role: str, send: Callable, *policies: str) -> Request:
    return Request((("role", role), *(("policy", policy) for policy in policies)), send)


def policy_arn(name: str) -> str:
    return f"arn:aws:iam::000000000000:policy/{name}"


@action(3)
def create_role(w):
    role = w.one(*ROLES)
    fields = w.one({}, {"Description": "ü", "MaxSessionDuration": 7200}, {"Tags": w.tags(), "Path": "/team/"})
    send = partial(w.iam.create_role, RoleName=role, AssumeRolePolicyDocument=tiny.TRUST, **fields)
    return on_role(role, send)


@action()
def update_role(w):
    role, text = w.one(*ROLES), w.one("", "another")
    return on_role(role, lambda: w.iam.update_role(RoleName=role, Description=text, MaxSessionDuration=3600))


@action()
def change_whom_a_role_trusts(w):
    role, document = w.one(*ROLES), tiny.TRUST.replace("sagemaker", w.one("sagemaker", "lambda"))
    return on_role(role, lambda: w.iam.update_assume_role_policy(RoleName=role, PolicyDocument=document))


@action(2)
def put_role_policy(w):
    role, name, document = w.one(*ROLES), w.one(*NAMES), w.one(*DOCUMENTS)
    fields = {"RoleName": role, "PolicyName": name, "PolicyDocument": document}
    return on_role(role, lambda: w.iam.put_role_policy(**fields))


@action()
def delete_role_policy(w):
    role, name = w.one(*ROLES), w.one(*NAMES)
    return on_role(role, lambda: w.iam.delete_role_policy(RoleName=role, PolicyName=name))


@action(3)
def attach_role_policy(w):
    role, name = w.one(*ROLES), w.one(*POLICIES, "")
    arn = policy_arn(name) if name else FULL_ACCESS
    request = on_role(role, lambda: w.iam.attach_role_policy(RoleName=role, PolicyArn=arn), name)
    request.twice = None  # moto counts a policy as attached each time
    return request


@action()
def detach_role_policy(w):
    role, name = w.one(*ROLES), w.one(*POLICIES)
    return on_role(role, lambda: w.iam.detach_role_policy(RoleName=role, PolicyArn=policy_arn(name)), name)


@action()
def tag_role(w):
    role, tags = w.one(*ROLES), w.tags()
    return on_role(role, lambda: w.iam.tag_role(RoleName=role, Tags=tags))


@action()
def untag_role(w):
    role = w.one(*ROLES)
    return on_role(role, lambda: w.iam.untag_role(RoleName=role, TagKeys=["a"]))


@action(2, many=True)
def remove_role(w):
    role = w.one(*ROLES)

    def send():
        for name in w.iam.list_role_policies(RoleName=role)["PolicyNames"]:
            w.iam.delete_role_policy(RoleName=role, PolicyName=name)
        for one in w.iam.list_attached_role_policies(RoleName=role)["AttachedPolicies"]:
            w.iam.detach_role_policy(RoleName=role, PolicyArn=one["PolicyArn"])
        w.iam.delete_role(RoleName=role)

    return on_role(role, send, *POLICIES)


def on_policy(name: str, send: Callable, twice: bool = True) -> Request:
    return Request((("policy", name),), send, twice)


@action(2)
def create_policy(w):
    name, document, fields = (
        w.one(*POLICIES),
        w.one(*DOCUMENTS),
        w.one({}, {"Description": "d", "Tags": w.tags()}),
    )
    return on_policy(name, lambda: w.iam.create_policy(PolicyName=name, PolicyDocument=document, **fields))


@action(2)
def create_policy_version(w):
    name, document, default = w.one(*POLICIES), w.one(*DOCUMENTS), w.one(True, False)
    fields = {"PolicyArn": policy_arn(name), "PolicyDocument": document, "SetAsDefault": default}
    return on_policy(name, lambda: w.iam.create_policy_version(**fields), twice=False)


@action()
def choose_policy_version(w):
    name, version = w.one(*POLICIES), w.one("v1", "v2")
    arn = policy_arn(name)
    return on_policy(name, lambda: w.iam.set_default_policy_version(PolicyArn=arn, VersionId=version))


@action()
def delete_policy_version(w):
    name, version = w.one(*POLICIES), w.one("v1", "v2", "v3")
    return on_policy(name, lambda: w.iam.delete_policy_version(PolicyArn=policy_arn(name), VersionId=version))


@action()
def delete_policy(w):
    name = w.one(*POLICIES)
    return on_policy(name, lambda: w.iam.delete_policy(PolicyArn=policy_arn(name)))


# ECR


def on_repository(name: str, send: Callable, twice: bool = True) -> Request:
    return Request((("repository", name),), send, twice)


def repository_arn(name: str) -> str:
    return f"arn:aws:ecr:us-west-2:000000000000:repository/{name}"


def push(w, repository: str, tag: str, content: bytes) -> tuple[int, bytes]:
    """Push an image of one small layer, as `docker push` does."""
    token = w.ecr.get_authorization_token()["authorizationData"][0]["authorizationToken"]
    headers = {"Authorization": f"Basic {token}", "Content-Type": MANIFEST}
    base, parts = f"{w.aws.endpoint_url}/v2/{repository}", []
    for blob in (b"{}", content):
        digest = f"sha256:{hashlib.sha256(blob).hexdigest()}"
        w.foreign.send("POST", f"{base}/blobs/uploads/?digest={digest}", blob, headers)
        parts.append({"digest": digest, "size": len(blob), "mediaType": "application/octet-stream"})
    manifest = {"schemaVersion": 2, "mediaType": MANIFEST, "config": parts[0], "layers": parts[1:]}
    return w.foreign.send("PUT", f"{base}/manifests/{tag}", json.dumps(manifest).encode(), headers)


@action(2)
def create_repository(w):
    name = w.one(*REPOSITORIES)
    fields = w.one({}, {"tags": w.tags(), "imageTagMutability": "IMMUTABLE"})
    return on_repository(name, lambda: w.ecr.create_repository(repositoryName=name, **fields))


@action()
def delete_repository(w):
    name, force = w.one(*REPOSITORIES), w.one(True, False)
    return on_repository(name, lambda: w.ecr.delete_repository(repositoryName=name, force=force))


@action(3)
def push_image(w):
    name, tag, content = w.one(*REPOSITORIES), w.one("latest", "v1"), w.chance.randbytes(20)
    return on_repository(name, lambda: push(w, name, tag, content))


@action()
def tag_image_anew(w):
    name, tag = w.one(*REPOSITORIES), w.one("v1", "v2")

    def send():
        asked = w.ecr.batch_get_image(repositoryName=name, imageIds=[{"imageTag": "latest"}])["images"]
        for image in asked:
            w.ecr.put_image(repositoryName=name, imageManifest=image["imageManifest"], imageTag=tag)

    return on_repository(name, send)


@action()
def delete_image(w):
    name, tag = w.one(*REPOSITORIES), w.one("latest", "v1")
    fields = {"repositoryName": name, "imageIds": [{"imageTag": tag}]}
    return on_repository(name, lambda: w.ecr.batch_delete_image(**fields))


@action()
def set_something_of_a_repository(w):
    name = w.one(*REPOSITORIES)
    expire = {"tagStatus": "any", "countType": "imageCountMoreThan", "countNumber": 900}
    rules = {"rules": [{"rulePriority": 1, "selection": expire, "action": {"type": "expire"}}]}
    operation, fields = w.one(
        ("put_lifecycle_policy", {"lifecyclePolicyText": json.dumps(rules)}),
        ("set_repository_policy", {"policyText": json.dumps({"Version": "2012-10-17", "Statement": []})}),
        ("put_image_tag_mutability", {"imageTagMutability": w.one("MUTABLE", "IMMUTABLE")}),
        ("put_image_scanning_configuration", {"imageScanningConfiguration": {"scanOnPush": True}}),
        ("delete_lifecycle_policy", {}),
        ("delete_repository_policy", {}),
    )
    return on_repository(name, lambda: getattr(w.ecr, operation)(repositoryName=name, **fields))


@action()
def tag_repository(w):
    name, tags = w.one(*REPOSITORIES), w.tags()
    return on_repository(name, lambda: w.ecr.tag_resource(resourceArn=repository_arn(name), tags=tags))


# CloudWatch


@action(3)
def put_metric_data(w):
    name, dimensions = w.one(*NAMES), w.one([], [{"Name": "host", "Value": "algo-1"}])
    at = NOON + 60 * w.chance.randrange(3)
    point = {
        "MetricName": name,
        "Dimensions": dimensions,
        "Timestamp": at,
        "Value": w.chance.random(),
        "Unit": "Count",
    }
    touches = ("metric", "app", name, *(one["Value"] for one in dimensions))
    send = partial(w.cloudwatch.put_metric_data, Namespace="app", MetricData=[point])
    return Request((touches,), send, twice=False)


@action(2)
def put_alarm(w):
    name, threshold = w.one(*NAMES), w.one(1.0, 0.1)
    fields = {
        "MetricName": "first",
        "Namespace": "app",
        "Statistic": "Average",
        "Period": 60,
        "EvaluationPeriods": 1,
    }
    fields |= {"ComparisonOperator": "GreaterThanThreshold", "Threshold": threshold, "AlarmDescription": "ü"}
    fields |= w.one({}, {"Tags": w.tags()})
    return Request((("alarm", name),), lambda: w.cloudwatch.put_metric_alarm(AlarmName=name, **fields))


@action()
def set_the_state_of_an_alarm(w):
    name, state = w.one(*NAMES), w.one("OK", "ALARM")
    fields = {"AlarmName": name, "StateValue": state, "StateReason": "by hand", "StateReasonData": "{}"}
    return Request((("alarm", name),), lambda: w.cloudwatch.set_alarm_state(**fields))


@action()
def delete_alarm(w):
    name = w.one(*NAMES)
    return Request((("alarm", name),), lambda: w.cloudwatch.delete_alarms(AlarmNames=[name]))


@action()
def put_dashboard(w):
    name, body = w.one(*NAMES), json.dumps({"widgets": []})
    send = partial(w.cloudwatch.put_dashboard, DashboardName=name, DashboardBody=body)
    return Request((("dashboard", name),), send)


@action()
def delete_dashboard(w):
    name = w.one(*NAMES)
    return Request((("dashboard", name),), lambda: w.cloudwatch.delete_dashboards(DashboardNames=[name]))


# SageMaker, short of what runs programs


def sagemaker_arn(kind: str, name: str) -> str:
    return f"arn:aws:sagemaker:us-west-2:000000000000:{kind}/{name}"


@action(3)
def create_model(w):
    name, environment = w.one(*NAMES), w.one({}, {"A": "ü", "B": "2"})
    container = {
        "Image": f"{w.aws.endpoint_url.removeprefix('http://')}/images:latest",
        "Environment": environment,
    }
    fields = {"ModelName": name, "PrimaryContainer": container, "Tags": w.tags()}
    role = f"arn:aws:iam::000000000000:role/{w.one(*ROLES)}"
    return Request((("Model", name),), lambda: w.sagemaker.create_model(**fields, ExecutionRoleArn=role))


@action()
def delete_model(w):
    name = w.one(*NAMES)
    return Request((("Model", name),), lambda: w.sagemaker.delete_model(ModelName=name))


@action(2)
def create_endpoint_config(w):
    name, model = w.one(*NAMES), w.one(*NAMES)
    variant = {
        "VariantName": "v",
        "ModelName": model,
        "InstanceType": "ml.m5.large",
        "InitialInstanceCount": 1,
    }
    fields = {"EndpointConfigName": name, "ProductionVariants": [variant], "Tags": w.tags()}
    return Request((("EndpointConfig", name),), lambda: w.sagemaker.create_endpoint_config(**fields))


@action()
def delete_endpoint_config(w):
    name = w.one(*NAMES)
    send = partial(w.sagemaker.delete_endpoint_config, EndpointConfigName=name)
    return Request((("EndpointConfig", name),), send)


@action(2)
def tag_something_of_sagemaker(w):
    kind, name, tags = w.one(*w.kinds), w.one(*NAMES), w.tags()
    arn = sagemaker_arn(KINDS[kind], name)
    return Request(((kind, name),), lambda: w.sagemaker.add_tags(ResourceArn=arn, Tags=tags))


@action()
def untag_something_of_sagemaker(w):
    kind, name = w.one(*w.kinds), w.one(*NAMES)
    arn = sagemaker_arn(KINDS[kind], name)
    return Request(((kind, name),), lambda: w.sagemaker.delete_tags(ResourceArn=arn, TagKeys=["a"]))


# What runs: each waits until it does, or has ended, so that what is seen of it next is its last state. None is in
# flight at a kill: test_kill.py has that.


@action(3, running=True)
def run_a_training_job(w):
    job = w.account.training_request(w.one(*NAMES), w.data, model=w.one("a", "ü")) | {"Tags": w.tags()}
    return running(w, "TrainingJob", job)


@action(2, running=True)
def run_a_transform_job(w):
    source = {"S3DataSource": {"S3DataType": "S3Prefix", "S3Uri": w.data}}
    job = {
        "TransformJobName": w.one(*NAMES),
        "ModelName": w.model,
        "TransformInput": {"DataSource": source, "ContentType": "text/csv", "SplitType": "Line"},
        "TransformOutput": {"S3OutputPath": f"s3://{w.account.bucket}/transformed", "AssembleWith": "Line"},
        "TransformResources": {"InstanceType": "ml.m5.large", "InstanceCount": 1},
        "Tags": w.tags(),
    }
    return running(w, "TransformJob", job)


@action(2, running=True)
def run_a_tuning_job(w):
    definition = w.account.training_request("x", w.data)
    del definition["TrainingJobName"], definition["HyperParameters"]
    definition["AlgorithmSpecification"]["MetricDefinitions"] = [{"Name": "loss", "Regex": "loss=(.*);"}]
    ranges = [{"Name": "x", "MinValue": "0", "MaxValue": "1"}]
    job = {
        "HyperParameterTuningJobName": w.one(*NAMES),
        "HyperParameterTuningJobConfig": {
            "Strategy": "Random",
            "HyperParameterTuningJobObjective": {"Type": "Minimize", "MetricName": "loss"},
            "ResourceLimits": {"MaxNumberOfTrainingJobs": 2, "MaxParallelTrainingJobs": 2},
            "ParameterRanges": {"ContinuousParameterRanges": ranges},
        },
        "TrainingJobDefinition": definition,
        "Tags": w.tags(),
    }
    return running(w, "HyperParameterTuningJob", job)


@action(2, running=True)
def create_an_endpoint(w):
    return running(
        w, "Endpoint", {"EndpointName": w.one(*NAMES), "EndpointConfigName": w.config, "Tags": w.tags()}
    )


@action(2, running=True)
def update_an_endpoint(w):
    name, count = w.one(*NAMES), w.one(1, 2)
    wanted = [{"VariantName": "v0", "DesiredInstanceCount": count, "DesiredWeight": w.one(1.0, 2.0)}]

    def send():
        w.sagemaker.update_endpoint_weights_and_capacities(
            EndpointName=name, DesiredWeightsAndCapacities=wanted
        )
        w.settled("Endpoint", name)

    return Request((("Endpoint", name),), send)


@action(2, running=True)
def delete_an_endpoint(w):
    name = w.one(*NAMES)

    def send():
        w.sagemaker.delete_endpoint(EndpointName=name)
        tiny.wait_until(lambda: not w.sagemaker.list_endpoints(NameContains=name)["Endpoints"])

    return Request((("Endpoint", name),), send)


def running(w, kind: str, fields: dict) -> Request:
    name = fields[f"{kind}Name"]

    def send():
        getattr(w.sagemaker, f"create_{snake(kind)}")(**fields)
        w.settled(kind, name)

    return Request(((kind, name),), send)


def snake(kind: str) -> str:
    """A resource's kind as boto3's methods have it."""
    return re.sub(r"(?<!^)(?=[A-Z])", "_", kind).lower()


# What each history begins with, so that most requests find something.
OPENING = (
    *(lambda w, bucket=bucket: w.s3.create_bucket(Bucket=bucket, **WEST) for bucket in BUCKETS),
    *(lambda w, group=group: w.logs.create_log_group(logGroupName=group) for group in GROUPS),
    *(
        lambda w, group=group: w.logs.create_log_stream(logGroupName=group, logStreamName="s/1")
        for group in GROUPS
    ),
    lambda w: w.iam.create_role(RoleName="walker", AssumeRolePolicyDocument=tiny.TRUST),
    lambda w: w.iam.create_policy(PolicyName="readers", PolicyDocument=DOCUMENTS[0]),
    lambda w: w.ecr.create_repository(repositoryName="images"),
    lambda w: push(w, "images", "latest", b"layer"),
)
