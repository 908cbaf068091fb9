"""Random histories of requests, kill -9 at a random moment, `up`: what could be seen before can be seen again.

A history is a sequence of actions.ACTIONS, by up to four clients at once, against a localaws of its own that is killed
two or three times, while up to four more requests are in flight. What was acknowledged must be there. What was not
answered must have happened or not, and nothing between. `HISTORY_SEED=… pytest …` runs one history again (threads may
meet otherwise). CASES are known ways to lose something, one by one.
"""

import json
import os
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import pytest
import tiny
from actions import (
    DELETIONS,
    DOCUMENTS,
    OPENING,
    PART,
    WEST,
    Request,
    World,
    bucket_policy,
    deletion,
)
from observed import first_difference, observe, timeless

PLAIN, SLOW = 10, 200
RUN = 5  # each fifth has jobs and endpoints, which cost seconds
NOW = round(time.time() * 1000)
NUMBERS = [*range(PLAIN), *(pytest.param(number, marks=pytest.mark.slow) for number in range(PLAIN, SLOW))]


@pytest.mark.parametrize("number", [0] if "HISTORY_SEED" in os.environ else NUMBERS)
def test_what_could_be_seen_before_a_kill_can_be_seen_after_it(fresh, tmp_path, number):
    seed = int(os.environ.get("HISTORY_SEED", number))
    print(f"HISTORY_SEED={seed} runs this history again")
    fresh.up()
    world = World(fresh, seed)
    for act in OPENING:
        act(world)
    if number % RUN == 0:
        world.run_things(tmp_path)
    for kill in range(world.chance.choice((2, 2, 3))):
        converse(world, world.chance.randrange(8, 14))
        before = observe(world.clients)
        flying = world.requests(world.chance.randrange(5))
        answers = kill_in_flight(world, flying)
        world.up()
        after = observe(world.clients)
        problem = compare(world, before, after, flying, answers)
        assert not problem, f"seed {seed}, kill {kill + 1}: {problem}"


def converse(world: World, rounds: int) -> None:
    """Send requests, up to four at a time."""
    with ThreadPoolExecutor(4) as clients:
        for _ in range(rounds):
            requests = world.requests(world.chance.choice((1, 2, 4, 8)), many=True)
            list(clients.map(Request.answer, requests))
            world.told += requests


def kill_in_flight(world: World, flying: list[Request]) -> list[bool | None]:
    """Kill the server while requests are in flight, or a moment before or after; what was answered to each."""
    answers: list[bool | None] = [None] * len(flying)
    begin = threading.Barrier(len(flying) + 1)

    def send(place: int) -> None:
        begin.wait()
        answers[place] = flying[place].answer()

    threads = [threading.Thread(target=send, args=(place,)) for place in range(len(flying))]
    for thread in threads:
        thread.start()
    begin.wait()
    time.sleep(world.chance.uniform(0, 0.03))  # the moment is what is random here: nothing is waited for
    world.kill()
    for thread in threads:
        thread.join()
    world.told += flying
    return answers


def compare(world: World, before: dict, after: dict, flying: list[Request], answers: list) -> str | None:
    """The first thing that is not as it must be, in words."""
    in_flight = {resource for request in flying for resource in request.touches}
    known = [*before, *(resource for resource in after if resource not in before)]
    for resource in known:
        if resource not in in_flight and (difference := one_difference(before, after, [resource])):
            asked = [request.name for request in world.told if resource in request.touches]
            return f"{difference}\n  asked of it: {', '.join(asked[-20:])}"

    happened = []
    for request, answer in zip(flying, answers, strict=True):
        difference = one_difference(before, after, request.touches)
        if difference and answer is False:
            return f"{request.name} was refused and happened: {difference}"
        if answer and request.twice is False and not difference:
            return f"{request.name} was acknowledged and left no trace in {request.touches}"
        if request.twice and (answer or difference):
            happened.append(request)
    # What is there in part, or not at all, another sending of the same request makes whole, and then differs.
    for request in happened:
        request.answer()
    again = observe(world.clients) if happened else {}
    for request in happened:
        if difference := one_difference(timeless_keys(after), timeless_keys(again), request.touches):
            return f"{request.name}, which was in flight, did not happen in whole (after: sent again): {difference}"
    return None


def timeless_keys(seen: dict) -> dict:
    return {resource: timeless(sight) for resource, sight in seen.items()}


def one_difference(before: dict, after: dict, resources) -> str | None:
    picked = [{one: seen[one] for one in resources if one in seen} for seen in (before, after)]
    return first_difference(*picked)


# Known ways to lose something. Each case is a function of the world and of a name of its own.


def presigned_post_then_delete(w, name):
    w.foreign.form(w.s3.generate_presigned_post(name, "a"), b"posted")
    w.s3.delete_object(Bucket=name, Key="a")


def presigned_post_then_put(w, name):
    w.foreign.form(w.s3.generate_presigned_post(name, "a"), b"posted")
    w.s3.put_object(Bucket=name, Key="a", Body=b"put")


def put_then_presigned_post(w, name):
    w.s3.put_object(Bucket=name, Key="a", Body=b"put")
    w.foreign.form(w.s3.generate_presigned_post(name, "a"), b"posted")


def put_then_presigned_post_then_delete_objects(w, name):
    put_then_presigned_post(w, name)
    w.s3.delete_objects(Bucket=name, Delete={"Objects": [{"Key": "a"}]})


def delete_objects_by(form):
    def case(w, name):
        for key in ("a b", "c"):
            w.s3.put_object(Bucket=name, Key=key, Body=b"put")
        w.foreign.s3("POST", name, query="delete=", body=deletion(form, [{"Key": "a b"}]))

    return case


def delete_objects_of_a_version_that_is_not_there(w, name):
    w.s3.put_object(Bucket=name, Key="a", Body=b"put")
    w.s3.delete_objects(Bucket=name, Delete={"Objects": [{"Key": "a", "VersionId": "none"}]})


def delete_of_a_version_that_is_not_there(w, name):
    w.s3.put_object(Bucket=name, Key="a", Body=b"put")
    w.foreign.s3("DELETE", name, "a", query="versionId=none")


def delete_objects_that_the_policy_denies(w, name):
    w.s3.put_object(Bucket=name, Key="a", Body=b"put")
    w.s3.put_bucket_policy(Bucket=name, Policy=bucket_policy(name, "Deny", "s3:DeleteObject"))
    w.s3.delete_objects(Bucket=name, Delete={"Objects": [{"Key": "a"}]})


def put_without_a_signature_after_a_public_acl(w, name):
    w.s3.put_object(Bucket=name, Key="a", Body=b"put", ACL="public-read")
    w.foreign.send("PUT", w.s3.generate_presigned_url("put_object", {"Bucket": name, "Key": "a"}), b"again")


def copy_whose_source_goes(w, name):
    w.s3.put_object(Bucket=name, Key="a", Body=b"put", Metadata={"a": "b"}, Tagging="a=b")
    w.s3.copy_object(Bucket=name, Key="b", CopySource={"Bucket": name, "Key": "a"})
    w.s3.delete_object(Bucket=name, Key="a")


def copy_between_buckets_whose_source_changes(w, name):
    w.s3.create_bucket(Bucket=f"{name}.2", **WEST)
    w.s3.put_object(Bucket=name, Key="a", Body=b"one")
    w.s3.copy_object(Bucket=f"{name}.2", Key="b", CopySource={"Bucket": name, "Key": "a"})
    w.s3.put_object(Bucket=name, Key="a", Body=b"two")
    w.s3.copy_object(Bucket=f"{name}.2", Key="c", CopySource=f"/{name}/a")


def part_by_copy_whose_source_goes(w, name):
    w.s3.put_object(Bucket=name, Key="a", Body=b"one" * 9000)
    upload = {
        "Bucket": name,
        "Key": "b",
        "UploadId": w.s3.create_multipart_upload(Bucket=name, Key="b")["UploadId"],
    }
    w.s3.upload_part_copy(
        **upload, PartNumber=1, CopySource={"Bucket": name, "Key": "a"}, CopySourceRange="bytes=0-9"
    )
    w.s3.delete_object(Bucket=name, Key="a")


def two_uploads_of_a_key_completed_the_other_way_round(w, name):
    uploads = []
    for letter in (b"1", b"2"):
        upload = {"Bucket": name, "Key": "a"}
        upload["UploadId"] = w.s3.create_multipart_upload(**upload, Metadata={"which": letter.decode()})[
            "UploadId"
        ]
        etag = w.s3.upload_part(**upload, PartNumber=1, Body=letter * 9000)["ETag"]
        uploads.append((upload, {"Parts": [{"PartNumber": 1, "ETag": etag}]}))
    for upload, parts in uploads[::-1]:
        w.s3.complete_multipart_upload(**upload, MultipartUpload=parts)


def upload_of_two_parts_left_open(w, name):
    upload = {"Bucket": name, "Key": "a"}
    upload["UploadId"] = w.s3.create_multipart_upload(**upload, Tagging="a=b")["UploadId"]
    for number, body in ((1, b"1" * PART), (2, b"2"), (2, b"two")):
        w.s3.upload_part(**upload, PartNumber=number, Body=body)


def bucket_deleted_and_created_anew(w, name):
    w.s3.put_bucket_versioning(Bucket=name, VersioningConfiguration={"Status": "Enabled"})
    w.s3.put_bucket_tagging(Bucket=name, Tagging={"TagSet": [{"Key": "a", "Value": "1"}]})
    w.s3.delete_bucket(Bucket=name)
    w.s3.create_bucket(Bucket=name, **WEST)
    w.s3.put_object(Bucket=name, Key="a", Body=b"put")


def versions_markers_and_a_deleted_version(w, name):
    w.s3.put_bucket_versioning(Bucket=name, VersioningConfiguration={"Status": "Enabled"})
    ids = [w.s3.put_object(Bucket=name, Key="a", Body=bytes([n]) * 9000)["VersionId"] for n in range(3)]
    w.s3.delete_object(Bucket=name, Key="a")
    w.s3.delete_object(Bucket=name, Key="a", VersionId=ids[1])
    w.s3.put_bucket_versioning(Bucket=name, VersioningConfiguration={"Status": "Suspended"})
    w.s3.put_object(Bucket=name, Key="a", Body=b"null")


def put_in_chunks_as_older_clients_do(w, name):
    headers = {
        "x_amz_content_sha256": "STREAMING-UNSIGNED-PAYLOAD-TRAILER",
        "Content_Encoding": "aws-chunked",
    }
    headers |= {"x_amz_decoded_content_length": "5", "x_amz_trailer": "x-amz-checksum-crc32"}
    body = b"5\r\nhello\r\n0\r\nx-amz-checksum-crc32:NhCmhg==\r\n\r\n"
    w.foreign.s3("PUT", name, "a", body=body, **headers)


def logs(w, name, *batches, stream="s"):
    for batch in batches:
        events = [{"timestamp": round(w.began * 1000), "message": line} for line in batch]
        w.logs.put_log_events(logGroupName=name, logStreamName=stream, logEvents=events)


def log_events_of_many_requests(w, name):
    w.logs.create_log_stream(logGroupName=name, logStreamName="s")
    for batch in (["a"], ["b", "c"], ["d"]):
        time.sleep(0.005)  # so that the requests have times of their own
        logs(w, name, batch)


def log_events_of_requests_whose_times_go_back(w, name):
    w.logs.create_log_stream(logGroupName=name, logStreamName="s")
    for at in (NOW, NOW - 1000):
        event = {"timestamp": at, "message": "a line"}
        w.logs.put_log_events(logGroupName=name, logStreamName="s", logEvents=[event])


def log_events_around_a_metric_filter(w, name):
    w.logs.create_log_stream(logGroupName=name, logStreamName="s")
    logs(w, name, ["a"])
    values = [{"metricName": name, "metricNamespace": "logs", "metricValue": "1"}]
    w.logs.put_metric_filter(
        logGroupName=name, filterName="f", filterPattern="b", metricTransformations=values
    )
    logs(w, name, ["b"])


def log_group_deleted_and_created_anew(w, name):
    w.logs.create_log_stream(logGroupName=name, logStreamName="s")
    w.logs.put_retention_policy(logGroupName=name, retentionInDays=7)
    w.logs.tag_log_group(logGroupName=name, tags={"a": "1"})
    w.logs.delete_log_group(logGroupName=name)
    w.logs.create_log_group(logGroupName=name)


def log_stream_deleted_and_created_anew(w, name):
    for _ in range(2):
        w.logs.create_log_stream(logGroupName=name, logStreamName="s")
        logs(w, name, ["a"])
        w.logs.delete_log_stream(logGroupName=name, logStreamName="s")
    w.logs.create_log_stream(logGroupName=name, logStreamName="s")


def role_deleted_and_created_anew(w, name):
    for _ in range(2):
        w.iam.create_role(RoleName=name, AssumeRolePolicyDocument=tiny.TRUST)
        w.iam.put_role_policy(RoleName=name, PolicyName="p", PolicyDocument=DOCUMENTS[0])
        w.iam.delete_role_policy(RoleName=name, PolicyName="p")
        w.iam.delete_role(RoleName=name)
    w.iam.create_role(RoleName=name, AssumeRolePolicyDocument=tiny.TRUST, Description="anew")


def user_with_a_key(w, name):
    w.iam.create_user(UserName=name)
    w.iam.create_access_key(UserName=name)


def dashboard(w, name):
    w.cloudwatch.put_dashboard(DashboardName=name, DashboardBody="{}")


def metric_without_a_time(w, name):
    w.cloudwatch.put_metric_data(Namespace="now", MetricData=[{"MetricName": name, "Value": 1.0}])


CASES = {
    case.__name__.replace("_", "-"): case
    for case in (
        presigned_post_then_delete,
        presigned_post_then_put,
        put_then_presigned_post,
        put_then_presigned_post_then_delete_objects,
        delete_objects_of_a_version_that_is_not_there,
        delete_of_a_version_that_is_not_there,
        delete_objects_that_the_policy_denies,
        put_without_a_signature_after_a_public_acl,
        copy_whose_source_goes,
        copy_between_buckets_whose_source_changes,
        part_by_copy_whose_source_goes,
        two_uploads_of_a_key_completed_the_other_way_round,
        upload_of_two_parts_left_open,
        bucket_deleted_and_created_anew,
        versions_markers_and_a_deleted_version,
        put_in_chunks_as_older_clients_do,
        log_events_of_many_requests,
        log_events_of_requests_whose_times_go_back,
        log_events_around_a_metric_filter,
        log_group_deleted_and_created_anew,
        log_stream_deleted_and_created_anew,
        role_deleted_and_created_anew,
        user_with_a_key,
        dashboard,
        metric_without_a_time,
    )
} | {f"delete-objects-said-in-way-{number}": delete_objects_by(form) for number, form in enumerate(DELETIONS)}


@pytest.fixture(scope="module")
def aftermath(survivor):
    """What could be seen before one kill, and after it, of all CASES: each in a bucket and a log group of its own name."""
    survivor.up()
    world = World(survivor, 0)
    for name, case in CASES.items():
        world.s3.create_bucket(Bucket=name, **WEST)
        world.logs.create_log_group(logGroupName=name)
        case(world, name)
    before = observe(world.clients)
    world.kill()
    world.up()
    return before, observe(world.clients)


@pytest.mark.parametrize("name", CASES)
def test_a_known_way_to_lose_something(aftermath, name):
    before, after = (
        {key: seen[key] for key in seen if name in (part.removesuffix(".2") for part in key)}
        for seen in aftermath
    )
    assert before
    assert not (difference := first_difference(before, after)), difference


# Said to CloudWatch Logs, some of it answered 200 though it makes no sense: it must not keep localaws from starting.
ODD = (
    ("CreateLogGroup", {"logGroupName": []}),
    ("PutResourcePolicy", {"policyName": "odd", "policyDocument": "{}", "logGroupName": []}),
    ("DeleteLogGroup", {"logGroupName": {"a": 1}}),
    *(
        ("PutLogEvents", {"logGroupName": "g", "logStreamName": "s", "logEvents": events})
        for events in ([], {}, [{"timestamp": NOW, "message": 5}], [{"timestamp": NOW, "message": {}}])
    ),
)


def test_no_answered_request_keeps_localaws_from_starting(fresh):
    fresh.up()
    world = World(fresh, 0)
    world.logs.create_log_group(logGroupName="g")
    world.logs.create_log_stream(logGroupName="g", logStreamName="s")
    for operation, fields in ODD:
        status, _ = world.foreign.call("logs", f"Logs_20140328.{operation}", json.dumps(fields).encode())
        print(f"{operation} {fields}: {status}")
    before = observe(world.clients)
    world.kill()
    world.up()
    assert not (difference := first_difference(before, observe(world.clients))), difference
