"""The points that OCI's distribution specification 1.1 has in its four workflows: pull, push, discovery, management."""

import json

import pytest
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
    assert json.loads(repository.ask("GET", "tags/list?n=0")[2])["tags"] == []
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
