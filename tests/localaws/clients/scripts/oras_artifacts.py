"""oras, the OCI client in Python: artifacts, by ECR's host with its login by boto3, and by the registry's own address."""

import base64
import hashlib
import os
from pathlib import Path

import boto3
from oras.client import OrasClient
from oras.oci import Subject

ecr = boto3.client("ecr")
repository = ecr.create_repository(repositoryName="artifacts")["repository"]
host = f"{repository['registryId']}.dkr.ecr.{ecr.meta.region_name}.amazonaws.com"
authorization = ecr.get_authorization_token()["authorizationData"][0]
user, password = base64.b64decode(authorization["authorizationToken"]).decode().split(":")
Path("rows.csv").write_text("5.1,3.5,1.4,0.2\n")
Path("signature.txt").write_text("signed")

by_host = OrasClient(auth_backend="ecr", tls_verify=os.environ["AWS_CA_BUNDLE"])
here = OrasClient(insecure=True, auth_backend="basic")
here.login(
    username=user, password=password, hostname=authorization["proxyEndpoint"], config_path="./login.json"
)
for client, target in ((by_host, f"{host}/artifacts"), (here, repository["repositoryUri"])):
    name = client.prefix
    pushed = client.push(target=f"{target}:{name}", files=["rows.csv:text/csv"], do_chunked=name == "http")
    digest = pushed.headers["Docker-Content-Digest"]
    manifest = client.do_request(f"{name}://{target.replace('/', '/v2/', 1)}/manifests/{name}").content
    assert digest == f"sha256:{hashlib.sha256(manifest).hexdigest()}"
    subject = Subject("application/vnd.oci.image.manifest.v1+json", digest, len(manifest))
    signed = {"org.example.signed-by": name}
    client.push(
        target=f"{target}:signed-{name}",
        files=["signature.txt:text/plain"],
        subject=subject,
        manifest_annotations=signed,
    )
    (pulled,) = client.pull(target=f"{target}:{name}", outdir=f"pulled-{name}")
    assert Path(pulled).read_text() == Path("rows.csv").read_text()
    referrers = client.do_request(f"{name}://{target.replace('/', '/v2/', 1)}/referrers/{digest}").json()
    print("REFERRERS", name, [one["artifactType"] for one in referrers["manifests"]])
print("TAGS", here.get_tags(repository["repositoryUri"]) == by_host.get_tags(f"{host}/artifacts"))
print("TAGS", *by_host.get_tags(f"{host}/artifacts", N=3))
assert by_host.delete_tag(f"{host}/artifacts", "signed-http")
print("LEFT", *here.get_tags(repository["repositoryUri"]))
