"""What moto answers wrongly or not at all, put in its place: ECR's images and login, and IAM's SimulatePrincipalPolicy.

The registry is the one that knows which images exist. moto keeps the repositories and their settings.
"""

import hashlib
import json
import re
from base64 import b64encode
from collections.abc import Callable
from datetime import UTC
from fnmatch import translate
from typing import NamedTuple

import moto.ecr.exceptions as refusals
import moto.ecr.models
import moto.ecr.responses
import moto.iam.responses
import moto.s3.exceptions
import moto.s3.responses
import xmltodict
from moto.backends import get_backend
from moto.core.responses import ActionResult
from moto.ecr.responses import ECRResponse

from localaws.images.registry import INDEXES, Registry, RegistryError, place, placed
from localaws.state import locate

from . import caller
from .kept import backend

REFUSED = {
    "InitiateLayerUpload": "push the image by `docker push` or `python -m localaws push`",
    "UploadLayerPart": "push the image by `docker push` or `python -m localaws push`",
    "CompleteLayerUpload": "push the image by `docker push` or `python -m localaws push`",
    "GetDownloadUrlForLayer": "pull the image by `docker pull`",
    "BatchCheckLayerAvailability": "ask the registry: HEAD /v2/NAME/blobs/DIGEST",
    "StartImageScan": "no scanner runs here",
    "DescribeImageScanFindings": "no scanner runs here",
    **dict.fromkeys(("CreateApiDestination", "CreateConnection"), "nothing is sent off this machine"),
    **dict.fromkeys(
        ("CreateStackSet", "CreateStackInstances"), "here is one account: create a stack in each region"
    ),
    **dict.fromkeys(("CreateArchive", "StartReplay"), "give the rule a log group as its target"),
    **dict.fromkeys(
        ("CreatePlatformApplication", "CreatePlatformEndpoint", "SetSMSAttributes", "OptInPhoneNumber"),
        "nothing is sent off this machine",
    ),
}
PAGE = 100  # ECR's default for maxResults

registry: Registry = None  # moto's state is one for a process, and so are these
address = ""  # HOST:PORT, where the registry is
connect: Callable = None  # gives boto3's client of a service in a region, for what moto does by itself
keep: Callable = None  # writes what a service has changed in a region, outside of a request


class Key(NamedTuple):
    """What belongs to an access key: its secret, and where it is temporary its session token and when it ends."""

    secret_key: str
    token: str | None = None
    ends: float = float("inf")


def key(identity: str) -> Key | None:
    """Return the key with an id that IAM or STS gave out; None for one that may not be used."""
    given = backend("iam").access_keys.get(identity)
    if given is None or given.status != "Active":
        return None
    role = backend("sts").get_assumed_role_from_access_key(identity)
    if role:
        ends = role.expiration.replace(tzinfo=UTC).timestamp()
        return Key(given.secret_access_key, role.session_token, ends)
    return Key(given.secret_access_key)


def describe_repository(name: str) -> dict | None:
    """Return what the registry asks of ECR about a repository, None when it does not exist."""
    region, own = place(name)
    if region not in get_backend("ecr")[locate.ACCOUNT]:
        return None
    repository = backend("ecr", region).repositories.get(own)
    return repository and {"imageTagMutability": repository.image_tag_mutability}


class Images(ECRResponse):
    """moto's reader of ECR's requests, for the images that the registry has."""

    def get_authorization_token(self) -> ActionResult:
        password, expires = registry.password()
        token = b64encode(f"AWS:{password}".encode()).decode()
        data = {"authorizationToken": token, "expiresAt": expires, "proxyEndpoint": f"http://{address}"}
        return ActionResult({"authorizationData": [data]})

    def delete_repository(self) -> ActionResult:
        name = self._repository()
        if registry.images(name) and not self._get_param("force"):
            raise refusals.RepositoryNotEmptyException(place(name)[1], locate.ACCOUNT)
        # The images first: killed in between, the repository is there and empty, not gone with images to reappear.
        registry.delete_repository(name)
        return super().delete_repository()

    def describe_images(self) -> ActionResult:
        name, images = self._selected()
        details = [
            {
                "registryId": locate.ACCOUNT,
                "repositoryName": place(name)[1],
                "imageDigest": image["digest"],
                "imageTags": image["tags"] or None,
                "imageSizeInBytes": image["size"],
                "imagePushedAt": image["pushed"],
                "imageManifestMediaType": image["mediaType"],
            }
            for image in images
        ]
        return self._page("imageDetails", details)

    def list_images(self) -> ActionResult:
        ids = [
            {"imageDigest": image["digest"], "imageTag": tag}
            for image in self._selected()[1]
            for tag in image["tags"] or [None]
        ]
        return self._page("imageIds", ids)

    def batch_get_image(self) -> ActionResult:
        name = self._repository()
        images, failures = [], []
        for wanted in self._get_param("imageIds", []):
            if image := _find(name, wanted):
                images.append(_image(name, {"imageDigest": image["digest"], **wanted}, image["mediaType"]))
            else:
                failures.append(_not_found(wanted))
        return ActionResult({"images": images, "failures": failures})

    def put_image(self) -> ActionResult:
        name, body = self._repository(), self._get_param("imageManifest", "")
        digest = "sha256:" + hashlib.sha256(body.encode()).hexdigest()
        tag = self._get_param("imageTag")
        held = _find(name, {"imageDigest": digest})
        if held and (tag is None or tag in held["tags"]):
            raise refusals.ImageAlreadyExistsException(place(name)[1], locate.ACCOUNT, digest, tag)
        try:
            media_type = self._get_param("imageManifestMediaType") or json.loads(body).get("mediaType", "")
            reference = tag or self._get_param("imageDigest", digest)
            digest = registry.put_manifest(name, reference, body.encode(), media_type)
        except RegistryError as error:
            code = {
                "MANIFEST_BLOB_UNKNOWN": f"{'ReferencedImages' if media_type in INDEXES else 'Layers'}NotFoundException",
                "DIGEST_INVALID": "ImageDigestDoesNotMatchException",
            }.get(error.code, "InvalidParameterException")
            raise refusals.InvalidParameterException(code, str(error)) from error
        except (ValueError, AttributeError) as error:
            raise refusals.InvalidParameterException(str(error)) from error
        return ActionResult({"image": _image(name, {"imageDigest": digest, "imageTag": tag}, media_type)})

    def batch_delete_image(self) -> ActionResult:
        name = self._repository()
        gone, failures = [], []
        for wanted in self._get_param("imageIds", []):
            if image := _find(name, wanted):
                try:
                    went = registry.delete_image(name, wanted.get("imageTag") or image["digest"])
                except RegistryError as error:
                    code = "ImageReferencedByManifestList"
                    failures.append({"imageId": wanted, "failureCode": code, "failureReason": str(error)})
                    continue
                gone += [{"imageDigest": digest, "imageTag": tag} for digest, tag in went]
            else:
                failures.append(_not_found(wanted))
        return ActionResult({"imageIds": gone, "failures": failures})

    def _repository(self) -> str:
        """What the repository that is asked for is called here. Raises RepositoryNotFoundException."""
        name = self._get_param("repositoryName")
        self.ecr_backend.describe_repositories(repository_names=[name])
        return placed(name, self.region)

    def _selected(self) -> tuple[str, list[dict]]:
        """The repository and those of its images that are asked for. Raises ImageNotFoundException."""
        name = self._repository()
        if wanted := self._get_param("imageIds"):
            images = [_find(name, one) for one in wanted]
            if None in images:
                one = {"imageDigest": "null", "imageTag": "null"} | wanted[images.index(None)]
                words = f"{{imageDigest:'{one['imageDigest']}', imageTag:'{one['imageTag']}'}}"
                raise refusals.ImageNotFoundException(words, place(name)[1], locate.ACCOUNT)
            return name, images
        status = self._get_param("filter", {}).get("tagStatus", "ANY")
        images = registry.images(name)
        return name, [one for one in images if status in ("ANY", "TAGGED" if one["tags"] else "UNTAGGED")]

    def _page(self, key: str, items: list) -> ActionResult:
        """One page; its token is the number of the item that the next one begins with."""
        token = self._get_param("nextToken", "0")
        if not token.isdecimal():
            raise refusals.InvalidParameterException(f"Invalid parameter at 'nextToken': {token!r}")
        begin, end = int(token), int(token) + self._get_param("maxResults", PAGE)
        return ActionResult({key: items[begin:end], "nextToken": str(end) if end < len(items) else None})


def _find(name: str, wanted: dict) -> dict | None:
    for image in registry.images(name):
        by_digest = wanted.get("imageDigest", image["digest"]) == image["digest"]
        if wanted and by_digest and ("imageTag" not in wanted or wanted["imageTag"] in image["tags"]):
            return image
    return None


def _not_found(wanted: dict) -> dict:
    if not wanted:
        reason = "Invalid request parameters: both tag and digest cannot be null"
        return {"imageId": wanted, "failureCode": "MissingDigestAndTag", "failureReason": reason}
    return {"imageId": wanted, "failureCode": "ImageNotFound", "failureReason": "Requested image not found"}


def _image(name: str, image_id: dict, media_type: str) -> dict:
    return {
        "registryId": locate.ACCOUNT,
        "repositoryName": place(name)[1],
        "imageId": image_id,
        "imageManifest": registry.read_manifest(image_id["imageDigest"]).decode(),
        "imageManifestMediaType": media_type,
    }


class Simulator(moto.iam.responses.IamResponse):
    """moto's reader of IAM's requests, and the one operation of the policy simulator that is asked for."""

    def simulate_principal_policy(self) -> ActionResult:
        """Evaluate a role's policies: Action, Resource and their opposites, with wildcards; Deny wins.

        A statement with a Condition does not apply, because the request carries no context: its keys are reported
        as MissingContextValues, as the service does.
        """
        role = self.backend.get_role(self._get_param("PolicySourceArn").rsplit("/", 1)[-1])
        documents = [json.loads(document) for document in role.policies.values()]
        for policy in role.managed_policies.values():
            (document,) = (version.document for version in policy.versions if version.is_default)
            documents.append(json.loads(document))
        statements = [one for document in documents for one in _listed(document["Statement"])]
        results = []
        for action in self._get_param("ActionNames"):
            for resource in self._get_param("ResourceArns", ["*"]):
                decision, missing = _decide(statements, action, resource)
                asked = {"EvalActionName": action, "EvalResourceName": resource, "EvalDecision": decision}
                results.append({**asked, "MatchedStatements": [], "MissingContextValues": sorted(missing)})
        return ActionResult({"EvaluationResults": results, "IsTruncated": False})


def _decide(statements: list[dict], action: str, resource: str) -> tuple[str, set[str]]:
    """Return IAM's decision, and the condition keys that kept statements from applying."""
    decision, missing = "implicitDeny", set()
    for statement in statements:
        if not _applies(statement, "Action", action.lower()) or not _applies(statement, "Resource", resource):
            continue
        if conditions := statement.get("Condition"):
            missing |= {key for operands in conditions.values() for key in operands}
        elif statement["Effect"] == "Deny":
            return "explicitDeny", missing
        else:
            decision = "allowed"
    return decision, missing


def _applies(statement: dict, element: str, value: str) -> bool:
    opposite = f"Not{element}" in statement
    patterns = _listed(statement.get(f"Not{element}" if opposite else element, []))
    lowered = [one.lower() if element == "Action" else one for one in patterns]
    # In a policy a bracket is only a bracket.
    matches = any(re.match(translate(one.replace("[", "[[]")), value) for one in lowered)
    return matches != opposite


def _listed(value) -> list:
    return value if isinstance(value, list) else [value]


class Payer(moto.s3.responses.S3Response):
    """moto's reader of S3's requests, and who pays for them: which is kept and told, and nobody pays here."""

    def _bucket_response_get(self, bucket_name: str, querystring: dict):
        if "requestPayment" in querystring:
            return self.get_bucket_request_payment()
        return super()._bucket_response_get(bucket_name, querystring)

    def _bucket_response_put(self, request, bucket_name: str, querystring: dict):
        if "requestPayment" in querystring:
            return self.put_bucket_request_payment()
        return super()._bucket_response_put(request, bucket_name, querystring)

    def get_bucket_request_payment(self):
        payer = getattr(self.backend.head_bucket(self.bucket_name), "payer", "BucketOwner")
        self.data["Action"] = "GetBucketRequestPayment"
        return self.serialized(ActionResult({"Payer": payer}))

    def put_bucket_request_payment(self):
        payer = xmltodict.parse(self.body)["RequestPaymentConfiguration"]["Payer"]
        if payer not in ("BucketOwner", "Requester"):
            raise moto.s3.exceptions.MalformedXML()
        self.backend.head_bucket(self.bucket_name).payer = payer
        return ""


# By the names of moto's methods.
OURS = {"ecr": vars(Images), "iam": vars(Simulator), "s3": vars(Payer), "sts": vars(caller.Identity)}
moto.ecr.responses.ECRResponse = Images
moto.iam.responses.IamResponse = Simulator
moto.s3.responses.S3Response = Payer
# A repository is where the registry is, on whatever port that is now.
moto.ecr.models.Repository.uri = property(
    lambda self: f"{address}/{placed(self.name, self.region_name)}", lambda self, uri: None
)
