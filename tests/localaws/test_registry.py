"""The registry: the distribution protocol, ECR's view of it, and what it hands to the engine."""

import gzip
import hashlib
import http.client
import io
import json
import shutil
import subprocess
import tarfile
from base64 import b64decode, b64encode
from concurrent.futures import ThreadPoolExecutor

import pytest

from localaws import images
from localaws.images.registry import Registry

MANIFEST = "application/vnd.oci.image.manifest.v1+json"
INDEX = "application/vnd.oci.image.index.v1+json"


def digest_of(content):
    return "sha256:" + hashlib.sha256(content).hexdigest()


class Repository:
    """A repository of its own, spoken to in plain HTTP."""

    def __init__(self, aws, name):
        self.aws, self.name, self.ecr = aws, name, aws.client("ecr")
        self.uri = self.ecr.create_repository(repositoryName=name)["repository"]["repositoryUri"]
        token = self.ecr.get_authorization_token()["authorizationData"][0]["authorizationToken"]
        self.login = {"Authorization": f"Basic {token}"}

    def ask(self, method, path, body=None, headers=None):
        connection = http.client.HTTPConnection(self.aws.endpoint_url.removeprefix("http://"), timeout=30)
        path = path if path.startswith("/v2/") else f"/v2/{self.name}/{path}"
        connection.request(method, path, body, {**self.login, **(headers or {})})
        response = connection.getresponse()
        answer = response.status, {k.lower(): v for k, v in response.getheaders()}, response.read()
        connection.close()
        return answer

    def refused(self, *arguments, **options):
        """Ask what must fail; return status and error code."""
        status, _, body = self.ask(*arguments, **options)
        [error] = json.loads(body)["errors"]
        assert error["message"]
        return status, error["code"]

    def push_blob(self, content):
        status, headers, _ = self.ask("POST", f"blobs/uploads/?digest={digest_of(content)}", content)
        assert status == 201
        assert headers["docker-content-digest"] == digest_of(content)
        return {"digest": digest_of(content), "size": len(content), "mediaType": "application/octet-stream"}

    def manifest(self, layer=b"layer", config=b"{}"):
        value = {
            "schemaVersion": 2,
            "mediaType": MANIFEST,
            "config": self.push_blob(config),
            "layers": [self.push_blob(layer)],
        }
        return json.dumps(value).encode()

    def put(self, reference, body, media_type=MANIFEST):
        return self.ask("PUT", f"manifests/{reference}", body, {"Content-Type": media_type})

    def tags(self):
        return json.loads(self.ask("GET", "tags/list")[2])["tags"]


@pytest.fixture
def repository(localaws, request):
    name = "sagemaker-" + hashlib.sha256(request.node.nodeid.encode()).hexdigest()[:12]
    return Repository(localaws, name)


# Login


def test_login_is_asked_for_as_ecr_does(repository):
    status, headers, _ = repository.ask("GET", "/v2/", headers={"Authorization": ""})
    assert status == 401
    assert headers["www-authenticate"].startswith('Basic realm="http://127.0.0.1:')
    assert repository.ask("GET", "/v2/")[0] == 200
    assert repository.ask("GET", "/v2/")[1]["docker-distribution-api-version"] == "registry/2.0"


@pytest.mark.parametrize("password", ["wrong", "", "9999999999.0000", "x.y", "x.\u00fc"])
def test_a_wrong_password_is_refused(repository, password):
    login = {"Authorization": "Basic " + b64encode(f"AWS:{password}".encode()).decode()}
    assert repository.refused("GET", "tags/list", headers=login) == (403, "DENIED")


def test_a_password_ends(localaws, repository, monkeypatch):
    registry = Registry(localaws.home)
    monkeypatch.setattr("localaws.images.registry.TOKEN_SECONDS", -1)
    login = {"Authorization": "Basic " + b64encode(f"AWS:{registry.password()[0]}".encode()).decode()}
    assert repository.refused("GET", "tags/list", headers=login) == (403, "DENIED")


def test_ecr_gives_the_address_and_the_password(localaws, repository):
    data = repository.ecr.get_authorization_token()["authorizationData"][0]
    assert data["proxyEndpoint"] == localaws.endpoint_url
    assert b64decode(data["authorizationToken"]).startswith(b"AWS:")
    assert repository.uri == f"{localaws.endpoint_url.removeprefix('http://')}/{repository.name}"


# Blobs


def test_a_blob_in_one_two_or_many_requests(repository):
    whole, halves, chunked = b"one" * 1000, b"first" * 500 + b"second" * 500, b"chunk" * 70_000
    repository.push_blob(whole)

    _, headers, _ = repository.ask("POST", "blobs/uploads/")
    place = headers["location"]
    status, headers, _ = repository.ask("PATCH", place, halves[:2500], {"Content-Range": "0-2499"})
    assert (status, headers["range"]) == (202, "0-2499")
    # A client that was cut off asks how far it came and goes on.
    status, headers, _ = repository.ask("GET", place)
    assert (status, headers["range"]) == (204, "0-2499")
    end = f"{len(halves) - 1}"
    repository.ask("PATCH", place, halves[2500:], {"Content-Range": f"2500-{end}"})
    assert repository.ask("PUT", f"{place}?digest={digest_of(halves)}")[0] == 201

    _, headers, _ = repository.ask("POST", "blobs/uploads/")
    pieces = (chunked[i : i + 10_000] for i in range(0, len(chunked), 10_000))
    repository.ask("PATCH", headers["location"], pieces)  # no length known: Transfer-Encoding: chunked
    assert repository.ask("PUT", f"{headers['location']}?digest={digest_of(chunked)}")[0] == 201

    for content in (whole, halves, chunked):
        status, headers, body = repository.ask("GET", f"blobs/{digest_of(content)}")
        assert (status, body) == (200, content)
        status, headers, body = repository.ask("HEAD", f"blobs/{digest_of(content)}")
        assert (status, headers["content-length"], body) == (200, str(len(content)), b"")
        status, headers, body = repository.ask(
            "GET", f"blobs/{digest_of(content)}", headers={"Range": "bytes=10-19"}
        )
        assert (status, body) == (206, content[10:20])


def test_bad_blobs_are_refused_and_leave_nothing(localaws, repository):
    missing = digest_of(b"missing")
    assert repository.ask("HEAD", f"blobs/{missing}")[0] == 404
    assert repository.refused("GET", f"blobs/{missing}") == (404, "BLOB_UNKNOWN")
    assert repository.refused("GET", "blobs/sha256:xyz") == (404, "BLOB_UNKNOWN")
    assert repository.refused("POST", f"blobs/uploads/?digest={missing}", b"other") == (400, "DIGEST_INVALID")
    assert repository.refused("POST", "blobs/uploads/?digest=md5:1", b"other") == (400, "DIGEST_INVALID")
    assert repository.refused("PUT", f"blobs/uploads/{'0' * 32}?digest={missing}") == (
        404,
        "BLOB_UPLOAD_UNKNOWN",
    )
    _, headers, _ = repository.ask("POST", "blobs/uploads/")
    place = headers["location"]
    assert repository.refused("PUT", place, b"x") == (400, "DIGEST_INVALID")
    out_of_order = {"Content-Range": "5-9"}
    assert repository.refused("PATCH", place, b"12345", headers=out_of_order) == (416, "BLOB_UPLOAD_INVALID")
    assert repository.ask("DELETE", place)[0] == 204
    assert repository.refused("GET", place) == (404, "BLOB_UPLOAD_UNKNOWN")
    assert not (localaws.home / "registry/blobs" / digest_of(b"other")[7:]).exists()
    assert repository.refused("TRACE", "tags/list") == (405, "UNSUPPORTED")
    blob = repository.push_blob(b"0123456789")["digest"]
    assert repository.refused("GET", f"blobs/{blob}", headers={"Range": "bytes=50-60"}) == (
        416,
        "RANGE_INVALID",
    )


def test_a_blob_is_seen_only_where_it_was_pushed_or_mounted(localaws, repository):
    other = Repository(localaws, repository.name + "-other")
    blob = repository.push_blob(b"shared")["digest"]
    assert other.refused("GET", f"blobs/{blob}") == (404, "BLOB_UNKNOWN")
    assert other.ask("POST", f"blobs/uploads/?mount={blob}&from={repository.name}-nowhere")[0] == 202
    assert other.ask("POST", f"blobs/uploads/?mount={blob}&from={repository.name}")[0] == 201
    assert other.ask("GET", f"blobs/{blob}")[2] == b"shared"
    # What one repository deletes the other keeps.
    assert repository.ask("DELETE", f"blobs/{blob}")[0] == 202
    assert repository.ask("HEAD", f"blobs/{blob}")[0] == 404
    assert other.ask("GET", f"blobs/{blob}")[2] == b"shared"
    other.ask("DELETE", f"blobs/{blob}")
    assert not (localaws.home / "registry/blobs" / blob[7:]).exists()


def test_pushes_of_the_same_blob_at_once(repository):
    content = b"same" * 100_000
    with ThreadPoolExecutor(8) as pool:
        assert len(list(pool.map(lambda _: repository.push_blob(content), range(16)))) == 16
    assert repository.ask("GET", f"blobs/{digest_of(content)}")[2] == content


@pytest.mark.parametrize(
    "path",
    [
        "/v2/../../etc/passwd",
        "/v2/a/../b/tags/list",
        "/v2/UPPER/tags/list",
        "/v2/a/blobs/uploads/../../x",
        "/v2/_a/tags/list",
    ],
)
def test_no_path_leads_out_of_the_folder(repository, path):
    assert repository.ask("GET", path)[0] == 404
    assert repository.ask("PUT", path, b"x")[0] == 404


def test_an_unknown_repository_is_named_as_ecr_names_it(repository):
    status, _, body = repository.ask("GET", "/v2/sagemaker-nobody/tags/list")
    [error] = json.loads(body)["errors"]
    assert (status, error["code"]) == (404, "NAME_UNKNOWN")
    assert error["message"] == (
        "The repository with name 'sagemaker-nobody' does not exist in the registry with id '000000000000'"
    )


# Manifests


def test_a_manifest_by_tag_and_by_digest_and_in_ecr(repository):
    body = repository.manifest()
    digest = digest_of(body)
    status, headers, _ = repository.put("v1", body)
    assert (status, headers["docker-content-digest"]) == (201, digest)
    for reference in ("v1", digest):
        status, headers, answer = repository.ask("GET", f"manifests/{reference}")
        assert (status, answer) == (200, body)
        assert (headers["content-type"], headers["docker-content-digest"]) == (MANIFEST, digest)
        status, headers, answer = repository.ask("HEAD", f"manifests/{reference}")
        assert (status, headers["content-length"], answer) == (200, str(len(body)), b"")
    [detail] = repository.ecr.describe_images(repositoryName=repository.name)["imageDetails"]
    assert (detail["imageDigest"], detail["imageTags"]) == (digest, ["v1"])
    assert detail["imageSizeInBytes"] == len(b"layer") + len(b"{}")
    assert detail["imageManifestMediaType"] == MANIFEST
    [image] = repository.ecr.batch_get_image(repositoryName=repository.name, imageIds=[{"imageTag": "v1"}])[
        "images"
    ]
    assert image["imageManifest"].encode() == body


def test_bad_manifests_are_refused_and_nothing_is_listed(repository):
    body = repository.manifest()
    good = json.loads(body)

    def refused(reference, value, media_type=MANIFEST):
        content = value if isinstance(value, bytes) else json.dumps(value).encode()
        headers = {"Content-Type": media_type}
        return repository.refused("PUT", f"manifests/{reference}", content, headers=headers)

    absent = {"digest": digest_of(b"absent"), "size": 6}
    assert refused("t", {**good, "layers": [absent]}) == (400, "MANIFEST_BLOB_UNKNOWN")
    assert refused("t", {**good, "config": absent}) == (400, "MANIFEST_BLOB_UNKNOWN")
    assert refused("t", {**good, "layers": [{**good["layers"][0], "size": 1}]}) == (400, "SIZE_INVALID")
    assert refused("t", {"schemaVersion": 2, "manifests": [absent]}, INDEX) == (400, "MANIFEST_BLOB_UNKNOWN")
    assert refused("t", body, "application/json") == (400, "MANIFEST_INVALID")
    assert refused("t", body, "application/vnd.docker.distribution.manifest.v2+json") == (
        400,
        "MANIFEST_INVALID",
    )
    for bad in (
        b"{",
        b"[]",
        b"{}",
        {**good, "schemaVersion": 1},
        {**good, "layers": [{"digest": "../../x", "size": 1}]},
    ):
        assert refused("t", bad) == (400, "MANIFEST_INVALID")
    assert refused(digest_of(b"other"), body) == (400, "DIGEST_INVALID")
    assert refused("-bad", body) == (400, "TAG_INVALID")
    assert refused("t", b" " * (5 * 2**20)) == (413, "MANIFEST_INVALID")
    assert repository.tags() == []
    assert repository.ecr.list_images(repositoryName=repository.name)["imageIds"] == []
    assert repository.refused("GET", "manifests/t") == (404, "MANIFEST_UNKNOWN")


def test_an_index_of_manifests_is_kept_but_not_run(localaws, repository):
    body = repository.manifest()
    repository.put(digest_of(body), body)
    index = {
        "schemaVersion": 2,
        "manifests": [{"digest": digest_of(body), "size": len(body), "mediaType": MANIFEST}],
    }
    content = json.dumps(index).encode()
    assert repository.put("index", content, INDEX)[0] == 201
    with pytest.raises(ValueError, match="--provenance=false"):
        Registry(localaws.home).unpack(digest_of(content))


def test_tags_are_listed_in_pages(repository):
    body = repository.manifest()
    for tag in ("a", "b", "c", "d"):
        repository.put(tag, body)
    _, headers, answer = repository.ask("GET", "tags/list?n=3")
    assert json.loads(answer)["tags"] == ["a", "b", "c"]
    path = headers["link"].split(">")[0].lstrip("<")
    assert json.loads(repository.ask("GET", path)[2])["tags"] == ["d"]
    pages = repository.ecr.get_paginator("list_images").paginate(
        repositoryName=repository.name, PaginationConfig={"PageSize": 3}
    )
    assert [len(page["imageIds"]) for page in pages] == [3, 1]


def test_a_tag_moves_and_the_old_image_stays_untagged(repository):
    first, second = repository.manifest(b"first"), repository.manifest(b"second")
    repository.put("latest", first)
    repository.put("latest", second)
    ids = repository.ecr.list_images(repositoryName=repository.name)["imageIds"]
    assert sorted(ids, key=str) == sorted(
        [{"imageDigest": digest_of(first)}, {"imageDigest": digest_of(second), "imageTag": "latest"}], key=str
    )
    untagged = {"tagStatus": "UNTAGGED"}
    [only] = repository.ecr.list_images(repositoryName=repository.name, filter=untagged)["imageIds"]
    assert only == {"imageDigest": digest_of(first)}


def test_an_immutable_tag_stays(repository):
    repository.ecr.put_image_tag_mutability(repositoryName=repository.name, imageTagMutability="IMMUTABLE")
    first, second = repository.manifest(b"first"), repository.manifest(b"second")
    assert repository.put("v1", first)[0] == 201
    assert repository.put("v1", first)[0] == 201, "the same image again changes nothing"
    headers = {"Content-Type": MANIFEST}
    assert repository.refused("PUT", "manifests/v1", second, headers=headers) == (400, "TAG_INVALID")


# What ECR changes, the registry shows


def test_a_tag_added_by_put_image(repository):
    body = repository.manifest()
    repository.put("v1", body)
    request = {"repositoryName": repository.name, "imageManifest": body.decode(), "imageTag": "v2"}
    assert repository.ecr.put_image(**request)["image"]["imageId"]["imageDigest"] == digest_of(body)
    assert repository.tags() == ["v1", "v2"]
    with pytest.raises(repository.ecr.exceptions.ImageAlreadyExistsException):
        repository.ecr.put_image(**request)


def test_batch_delete_image(localaws, repository):
    body = repository.manifest(b"only here")
    for tag in ("v1", "v2"):
        repository.put(tag, body)
    wanted = [{"imageTag": "v1"}, {"imageTag": "nope"}, {"imageDigest": digest_of(b"nope")}]
    answer = repository.ecr.batch_delete_image(repositoryName=repository.name, imageIds=wanted)
    assert answer["imageIds"] == [{"imageDigest": digest_of(body), "imageTag": "v1"}]
    assert [failure["failureCode"] for failure in answer["failures"]] == ["ImageNotFound"] * 2
    assert repository.tags() == ["v2"]
    repository.ecr.batch_delete_image(repositoryName=repository.name, imageIds=[{"imageTag": "v2"}])
    assert repository.refused("GET", f"manifests/{digest_of(body)}") == (404, "MANIFEST_UNKNOWN")
    with pytest.raises(repository.ecr.exceptions.ImageNotFoundException):
        repository.ecr.describe_images(repositoryName=repository.name, imageIds=[{"imageTag": "v2"}])


def test_delete_repository(localaws, repository):
    body = repository.manifest(b"goes with its repository")
    repository.put("v1", body)
    with pytest.raises(repository.ecr.exceptions.RepositoryNotEmptyException):
        repository.ecr.delete_repository(repositoryName=repository.name)
    repository.ecr.delete_repository(repositoryName=repository.name, force=True)
    assert repository.refused("GET", "tags/list") == (404, "NAME_UNKNOWN")
    blob = localaws.home / "registry/blobs" / digest_of(b"goes with its repository")[7:]
    assert not blob.exists()
    repository.ecr.create_repository(repositoryName=repository.name)
    assert repository.tags() == []


def test_a_layer_api_is_refused_with_the_way_to_do_it(repository):
    with pytest.raises(Exception, match="docker push"):
        repository.ecr.initiate_layer_upload(repositoryName=repository.name)


# For the engine


def tar(*members):
    """A tar of (name, content) or of TarInfo."""
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as archive:
        for member in members:
            if isinstance(member, tarfile.TarInfo):
                archive.addfile(member)
                continue
            info = tarfile.TarInfo(member[0])
            info.size, info.mode = len(member[1]), 0o755
            archive.addfile(info, io.BytesIO(member[1]))
    return out.getvalue()


def push(repository, *layers, **changes):
    """Push an image of these layers under `latest` and return its digest."""
    config = {
        "architecture": "amd64",
        "os": "linux",
        "rootfs": {"type": "layers", "diff_ids": [digest_of(layer) for layer in layers]},
        **changes,
    }
    value = {
        "schemaVersion": 2,
        "mediaType": MANIFEST,
        "config": repository.push_blob(json.dumps(config).encode()),
        "layers": [repository.push_blob(gzip.compress(layer, mtime=0)) for layer in layers],
    }
    body = json.dumps(value).encode()
    assert repository.put("latest", body)[0] == 201
    return digest_of(body)


def test_resolve(localaws, repository):
    registry = Registry(localaws.home)
    digest = push(repository, tar(("opt/program/train", b"#!/bin/sh\n")))
    for uri in (
        repository.uri,
        f"{repository.uri}:latest",
        f"{repository.uri}@{digest}",
        f"127.0.0.1:9/{repository.name}",
    ):
        assert registry.resolve(uri) == digest
    for uri in (f"{repository.uri}:v9", f"{repository.uri}@{digest_of(b'')}", "127.0.0.1:1/nothing"):
        with pytest.raises(KeyError, match="does not exist"):
            registry.resolve(uri)
    for uri in ("docker.io/library/python", "../../x", "", f"{repository.uri}:a b"):
        with pytest.raises(KeyError, match="not an image of this registry"):
            registry.resolve(uri)


def test_unpack_applies_layers_in_order(localaws, repository):
    lower = tar(
        ("./opt/program/train", b"old"),
        ("opt/program/gone", b"x"),
        ("etc/passwd", b"no"),
        ("opt/program/d/a", b"a"),
    )
    upper = tar(
        ("opt/program/train", b"new"), ("opt/program/.wh.gone", b""), ("opt/program/d/.wh..wh..opq", b"")
    )
    digest = push(repository, lower, upper)
    registry = Registry(localaws.home)
    root = registry.unpack(digest)
    files = {path.relative_to(root).as_posix() for path in root.rglob("*") if path.is_file()}
    assert files == {"opt/program/train"}
    assert (root / "opt/program/train").read_bytes() == b"new"
    assert (root / "opt/program/train").stat().st_mode & 0o777 == 0o755
    assert registry.unpack(digest) == root
    assert not [path for path in root.parent.iterdir() if path.name.startswith(".")]


def link(name, target, kind=tarfile.SYMTYPE):
    info = tarfile.TarInfo(name)
    info.type, info.linkname = kind, target
    return info


@pytest.mark.parametrize(
    ("layer", "changes", "reason"),
    [
        (tar(("etc/passwd", b"x")), {}, "no folder /opt/program"),
        (tar(("opt/program/../../../escape", b"x")), {}, "'opt/program/../../../escape' would land outside"),
        (tar(link("opt/program/l", "/etc/passwd")), {}, "'opt/program/l' is a link"),
        (
            tar(link("opt/program/l", "../../../../etc"), ("opt/program/l/x", b"x")),
            {},
            "'opt/program/l' is a link",
        ),
        (tar(link("opt/program/dev", "", tarfile.CHRTYPE)), {}, "'opt/program/dev' is a device"),
        (tar(("opt/program/.wh...", b"")), {}, "'.wh...' hides no name"),
        (tar(("opt/program/../.wh.x", b"")), {}, "would land outside"),
        (tar(("opt/program/../../../.wh.victim", b"")), {}, "would land outside"),
        (tar(("../../opt/program/.wh.x", b"")), {}, "'../../opt/program/.wh.x' would land outside"),
        (tar(("/opt/program/train", b"x")), {}, "'/opt/program/train' would land outside"),
        (
            tar(("opt/program/a", b"x"), ("opt/program/a/b", b"x")),
            {},
            "'opt/program/a' is a file and a folder",
        ),
        (tar(("opt/program/train", b"x")), {"architecture": "arm64"}, "linux/arm64"),
        (tar(("opt/program/train", b"x")), {"rootfs": {"diff_ids": [digest_of(b"else")]}}, "config names"),
    ],
)
def test_unpack_refuses(localaws, repository, layer, changes, reason):
    digest = push(repository, layer, **changes)
    with pytest.raises(ValueError, match=reason):
        Registry(localaws.home).unpack(digest)
    assert not (localaws.home / "unpacked" / digest[7:]).exists()
    assert not (localaws.home / "escape").exists()


def test_unpack_refuses_bytes_that_changed_on_disk(localaws, repository):
    layer = tar(("opt/program/train", b"as pushed"))
    digest = push(repository, layer)
    blob = localaws.home / "registry/blobs" / digest_of(gzip.compress(layer, mtime=0))[7:]
    blob.write_bytes(b"tampered with")
    with pytest.raises(ValueError, match="damaged"):
        Registry(localaws.home).unpack(digest)


# Other people's clients


@pytest.mark.skipif(not shutil.which("skopeo"), reason="skopeo is not installed")
def test_skopeo_copies_in_and_out(localaws, repository, tmp_path, monkeypatch):
    monkeypatch.setenv("LOCALAWS_HOME", str(localaws.home))
    image = images.build("decision_trees", "skopeo-test")
    password = b64decode(repository.login["Authorization"].split()[1]).decode().partition(":")[2]

    def skopeo(*arguments):
        return subprocess.run(["skopeo", *arguments], capture_output=True, text=True, check=True, timeout=60)

    credentials = f"AWS:{password}"
    there = f"docker://{repository.uri}:copied"
    skopeo(
        "copy",
        "--dest-tls-verify=false",
        "--dest-creds",
        credentials,
        f"oci:{localaws.home}/images:{image.name}",
        there,
    )
    assert Registry(localaws.home).resolve(f"{repository.uri}:copied") == image.digest
    skopeo("copy", "--src-tls-verify=false", "--src-creds", credentials, there, f"oci:{tmp_path}/back:copied")
    assert (tmp_path / "back/blobs/sha256" / image.digest[7:]).exists()
    inspected = json.loads(skopeo("inspect", "--tls-verify=false", "--creds", credentials, there).stdout)
    assert (inspected["Digest"], inspected["Architecture"]) == (image.digest, "amd64")
    skopeo("delete", "--tls-verify=false", "--creds", credentials, there)
    assert repository.tags() == []
