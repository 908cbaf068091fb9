"""What moto knows, kept in the database: what there is, not what was asked for, so that it grows and starts with what is there.

    s3 bucket    BUCKET            a bucket without its objects and uploads, and its tags
    s3 object    BUCKET/KEY        the versions of a key, with the tags of each
    s3 upload    BUCKET/ID         a multipart upload that goes on, without its parts
    s3 part      BUCKET/ID/NUMBER
    log stream   ARN
    metrics      REGION/NUMBER     the data of one PutMetricData
    moto         SERVICE/REGION    the rest of a service: roles and policies, repositories, log groups, alarms
    stacks       SERVICE/REGION    CloudFormation's: read when it is first asked for, as to import it takes seconds

The values are moto's own objects, pickled, as their makers foresee; what reads them takes no classes but moto's, and the
home they lie in is its owner's alone. What cannot be read is put aside, by name, and the rest comes back.
"""

import enum
import io
import pickle
import time
from collections import defaultdict
from collections.abc import Callable, Iterator

import moto.core.common_models
import moto.iam.models
import moto.s3.models
import moto.s3.utils
from moto.backends import get_backend

from localaws.state import locate
from localaws.state.database import Database

from . import bodies, streams

SERVICES = ("s3", "iam", "ecr", "logs", "cloudwatch")
LATE = {"cloudformation": "stacks"}  # the kinds of entries of services that are read late
GLOBAL = {"s3", "iam", "sts"}  # whose one backend moto calls "aws"
METRIC_DAYS = 15  # as long as CloudWatch keeps the data of a minute
# Kept as entries of their own, or no state.
LEFT_OUT = {
    "buckets",
    "tagger of s3",
    "aws_managed_policies",
    "account_summary",
    "registry_scanning_configuration_update_lock",
    "metric_data",
    "paged_metric_data",
    "kept",
}
SAFE = {
    "builtins": {"set", "frozenset", "bytearray", "str"},
    "collections": {"OrderedDict", "defaultdict", "deque", "Counter"},
    "datetime": {"datetime", "date", "time", "timedelta", "timezone"},
    "re": {"_compile"},
    __name__: {"_aws_policy"},
    "requests.structures": {"CaseInsensitiveDict"},
}

_touched: set[tuple[int, str]] = set()  # (id of a bucket's keys, key) since the request that runs began


def _noting(method: Callable) -> Callable:
    """A method of moto's that changes the versions of a key, which notes the key."""

    def noted(keys, key, *rest):
        _touched.add((id(keys), key))
        return method(keys, key, *rest)

    return noted


# moto's own keeps every object that was ever made, for its reset in tests: a server would grow for ever.
moto.core.common_models.BaseModel.__new__ = lambda cls, *_, **__: object.__new__(cls)
Keys = moto.s3.utils._VersionedKeyStore
Keys.__setitem__, Keys.setlist, Keys.pop = map(_noting, (Keys.__setitem__, Keys.setlist, Keys.pop))


def backend(service: str, region: str = "aws"):
    """moto's own state of a service."""
    return get_backend(service)[locate.ACCOUNT]["aws" if service in GLOBAL else region]


class Kept:
    """What the database has of moto's state, and the way between the two."""

    def __init__(self, database: Database):
        self.database = streams.database = database
        # kind -> name -> what is kept, of what is written once: uploads, parts, streams
        self._there: dict[str, dict[str, object]] = defaultdict(dict)
        self._waiting = set(LATE)

    def keep(self, service: str, region: str, operation: str, bucket: str, key: str) -> None:
        """Write what a request has changed. Raises OSError and sqlite3.Error where that is impossible."""
        with self.database.transaction():
            if service == "s3":
                self._keep_s3(bucket, key)
            elif operation == "PutMetricData":
                metrics = backend(service, region)
                new = metrics.metric_data[getattr(metrics, "kept", 0) :]
                self._put("metrics", f"{region}/{time.time_ns()}", new)
                metrics.kept = len(metrics.metric_data)
            elif operation == "PutLogEvents":
                for stream in streams.written:
                    self._put("log stream", stream.arn, _without(stream, "log_group"))
            else:
                self._keep_rest(service, region)
                if service == "logs":
                    self._keep_streams(region)
        _touched.clear()
        streams.written.clear()

    def _keep_s3(self, name: str, key: str) -> None:
        s3 = backend("s3")
        bucket = s3.buckets.get(name)
        if bucket is None:
            for kind in ("object", "upload", "part"):
                self.database.delete_below(f"s3 {kind}", f"{name}/")
            self.database.delete("s3 bucket", name)
            self._keep_rest("s3", "aws")
            return
        if not key:
            tags = s3.tagger.tags.get(bucket.arn)
            self._put("s3 bucket", name, (_without(bucket, "keys", "multiparts"), tags))
            self._keep_rest("s3", "aws")
        for one in {one for keys, one in _touched if keys == id(bucket.keys)} | ({key} - {""}):
            if versions := bucket.keys.getlist(one):
                tags = {arn: s3.tagger.tags.get(arn) for arn in map(_arn, versions)}
                self._put("s3 object", f"{name}/{one}", (versions, tags))
            else:
                self.database.delete("s3 object", f"{name}/{one}")
        uploads = {f"{name}/{one}": upload for one, upload in bucket.multiparts.items()}
        parts = {f"{one}/{n}": part for one, upload in uploads.items() for n, part in upload.parts.items()}
        self._keep_same("s3 upload", f"{name}/", uploads, "parts", "partlist")
        self._keep_same("s3 part", f"{name}/", parts)

    def _keep_streams(self, region: str) -> None:
        groups = backend("logs", region).groups.values()
        there = {stream.arn: stream for group in groups for stream in group.streams.values()}
        for gone in self._keep_same("log stream", f"arn:aws:logs:{region}:", there, "log_group"):
            gone.forget()

    def _keep_same(self, kind: str, prefix: str, there: dict[str, object], *left_out: str) -> list:
        """Write what is new below a prefix, as a whole or what is not left out; return what is gone, taken out."""
        kept = self._there[kind]
        for name, one in there.items():
            if kept.get(name) is not one:
                self._put(kind, name, _without(one, *left_out) if left_out else one)
                kept[name] = one
        gone = [name for name in kept if name.startswith(prefix) and name not in there]
        for name in gone:
            self.database.delete(kind, name)
        return [kept.pop(name) for name in gone]

    def _keep_rest(self, service: str, region: str) -> None:
        state = {
            name: value
            for name, value in vars(backend(service, region)).items()
            if not {name, f"{name} of {service}"} & LEFT_OUT
        }
        if service == "iam":
            aws = moto.iam.models.AWSManagedPolicy
            state["managed_policies"] = {
                arn: policy for arn, policy in state["managed_policies"].items() if type(policy) is not aws
            }
        self._put(LATE.get(service, "moto"), f"{service}/{'aws' if service in GLOBAL else region}", state)

    def _put(self, kind: str, name: str, value) -> None:
        self.database.put(kind, name, pickle.dumps(value, 5))

    def load(self, progress: Callable[[int], None] = lambda done: None) -> None:
        """Forget what moto knows, and put back what the database has; tell `progress` how many entries that were."""
        for service in SERVICES:
            get_backend(service).clear()
        moto.s3.models.s3_backends.bucket_accounts.clear()
        self._there.clear()
        done = 0
        for kind, put_back in (
            ("moto", self._load_rest),
            ("s3 bucket", self._load_bucket),
            ("s3 object", self._load_object),
            ("s3 upload", self._load_upload),
            ("s3 part", self._load_part),
            ("log stream", self._load_stream),
            ("metrics", self._load_metrics),
        ):
            for _ in self._entries(kind, put_back):
                done += 1
                progress(done)
        _touched.clear()
        streams.written.clear()

    def take_up(self, service: str) -> bool:
        """Put back what the database has of a service that is read late; whether this was the first time."""
        if service not in self._waiting:
            return False
        self._waiting.remove(service)
        return bool([*self._entries(LATE[service], self._load_rest)])

    def _entries(self, kind: str, put_back: Callable) -> Iterator[str]:
        for name, value in self.database.entries(kind):
            try:
                put_back(name, _Unpickler(io.BytesIO(value)).load())
            except Exception as error:  # whatever damaged bytes make of moto's objects
                self.database.put_aside(kind, name, value, f"{type(error).__name__}: {error}")
            yield name

    def _load_rest(self, name: str, state: dict) -> None:
        service, _, region = name.partition("/")
        there = backend(service, region)
        if service == "iam":
            state["managed_policies"] = there.managed_policies | state["managed_policies"]
        for group in state.get("groups", {}).values() if service == "logs" else ():
            group.streams = {}
        vars(there).update(state)

    def _load_bucket(self, name: str, value: tuple) -> None:
        state, tags = value
        bucket = self._bucket(name, state["region_name"])
        vars(bucket).update(state)
        if tags is not None:
            backend("s3").tagger.tags[bucket.arn] = tags

    def _bucket(self, name: str, region: str = locate.REGION):
        """A bucket; one whose own entry is lost is made anew, for what is in it."""
        s3 = backend("s3")
        return s3.buckets.get(name) or s3.create_bucket(name, region)

    def _load_object(self, name: str, value: tuple) -> None:
        (versions, tags), (bucket, _, key) = value, name.partition("/")
        whole = [version for version in versions if self._is_whole(name, version)]
        if whole:
            dict.__setitem__(self._bucket(bucket).keys, key, whole)
        backend("s3").tagger.tags.update({arn: one for arn, one in tags.items() if one is not None})
        if whole != versions:
            self.database.delete("s3 object", name)
            if whole:
                self._put("s3 object", name, (whole, tags))

    def _is_whole(self, name: str, version) -> bool:
        """Whether the body of a version is there as it was stored; tells where it is not."""
        if isinstance(version, moto.s3.models.FakeKey):
            for digest, _, _ in version.value.pieces:
                try:
                    bodies.verified(digest)
                    bodies.named.add(digest)
                except bodies.DamagedBody as error:
                    self.database.tell(f"s3 object {name}: {error}")
                    return False
        return True

    def _load_upload(self, name: str, state: dict) -> None:
        bucket, _, number = name.partition("/")
        upload = object.__new__(moto.s3.models.FakeMultipart)
        vars(upload).update(state, parts={}, partlist=[])
        self._bucket(bucket).multiparts[number] = self._there["s3 upload"][name] = upload

    def _load_part(self, name: str, part) -> None:
        bucket, number, of = name.split("/")
        if self._is_whole(name, part):
            upload = backend("s3").buckets[bucket].multiparts[number]
            upload.parts[int(of)] = self._there["s3 part"][name] = part
            upload.partlist = sorted(upload.parts)

    def _load_stream(self, arn: str, state: dict) -> None:
        stream = object.__new__(streams.Stream)
        region, group = arn.split(":")[3], arn.split(":")[6]
        vars(stream).update(state, log_group=backend("logs", region).groups[group])
        stream.log_group.streams[stream.log_stream_name] = self._there["log stream"][arn] = stream

    def _load_metrics(self, name: str, data: list) -> None:
        region, _, written = name.partition("/")
        if int(written) / 1e9 < time.time() - METRIC_DAYS * 86400:
            self.database.delete("metrics", name)
            return
        metrics = backend("cloudwatch", region)
        metrics.metric_data += data
        metrics.kept = len(metrics.metric_data)


def _without(value, *names: str) -> dict:
    return {name: one for name, one in vars(value).items() if name not in names}


def _arn(version) -> str:
    """What the tags of a version, or of a delete marker, are found by."""
    return version.arn if hasattr(version, "arn") else ""


def _aws_policy(arn: str, attachments: int):
    """AWS's own policy, of which moto makes one for all, with the number of its attachments."""
    policy = backend("iam").managed_policies[arn]
    policy.attachment_count = attachments
    return policy


moto.iam.models.AWSManagedPolicy.__reduce__ = lambda policy: (
    _aws_policy,
    (policy.arn, policy.attachment_count),
)


def _member(kind: type, name: str):
    """A member of an enumeration, which Python up to 3.11.3 pickles as what `getattr` gives for its name."""
    if not issubclass(kind, enum.Enum):
        raise pickle.UnpicklingError(f"it asks for {name} of {kind}")
    return kind[name]


class _Unpickler(pickle.Unpickler):
    """Reads moto's own objects, and knows nothing else that bytes could name."""

    def find_class(self, module: str, name: str):
        if (module, name) == ("builtins", "getattr"):
            return _member
        if name in SAFE.get(module, ()):
            return super().find_class(module, name)
        if module.startswith(("moto.", "localaws.moto.")) and "." not in name:
            found = super().find_class(module, name)
            if isinstance(found, type):
                return found
        raise pickle.UnpicklingError(f"it names {module}.{name}")
