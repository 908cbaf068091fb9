"""The points that OCI's distribution specification 1.1 has in its four workflows: pull, push, discovery, management."""

import hashlib
import json

import pytest
from botocore.exceptions import ClientError
from test_registry import INDEX, MANIFEST, Repository, digest_of

EMPTY = "application/vnd.oci.empty.v1+json"
NONE = "sha256:" + "0" * 64


@pytest.fixture(scope="module")
def there(localaws):
    return Repository(localaws, "sagemaker-conformance")


def artifact(repository, kind, subject, reference=None, **more):
    """Push an artifact that refers to a subject; its digest, and the answer's headers."""
    empty = repository.push_blob(b"{}") | {"mediaType": EMPTY}
    about = {"mediaType": MANIFEST, "digest": subject, "size": 3}
    value = {
        "schemaVersion": 2,
        "mediaType": MANIFEST,
        "artifactType": kind,
        "config": empty,
        "layers": [empty],
    }
    body = json.dumps(value | {"subject": about} | more).encode()
    status, headers, _ = repository.put(reference or digest_of(body), body)
    assert status == 201
    return digest_of(body), headers


def referrers(repository, path):
    status, headers, body = repository.ask("GET", f"referrers/{path}")
    assert (status, headers["content-type"]) == (200, INDEX)
    index = json.loads(body)
    assert (index["schemaVersion"], index["mediaType"]) == (2, INDEX)
    return index["manifests"], headers


# Pull


def test_pull(there):
    body = there.manifest(layer=b"pulled")
    assert there.put("pulled", body)[0] == 201
    for path, content in (
        ("manifests/pulled", body),
        (f"manifests/{digest_of(body)}", body),
        (f"blobs/{digest_of(b'pulled')}", b"pulled"),
    ):
        status, headers, got = there.ask("GET", path)
        assert (status, got, headers["docker-content-digest"]) == (200, content, digest_of(content))
        status, headers, got = there.ask("HEAD", path)
        assert (status, got, int(headers["content-length"])) == (200, b"", len(content))
    for path, code in (
        ("manifests/.no", "MANIFEST_UNKNOWN"),
        (f"manifests/{NONE}", "MANIFEST_UNKNOWN"),
        (f"blobs/{NONE}", "BLOB_UNKNOWN"),
    ):
        assert there.refused("GET", path) == (404, code)
        assert there.ask("HEAD", path)[0] == 404


# Push


def test_push_in_chunks(there):
    status, headers, _ = there.ask("POST", "blobs/uploads/")
    assert status == 202
    where = headers["location"]
    chunk = {"Content-Type": "application/octet-stream", "Content-Range": "0-2"}
    status, headers, _ = there.ask("PATCH", where, b"abc", chunk)
    assert (status, headers["range"]) == (202, "0-2")
    status, headers, _ = there.ask("PATCH", where, b"x", chunk | {"Content-Range": "7-7"})
    assert (status, headers["range"]) == (416, "0-2")
    status, headers, _ = there.ask("GET", where)
    assert (status, headers["range"], headers["location"]) == (204, "0-2", where)
    status, headers, _ = there.ask(
        "PUT", f"{where}?digest={digest_of(b'abcde')}", b"de", chunk | {"Content-Range": "3-4"}
    )
    assert status == 201
    assert there.ask("GET", headers["location"])[2] == b"abcde"
    assert there.refused("GET", where) == (404, "BLOB_UPLOAD_UNKNOWN")


def test_a_push_is_cancelled(there):
    where = there.ask("POST", "blobs/uploads/")[1]["location"]
    assert there.ask("DELETE", where)[0] == 204
    assert there.refused("PATCH", where, b"a") == (404, "BLOB_UPLOAD_UNKNOWN")


def test_a_blob_is_mounted_or_else_an_upload_begins(there, repository):
    blob = there.push_blob(b"mounted")["digest"]
    status, headers, _ = repository.ask("POST", f"blobs/uploads/?mount={blob}&from={there.name}")
    assert (status, headers["location"]) == (201, f"/v2/{repository.name}/blobs/{blob}")
    for asked in (f"mount={NONE}&from={there.name}", f"mount={blob}&from=never/made"):
        status, headers, _ = repository.ask("POST", f"blobs/uploads/?{asked}")
        assert (status, "uploads" in headers["location"]) == (202, True)


@pytest.fixture
def repository(localaws, request):
    return Repository(localaws, f"sagemaker-{digest_of(request.node.nodeid.encode())[7:19]}")


def test_a_manifest_names_what_is_there(there):
    body = there.manifest().replace(digest_of(b"layer").encode(), NONE.encode())
    assert there.refused("PUT", "manifests/a", body, {"Content-Type": MANIFEST}) == (
        400,
        "MANIFEST_BLOB_UNKNOWN",
    )


def sha512(content):
    return "sha512:" + hashlib.sha512(content).hexdigest()


def test_sha512(repository):
    layer = b"long digest"
    for method, ends in (("POST", False), ("PUT", True)):
        where = repository.ask("POST", "blobs/uploads/")[1]["location"] if ends else "blobs/uploads/"
        status, headers, _ = repository.ask(method, f"{where}?digest={sha512(layer)}", layer)
        assert (status, headers["docker-content-digest"]) == (201, sha512(layer))
    assert repository.refused("POST", f"blobs/uploads/?digest={sha512(b'x')}", layer) == (
        400,
        "DIGEST_INVALID",
    )
    assert repository.refused("POST", "blobs/uploads/?digest=sha384:00", layer) == (400, "DIGEST_INVALID")
    assert repository.refused("GET", f"blobs/{digest_of(layer)}") == (404, "BLOB_UNKNOWN")
    value = json.loads(repository.manifest())
    value["layers"][0] |= {"digest": sha512(layer), "size": len(layer)}
    body = json.dumps(value).encode()
    status, headers, _ = repository.put(sha512(body), body)
    assert (status, headers["docker-content-digest"]) == (201, sha512(body))
    assert repository.refused("PUT", f"manifests/{sha512(b'x')}", body, {"Content-Type": MANIFEST}) == (
        400,
        "DIGEST_INVALID",
    )
    assert repository.ask("GET", f"manifests/{sha512(body)}")[2] == body
    assert repository.ask("GET", f"blobs/{sha512(layer)}")[2] == layer
    signature, headers = artifact(repository, "example/signature", sha512(body))
    assert headers["oci-subject"] == sha512(body)
    assert [one["digest"] for one in referrers(repository, sha512(body))[0]] == [signature]
    images = repository.ecr.describe_images(repositoryName=repository.name)["imageDetails"]
    assert {image["imageDigest"] for image in images} == {sha512(body), signature}
    # A tag names the digest that everybody knows.
    assert repository.put("tagged", body)[1]["docker-content-digest"] == digest_of(body)
    assert repository.refused("DELETE", f"blobs/{sha512(layer)}") == (405, "DENIED")
    for path in (f"manifests/{sha512(body)}", f"manifests/{digest_of(body)}", f"blobs/{sha512(layer)}"):
        assert repository.ask("DELETE", path)[0] == 202
        assert repository.ask("GET", path)[0] == 404


def test_an_index_comes_after_its_images(repository):
    """The specification leaves it to the registry; ECR's refuses, and names what is not there."""
    body = repository.manifest()
    entries = [{"mediaType": MANIFEST, "digest": one, "size": len(body)} for one in (digest_of(body), NONE)]
    index = json.dumps({"schemaVersion": 2, "mediaType": INDEX, "manifests": entries}).encode()
    status, _, answer = repository.put("index", index, INDEX)
    [error] = json.loads(answer)["errors"]
    assert (status, error["code"]) == (400, "MANIFEST_BLOB_UNKNOWN")
    assert f"Images with digests '[{digest_of(body)}, {NONE}]' required" in error["message"]
    repository.put("image", body)
    assert NONE in repository.put("index", index, INDEX)[2].decode()
    sent = {"repositoryName": repository.name, "imageManifest": index.decode(), "imageTag": "index"}
    with pytest.raises(repository.ecr.exceptions.ReferencedImagesNotFoundException, match=NONE):
        repository.ecr.put_image(**sent)
    sent["imageManifest"] = body.decode().replace(digest_of(b"layer"), NONE)
    with pytest.raises(repository.ecr.exceptions.LayersNotFoundException, match=NONE):
        repository.ecr.put_image(**sent)
    sent |= {"imageManifest": index.decode().replace(NONE, digest_of(body)), "imageDigest": NONE}
    del sent["imageTag"]
    with pytest.raises(ClientError, match="ImageDigestDoesNotMatch"):
        repository.ecr.put_image(**sent)
    assert repository.tags() == ["image"]


def test_an_index_of_indexes(repository):
    body = repository.manifest()
    repository.put(digest_of(body), body)
    for _ in range(2):
        entry = {
            "mediaType": INDEX if b"manifests" in body else MANIFEST,
            "digest": digest_of(body),
            "size": len(body),
        }
        body = json.dumps({"schemaVersion": 2, "mediaType": INDEX, "manifests": [entry]}).encode()
        assert repository.put(digest_of(body), body, INDEX)[0] == 201
    assert repository.ask("GET", f"manifests/{digest_of(body)}")[2] == body


def test_what_a_registry_does_not_know_it_keeps(repository):
    """Bytes and fields as they came; a layer from elsewhere; no layer; a manifest of nearly as much as is taken."""
    value = json.loads(repository.manifest())
    away = {"digest": NONE, "size": 9, "mediaType": "a/b", "urls": ["https://store.example.com/layer"]}
    for change in (
        {"org.example.unknown": {"a": [1]}},
        {"layers": [away]},
        {"layers": []},
        {"annotations": {str(number): "A" * 10_000 for number in range(390)}},
        {"config": value["config"] | {"data": "e30="}},
    ):
        body = json.dumps(value | change, indent=1).encode() + b" "
        assert repository.put("kept", body)[0] == 201, list(change)
        assert repository.ask("GET", "manifests/kept")[2] == body


def test_a_mount_without_a_source_is_an_upload(there, repository):
    blob = there.push_blob(b"anonymous")["digest"]
    status, headers, _ = repository.ask("POST", f"blobs/uploads/?mount={blob}")
    assert (status, "uploads" in headers["location"]) == (202, True)


def test_an_empty_index(there):
    body = json.dumps({"schemaVersion": 2, "mediaType": INDEX, "manifests": []}).encode()
    assert there.put("empty", body, INDEX)[0] == 201
    assert there.ask("GET", "manifests/empty")[2] == body
    assert there.put("no-list", b'{"schemaVersion": 2}', INDEX)[0] == 400


# Content discovery


def test_tags_in_order_and_in_pages(repository):
    body = repository.manifest()
    for tag in ("b", "A", "c", "B"):
        repository.put(tag, body)
    assert repository.tags() == ["A", "B", "b", "c"]
    _, headers, got = repository.ask("GET", "tags/list?n=2")
    assert json.loads(got) == {"name": repository.name, "tags": ["A", "B"]}
    path, _, relation = headers["link"].partition("; ")
    assert relation == 'rel="next"'
    assert json.loads(repository.ask("GET", path.strip("<>"))[2])["tags"] == ["b", "c"]
    status, headers, got = repository.ask("GET", "tags/list?n=0")
    assert (status, json.loads(got)["tags"], "link" in headers) == (200, [], False)
    assert repository.refused("GET", "tags/list?n=x") == (400, "PAGINATION_NUMBER_INVALID")
    assert json.loads(repository.ask("GET", "tags/list?last=b")[2])["tags"] == ["c"]


def test_referrers(there):
    assert referrers(there, digest_of(b"nobody's"))[0] == []
    # The subject comes later, or never.
    body = there.manifest(layer=b"subject")
    subject = digest_of(body)
    signature, headers = artifact(there, "example/signature", subject, annotations={"a": "b"})
    assert headers["oci-subject"] == subject
    bill, _ = artifact(there, "example/bill", subject, reference="bill")
    assert there.put("subject", body)[0] == 201
    assert "oci-subject" not in there.put("subject", body)[1]
    found, headers = referrers(there, subject)
    assert {one["digest"] for one in found} == {signature, bill}
    assert "oci-filters-applied" not in headers
    found, headers = referrers(there, f"{subject}?artifactType=example/signature")
    size = len(there.ask("GET", f"manifests/{signature}")[2])
    expected = {"mediaType": MANIFEST, "digest": signature, "size": size}
    assert found == [expected | {"artifactType": "example/signature", "annotations": {"a": "b"}}]
    assert headers["oci-filters-applied"] == "artifactType"
    assert there.refused("GET", "referrers/sha256:x") == (400, "DIGEST_INVALID")
    assert there.ask("DELETE", f"manifests/{signature}")[0] == 202
    assert [one["digest"] for one in referrers(there, subject)[0]] == [bill]


def test_referrers_in_pages(repository):
    """As many as are asked for; and unasked, what a client takes as one manifest."""
    subject, kind = digest_of(b"of many"), "example/a+b"
    annotations = {"long": "A" * 1_500_000}
    digests = {
        artifact(repository, kind, subject, annotations=annotations | {"n": str(n)})[0] for n in range(3)
    }
    artifact(repository, "example/other", subject)
    for query in ("n=2&artifactType=example/a%2Bb", "artifactType=example/a%2Bb"):
        path, pages = f"{subject}?{query}", []
        while path:
            found, headers = referrers(repository, path)
            assert (
                headers["oci-filters-applied"] == "artifactType" and int(headers["content-length"]) <= 4 << 20
            )
            pages.append([one["digest"] for one in found])
            link, _, relation = headers.get("link", "").partition("; ")
            assert not link or relation == 'rel="next"'
            path = link.strip("<>").rpartition("/")[2]
        assert [len(page) for page in pages] == [2, 1]
        assert {one for page in pages for one in page} == digests
    assert referrers(repository, f"{subject}?n=0")[0] == []


def test_the_kind_of_a_referrer_is_else_that_of_its_configuration(there):
    subject = digest_of(b"of another kind")
    config = there.push_blob(b"[]") | {"mediaType": "example/config"}
    artifact(there, "", subject, config=config)
    assert (
        referrers(there, f"{subject}?artifactType=example/config")[0][0]["artifactType"] == "example/config"
    )


def test_a_subject_is_a_descriptor(there):
    body = json.loads(there.manifest()) | {"subject": {"digest": "x", "size": 1}}
    refused = there.refused("PUT", "manifests/a", json.dumps(body).encode(), {"Content-Type": MANIFEST})
    assert refused == (400, "MANIFEST_INVALID")


# Content management


def test_a_tag_goes_and_leaves_the_image(repository):
    body = repository.manifest()
    repository.put("one", body)
    assert repository.ask("DELETE", "manifests/one")[0] == 202
    assert repository.refused("GET", "manifests/one") == (404, "MANIFEST_UNKNOWN")
    assert repository.tags() == []
    assert repository.ask("GET", f"manifests/{digest_of(body)}")[2] == body
    assert repository.ask("DELETE", f"manifests/{digest_of(body)}")[0] == 202
    assert repository.refused("DELETE", f"manifests/{digest_of(body)}") == (404, "MANIFEST_UNKNOWN")


def test_no_deletion_breaks_an_image(repository):
    body = repository.manifest()
    repository.put("image", body)
    image, layer = digest_of(body), digest_of(b"layer")
    entry = {"mediaType": MANIFEST, "digest": image, "size": len(body)}
    index = json.dumps({"schemaVersion": 2, "mediaType": INDEX, "manifests": [entry]}).encode()
    assert repository.put("index", index, INDEX)[0] == 201
    assert repository.refused("DELETE", f"blobs/{layer}") == (405, "DENIED")
    assert repository.refused("DELETE", f"manifests/{image}") == (405, "DENIED")
    ids = [{"imageDigest": image}]
    [failure] = repository.ecr.batch_delete_image(repositoryName=repository.name, imageIds=ids)["failures"]
    assert failure["failureCode"] == "ImageReferencedByManifestList"
    assert repository.ask("GET", f"blobs/{layer}")[2] == b"layer"
    assert repository.ask("GET", "manifests/image")[2] == body
    for path in (f"manifests/{digest_of(index)}", f"manifests/{image}", f"blobs/{layer}"):
        assert repository.ask("DELETE", path)[0] == 202
        assert repository.ask("GET", path)[0] == 404
