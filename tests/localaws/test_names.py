"""AWS's own names on this machine: its hosts, the caller that SDKs ask for, ECR's images, the profile, the regions."""

import http.client
import json
import re
import socket
import stat
import subprocess
import sys
import threading
from base64 import b64encode
from contextlib import closing
from urllib.parse import urlsplit

import boto3
import pytest
import requests
import tiny
from botocore.auth import SigV4Auth
from botocore.awsrequest import AWSRequest
from botocore.config import Config
from botocore.credentials import Credentials
from botocore.exceptions import ClientError
from cryptography import x509

from localaws.door.proxy import _Authority
from localaws.state import locate

ROLE = "arn:aws:iam::000000000000:role/service-role/AmazonSageMaker-ExecutionRole"
ECR = "000000000000.dkr.ecr.us-west-2.amazonaws.com"
SESSION = boto3.Session(region_name="us-west-2")


@pytest.fixture(scope="module")
def account(localaws, tmp_path_factory):
    return tiny.account(localaws, tmp_path_factory.mktemp("names"))


@pytest.fixture(scope="module")
def remote(localaws):
    """Give clients that are told nothing of localaws but the proxy and whom to trust."""

    def client(service: str, region: str = "us-west-2", **options):
        proxies = {"https": localaws.env["HTTPS_PROXY"]}
        return SESSION.client(
            service,
            region_name=region,
            config=Config(proxies=proxies, retries={"total_max_attempts": 1}, **options),
            verify=localaws.env["AWS_CA_BUNDLE"],
            aws_access_key_id=localaws.env["AWS_ACCESS_KEY_ID"],
            aws_secret_access_key=localaws.env["AWS_SECRET_ACCESS_KEY"],
        )

    return client


# The caller, and the profile


def test_the_caller_is_a_role_as_on_a_notebook_instance(localaws):
    """As `get_execution_role()` reads it: the role's name from the caller's ARN, the role's ARN from IAM."""
    caller = localaws.client("sts").get_caller_identity()
    found = re.fullmatch(r"arn:aws:sts::000000000000:assumed-role/([^/]+)/SageMaker", caller["Arn"])
    role = localaws.client("iam").get_role(RoleName=found[1])["Role"]
    assert (role["Arn"], caller["UserId"]) == (ROLE, f"{role['RoleId']}:SageMaker")
    taken = localaws.client("sts").assume_role(RoleArn=ROLE, RoleSessionName="another")["Credentials"]
    keys = [taken[name] for name in ("AccessKeyId", "SecretAccessKey", "SessionToken")]
    names = ("aws_access_key_id", "aws_secret_access_key", "aws_session_token")
    other = localaws.client("sts", **dict(zip(names, keys, strict=True))).get_caller_identity()
    assert other["Arn"].endswith(":assumed-role/AmazonSageMaker-ExecutionRole/another")


def test_the_profile_has_all_that_a_client_needs(localaws):
    """For a program that takes AWS_ACCESS_KEY_ID out of its environment, or names the profile."""
    away = (
        "AWS_ACCESS_KEY_ID",
        "AWS_SECRET_ACCESS_KEY",
        "AWS_ENDPOINT_URL",
        "AWS_DEFAULT_REGION",
        "AWS_REGION",
    )
    program = (
        "import boto3; client = boto3.Session(profile_name='default').client('s3');"
        "print(client.meta.region_name, client.meta.endpoint_url, client.list_buckets()['Owner'] is not None)"
    )
    done = subprocess.run(
        [sys.executable, "-c", program],
        env={name: value for name, value in localaws.env.items() if name not in away},
        capture_output=True,
        text=True,
    )
    assert done.stdout == f"us-west-2 {localaws.endpoint_url} True\n", done.stderr


def test_the_key_of_the_certificate_is_its_owners_alone(localaws):
    for name in ("aws/proxy.key", "aws/credentials"):
        assert stat.S_IMODE((localaws.home / name).stat().st_mode) == 0o600


# The proxy: hosts of AWS's


@pytest.mark.parametrize("folder", ["a" * 90, "Straße der Bäume " * 6])
def test_a_home_may_have_any_name_that_a_folder_can_have(tmp_path, folder):
    (tmp_path / folder).mkdir()
    authority = _Authority(tmp_path / folder)
    assert authority.context(f"{'b' * 63}.s3.us-west-2.amazonaws.com")
    assert x509.load_pem_x509_certificate((tmp_path / folder / locate.CERTIFICATE).read_bytes()).subject


def test_aws_hosts_are_answered_here(remote, localaws, account):
    assert remote("sts").get_caller_identity()["Account"] == "000000000000"
    assert remote("iam").get_role(RoleName=account.role.rpartition("/")[2])["Role"]["Arn"] == account.role
    assert remote("ecr").describe_repositories()["repositories"]
    assert remote("logs").describe_log_groups(limit=1)
    assert remote("cloudwatch").list_metrics()
    model = account.model()
    assert remote("sagemaker").describe_model(ModelName=model)["ModelName"] == model
    with pytest.raises(ClientError, match="Endpoint none of account 000000000000 not found"):
        remote("sagemaker-runtime").invoke_endpoint(EndpointName="none", Body=b"")


@pytest.mark.parametrize("style", ["virtual", "path"])
def test_s3_by_a_host_for_each_bucket(remote, account, style):
    s3, key, body = remote("s3", s3={"addressing_style": style}), f"a b/ü%2F+{style}", b"x" * 3_000_000
    s3.put_object(Bucket=account.bucket, Key=key, Body=body)
    assert account.s3.get_object(Bucket=account.bucket, Key=key)["Body"].read() == body
    assert s3.get_object(Bucket=account.bucket, Key=key)["Body"].read() == body
    listed = s3.list_objects_v2(Bucket=account.bucket, Prefix=f"a b/ü%2F+{style}")
    assert [one["Key"] for one in listed["Contents"]] == [key]
    fresh = f"{account.bucket}-{style}"
    s3.create_bucket(Bucket=fresh, CreateBucketConfiguration={"LocationConstraint": "us-west-2"})
    s3.delete_bucket(Bucket=fresh)


def test_a_presigned_url_of_a_bucket_is_good(remote, localaws, account):
    account.put("presigned", "good")
    for version in ("s3v4", "s3"):
        s3 = remote("s3", signature_version=version, s3={"addressing_style": "virtual"})
        url = s3.generate_presigned_url("get_object", {"Bucket": account.bucket, "Key": "presigned"})
        assert urlsplit(url).hostname.startswith(f"{account.bucket}.s3.")
        trusted = localaws.env["AWS_CA_BUNDLE"]
        got = requests.get(url, proxies={"https": localaws.env["HTTPS_PROXY"]}, verify=trusted)
        assert (got.status_code, got.text) == (200, "good"), got.text


def test_the_registry_by_the_name_that_ecr_has(localaws, account):
    with requests.Session() as session:
        session.trust_env = False
        session.proxies, session.verify = (
            {"https": localaws.env["HTTPS_PROXY"]},
            localaws.env["AWS_CA_BUNDLE"],
        )
        assert session.get(f"https://{ECR}/v2/").status_code == 401
        token = localaws.client("ecr").get_authorization_token()["authorizationData"][0]["authorizationToken"]
        session.headers["Authorization"] = f"Basic {token}"
        name = account.image.partition("/")[2].partition(":")[0]
        assert session.get(f"https://{ECR}/v2/{name}/tags/list").json()["tags"] == ["latest"]
        # No other host has it, and no host has the page.
        assert "errors" not in session.get("https://sts.us-west-2.amazonaws.com/v2/").text
        assert "ready" not in session.get(f"https://{ECR}/_localaws/health").text


@pytest.mark.parametrize(
    "target", ["111111111111.dkr.ecr.us-west-2.amazonaws.com:443", "iam.amazonaws.com:80"]
)
def test_a_host_that_nobody_answers_for_is_refused_by_name(localaws, target):
    host = target.partition(":")[0]
    with pytest.raises(OSError, match=rf"502 NotServedByLocalaws.*{re.escape(host)}"):
        asked(localaws, target)


@pytest.mark.parametrize("region", ["us-west-2", "nowhere-1"])
def test_a_client_reads_what_is_not_served(remote, region):
    with pytest.raises(ClientError, match=r"polly"):
        remote("polly", region=region).describe_voices()


def asked(localaws, target: str, token: str = "", scheme: str = "HTTPS_PROXY") -> http.client.HTTPConnection:
    """A connection that the proxy has given, to a target HOST:PORT. Raises OSError, with the reason, where it has not."""
    stated = urlsplit(localaws.env[scheme])
    login = b64encode(f"{token or stated.username}:{stated.password}".encode()).decode()
    connection = http.client.HTTPConnection(stated.hostname, stated.port, timeout=20)
    host, _, port = target.rpartition(":")
    connection.set_tunnel(host, int(port), {"Proxy-Authorization": f"Basic {login}"})
    connection.connect()
    return connection


def test_only_its_owner_goes_through(localaws):
    with pytest.raises(OSError, match="407"):
        asked(localaws, "sts.us-west-2.amazonaws.com:443", token="0" * 64)
    stated = urlsplit(localaws.env["HTTPS_PROXY"])
    with closing(socket.create_connection((stated.hostname, stated.port), 20)) as bare:
        bare.sendall(b"CONNECT exam")
        bare.sendall(b"ple.com:443 HTTP/1.1\r\n\r\n")
        assert bare.recv(99).startswith(b"HTTP/1.1 407 ")


@pytest.mark.parametrize(
    ("headers", "words"),
    [
        ({"Host": "iam.amazonaws.com"}, "is not localaws"),
        ({"Origin": "https://sts.us-west-2.amazonaws.com"}, "Origin"),
        ({"Sec-Fetch-Site": "cross-site"}, "Another site"),
    ],
)
def test_no_page_and_no_other_host_comes_in_by_the_proxy(localaws, headers, words):
    """What is refused without the proxy is refused with it, whatever its signature says."""
    host, body = "sts.us-west-2.amazonaws.com", b"Action=GetCallerIdentity&Version=2011-06-15"
    url = f"https://{host}/"
    request = AWSRequest("POST", url, {"Content-Type": "application/x-www-form-urlencoded"}, body)
    key = Credentials(localaws.env["AWS_ACCESS_KEY_ID"], localaws.env["AWS_SECRET_ACCESS_KEY"])
    SigV4Auth(key, "sts", "us-west-2").add_auth(request)

    def ask(**more):
        return requests.post(
            url,
            body,
            headers={**request.headers, **more},
            proxies={"https": localaws.env["HTTPS_PROXY"]},
            verify=localaws.env["AWS_CA_BUNDLE"],
        )

    assert ask().status_code == 200
    refused = ask(**headers)
    assert refused.status_code == 403 and words in refused.text


def test_an_aws_host_without_the_proxy_is_no_host_of_ours(localaws):
    with closing(
        http.client.HTTPConnection(urlsplit(localaws.endpoint_url).netloc, timeout=20)
    ) as connection:
        connection.request("GET", "/", headers={"Host": "sts.us-west-2.amazonaws.com"})
        assert connection.getresponse().status == 403


# The proxy: all other hosts


def listening(answer) -> tuple[int, threading.Thread]:
    """The port of a server that lets `answer` have its first connection, and its thread."""
    server = socket.create_server(("127.0.0.1", 0))

    def serve():
        with server, server.accept()[0] as connection:
            connection.settimeout(20)
            answer(connection)

    thread = threading.Thread(target=serve, daemon=True)
    thread.start()
    return server.getsockname()[1], thread


def echo(connection):
    connection.sendall(connection.recv(99).upper())


def test_other_hosts_are_passed_through_unread(localaws):
    port, _ = listening(echo)
    with closing(asked(localaws, f"127.0.0.1:{port}")) as connection:
        connection.sock.sendall(b"neither http nor tls")
        assert connection.sock.recv(99) == b"NEITHER HTTP NOR TLS"
    with pytest.raises(OSError, match=r"502 localaws cannot pass 127\.0\.0\.1 on: .*refused"):
        asked(localaws, f"127.0.0.1:{port}")


def test_plain_http_to_other_hosts_is_passed_on_as_it_came(localaws):
    """As one request of its connection, without what it told the proxy; its body and its answer byte for byte."""
    heard = []

    def answer(connection):
        heard.append(connection.recv(1 << 16))
        while not heard[0].endswith(b"end"):
            heard[0] += connection.recv(1 << 16)
        connection.sendall(
            b"HTTP/1.1 201 Made\r\nX: y\r\nConnection: close\r\nContent-Length: 2\r\n\r\n\xff\x00"
        )

    port, thread = listening(answer)
    session = requests.Session()
    session.trust_env, session.proxies = False, {"http": localaws.env["HTTP_PROXY"]}
    got = session.put(f"http://127.0.0.1:{port}/a/%2Fb?c=d&e", b"\x00" * 99_999 + b"end", headers={"X": "z"})
    thread.join(20)
    assert (got.status_code, got.reason, got.headers["X"], got.content) == (201, "Made", "y", b"\xff\x00")
    head, _, body = heard[0].partition(b"\r\n\r\n")
    first, *fields = head.decode().split("\r\n")
    assert first == "PUT /a/%2Fb?c=d&e HTTP/1.1" and body == b"\x00" * 99_999 + b"end"
    assert {f"Host: 127.0.0.1:{port}", "X: z", "Connection: close"} < set(fields)
    assert not [field for field in fields if field.lower().startswith("proxy-")]
    assert session.get(f"http://127.0.0.1:{port}/").status_code == 502  # nobody is there any more


def test_plain_http_goes_by_the_proxy_that_the_user_had(localaws):
    heard = []

    def company(connection):
        heard.append(connection.recv(9999).decode())
        connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello")

    port, thread = listening(company)
    mine = {**localaws.env, "http_proxy": f"http://ana:p%40ss@127.0.0.1:{port}"}
    program = "import localaws; print(localaws.environment()['http_proxy'])"
    done = subprocess.run(
        [sys.executable, "-c", program], env=mine, capture_output=True, text=True, check=True
    )
    got = requests.get("http://mirror.example:81/a?b", proxies={"http": done.stdout.strip()})
    thread.join(20)
    assert got.text == "hello"
    assert heard[0].startswith("GET http://mirror.example:81/a?b HTTP/1.1\r\n")
    assert f"Proxy-Authorization: Basic {b64encode(b'ana:p@ss').decode()}\r\n" in heard[0]


def test_plain_http_to_a_host_of_awss_is_answered_here(localaws, account):
    """With a signature as by HTTPS, several hosts by one client, what nobody answers for refused by name."""
    account.put("plain", b"here" * 100_000)
    options = {"proxies": {"http": localaws.env["HTTP_PROXY"]}, "retries": {"total_max_attempts": 1}}
    keys = {name: localaws.env[name.upper()] for name in ("aws_access_key_id", "aws_secret_access_key")}
    s3, sts = (
        SESSION.client(
            name, endpoint_url=f"http://{name}.us-west-2.amazonaws.com", config=Config(**options), **keys
        )
        for name in ("s3", "sts")
    )
    for _ in range(2):
        assert sts.get_caller_identity()["Account"] == "000000000000"
        got = s3.get_object(Bucket=account.bucket, Key="plain")["Body"].read()
        assert got == b"here" * 100_000
    s3.put_object(Bucket=account.bucket, Key="plain-2", Body=got)
    assert s3.head_object(Bucket=account.bucket, Key="plain-2")["ContentLength"] == 400_000
    refused = requests.get(
        "http://111111111111.dkr.ecr.us-west-2.amazonaws.com/v2/", proxies=options["proxies"]
    )
    assert refused.status_code == 502 and "another account" in refused.reason
    refused = requests.get("http://sts.us-west-2.amazonaws.com:8080/", proxies=options["proxies"])
    assert refused.status_code == 502 and "on port 80, not 8080" in refused.reason
    port = urlsplit(localaws.endpoint_url).port
    assert (
        requests.get("http://example.com/", proxies={"http": f"http://127.0.0.1:{port}"}).status_code == 407
    )


def test_a_proxy_that_the_user_had_is_asked_for_them(localaws):
    """Also after a second `localaws env` in the same shell; AWS's hosts never go there."""
    heard = []

    def company(connection):
        heard.append(connection.recv(999).decode())
        connection.sendall(b"HTTP/1.1 200 OK\r\n\r\n")
        echo(connection)

    port, thread = listening(company)
    mine = {**localaws.env, "https_proxy": f"http://ana:p%40ss@127.0.0.1:{port}"}
    program = "import localaws, os; os.environ.update(localaws.environment()); print(localaws.environment()['HTTPS_PROXY'])"
    done = subprocess.run(
        [sys.executable, "-c", program], env=mine, capture_output=True, text=True, check=True
    )
    localaws_env = {**localaws.env, "MINE": done.stdout.strip()}
    aws = type(localaws)(localaws.home, localaws_env)
    with closing(asked(aws, "registry.example:443", scheme="MINE")) as connection:
        connection.sock.sendall(b"hello")
        assert connection.sock.recv(99) == b"HELLO"
    thread.join(20)
    assert heard[0].startswith("CONNECT registry.example:443 HTTP/1.")
    assert f"Proxy-Authorization: Basic {b64encode(b'ana:p@ss').decode()}\r\n" in heard[0]
    asked(aws, "sts.us-west-2.amazonaws.com:443", scheme="MINE").close()
    assert len(heard) == 1


# Images


def test_an_image_by_the_name_that_ecr_has(account):
    """What every sample composes trains, and is described as it was written."""
    name = account.image.partition("/")[2]
    digest = account.aws.client("ecr").describe_images(repositoryName=name.partition(":")[0])
    for image in (
        f"{ECR}/{name}",
        f"{ECR}/{name.partition(':')[0]}@{digest['imageDetails'][0]['imageDigest']}",
    ):
        request = account.training_request()
        request["AlgorithmSpecification"]["TrainingImage"] = image
        job = account.train(request)
        assert job["TrainingJobStatus"] == "Completed", job
        assert job["AlgorithmSpecification"]["TrainingImage"] == image
        described = account.sagemaker.describe_model(ModelName=account.model(image=image))
        assert described["PrimaryContainer"]["Image"] == image
    elsewhere = (image.replace("us-west-2", "eu-west-1"), "does not exist in the registry")
    somebodys = (image.replace("000000000000", "111111111111"), "is not an image of this registry")
    for foreign, words in (elsewhere, somebodys):
        request = account.training_request()
        request["AlgorithmSpecification"]["TrainingImage"] = foreign
        with pytest.raises(ClientError, match=words):
            account.sagemaker.create_training_job(**request)


def test_push_to_the_name_that_ecr_has(account):
    account.aws.client("ecr").create_repository(repositoryName="composed")
    built = account.push("pushed")
    assert built
    done = account.aws.command("push", "pushed:latest", f"{ECR}/composed:v1")
    assert f"pushed {ECR}/composed:v1@sha256:" in done.stdout
    tags = account.aws.client("ecr").describe_images(repositoryName="composed")["imageDetails"][0][
        "imageTags"
    ]
    assert tags == ["v1"]


# Regions


def test_each_region_has_repositories_of_its_own(localaws, account):
    """The same name in two regions is two repositories, by the registry's address, by ECR's host, and for jobs."""
    here, there = (localaws.client("ecr", region_name=region) for region in ("us-west-2", "eu-west-1"))
    uri = there.create_repository(repositoryName="abroad/own")["repository"]["repositoryUri"]
    here.create_repository(repositoryName="abroad/own")
    account.push("abroad")
    localaws.command("push", "abroad:latest", uri)
    host = ECR.replace("us-west-2", "eu-west-1")
    localaws.command("push", "abroad:latest", f"{host}/abroad/own:second")
    (image,) = there.describe_images(repositoryName="abroad/own")["imageDetails"]
    assert (image["repositoryName"], image["imageTags"]) == ("abroad/own", ["latest", "second"])
    assert not here.list_images(repositoryName="abroad/own")["imageIds"]
    with requests.Session() as session:
        session.trust_env = False
        session.proxies, session.verify = (
            {"https": localaws.env["HTTPS_PROXY"]},
            localaws.env["AWS_CA_BUNDLE"],
        )
        token = there.get_authorization_token()["authorizationData"][0]["authorizationToken"]
        session.headers["Authorization"] = f"Basic {token}"
        path = f"https://{host}/v2/abroad/own"
        manifest = session.get(f"{path}/manifests/second")
        assert manifest.headers["Docker-Content-Digest"] == image["imageDigest"]
        upload = session.post(f"{path}/blobs/uploads/").headers["Location"]
        assert session.get(f"https://{host}{upload}").status_code == 204
        unknown = session.get(f"https://{host.replace('eu-west-1', 'nowhere-1')}/v2/abroad/own/tags/list")
        assert unknown.status_code == 404
    request = account.training_request()
    request["AlgorithmSpecification"]["TrainingImage"] = f"{host}/abroad/own:second"
    assert account.train(request)["TrainingJobStatus"] == "Completed"
    there.delete_repository(repositoryName="abroad/own", force=True)
    assert here.describe_repositories(repositoryNames=["abroad/own"])["repositories"]


def test_each_region_has_resources_of_its_own(fresh, tmp_path):
    """One name in two regions is two things, whose ARNs and programs carry the region, also after a restart."""
    fresh.up()
    here = tiny.account(fresh, tmp_path / "here")
    where = {"LocationConstraint": "eu-west-1"}
    fresh.client("s3", region_name="eu-west-1").create_bucket(
        Bucket="sagemaker-there", CreateBucketConfiguration=where
    )
    there = tiny.Account(fresh, here.role, "sagemaker-there", here.image, tmp_path / "there")
    there.sagemaker, there.runtime, there.logs = (
        fresh.client(service, region_name="eu-west-1")
        for service in ("sagemaker", "sagemaker-runtime", "logs")
    )
    name, word = "the-same", {"us-west-2": "ours", "eu-west-1": "theirs"}
    for account, region in ((here, "us-west-2"), (there, "eu-west-1")):
        job = account.train(account.training_request(name))
        assert job["TrainingJobStatus"] == "Completed", job
        assert job["TrainingJobArn"] == f"arn:aws:sagemaker:{region}:000000000000:training-job/{name}"
        assert len(account.sagemaker.list_training_jobs()["TrainingJobSummaries"]) == 1
        assert account.lines("/aws/sagemaker/TrainingJobs", name)
        config = account.config(account.model(name, word=word[region]))
        account.sagemaker.create_endpoint(EndpointName=name, EndpointConfigName=config)
    for account in (here, there):
        account.settled(name, "InService")
    told = json.loads(there.invoke(name)["Body"])
    assert (told["word"], told["env"]["AWS_REGION"]) == ("theirs", "eu-west-1")
    with pytest.raises(ClientError, match="names no resource"):
        there.sagemaker.list_tags(ResourceArn=here.sagemaker.describe_model(ModelName=name)["ModelArn"])
    with pytest.raises(ClientError, match="nowhere-1 is no region"):
        fresh.client("sagemaker", region_name="nowhere-1").list_models()
    fresh.command("down")
    fresh.up()
    for account, region in ((here, "us-west-2"), (there, "eu-west-1")):
        account.__post_init__()
        if account is there:
            account.sagemaker = fresh.client("sagemaker", region_name=region)
            account.runtime = fresh.client("sagemaker-runtime", region_name=region)
        account.settled(name, "InService")
        assert json.loads(account.invoke(name)["Body"])["word"] == word[region]
    there.sagemaker.delete_endpoint(EndpointName=name)
    assert here.sagemaker.describe_endpoint(EndpointName=name)["EndpointStatus"] == "InService"
