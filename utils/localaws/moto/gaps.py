"""What moto answers wrongly or not at all: ECR's images and login, and IAM's SimulatePrincipalPolicy.

The registry is the one that knows which images exist. moto keeps the repositories and their settings.
"""

import hashlib
import json
import re
import uuid
from base64 import b64encode
from collections.abc import Callable
from datetime import UTC
from fnmatch import translate
from typing import NamedTuple
from urllib.parse import parse_qs
from xml.sax.saxutils import escape

from botocore.exceptions import ClientError
from werkzeug import Request, Response

from localaws import protocol
from localaws.errors import AwsError
from localaws.images.registry import Registry, RegistryError

from .backend import get_backend

ECR = "AmazonEC2ContainerRegistry_V20150921"
ECR_HOST = re.compile(rb"\d{12}\.dkr\.ecr\.[a-z0-9-]+\.amazonaws\.com")
ECR_REFUSED = {
    "InitiateLayerUpload": "push the image by `docker push` or `python -m localaws push`",
    "UploadLayerPart": "push the image by `docker push` or `python -m localaws push`",
    "CompleteLayerUpload": "push the image by `docker push` or `python -m localaws push`",
    "GetDownloadUrlForLayer": "pull the image by `docker pull`",
    "BatchCheckLayerAvailability": "ask the registry: HEAD /v2/NAME/blobs/DIGEST",
    "StartImageScan": "no scanner runs here",
    "DescribeImageScanFindings": "no scanner runs here",
}
OPERATIONS = {
    "BatchDeleteImage",
    "BatchGetImage",
    "DescribeImages",
    "GetAuthorizationToken",
    "ListImages",
    "PutImage",
}
PAGE = 100  # ECR's default for maxResults
IAM_XML = "https://iam.amazonaws.com/doc/2010-05-08/"


class Key(NamedTuple):
    """What belongs to an access key: its secret, and where it is temporary its session token and when it ends."""

    secret_key: str
    token: str | None = None
    ends: float = float("inf")


class Gaps:
    """Answers in moto's place. `backend` is moto, `url` where the front listens, `connect` gives a client of a service."""

    def __init__(self, registry: Registry, backend, connect: Callable, url: str, region: str, account: str):
        self.registry, self.backend = registry, backend
        self.url, self.region, self.account = url, region, account
        self.ecr, self.iam = map(connect, ("ecr", "iam"))

    def answer(self, request: Request, region: str) -> Response | None:
        """Answer a request that moto cannot; None means that moto can."""
        target, _, operation = request.headers.get("X-Amz-Target", "").partition(".")
        if target == ECR:
            return self._ecr(request, operation, region)
        if request.mimetype == "application/x-www-form-urlencoded":
            form = parse_qs(protocol.peek(request).decode("utf-8", "replace"))
            if form.get("Action") == ["SimulatePrincipalPolicy"]:
                return self._simulate(form)
        return None

    def key(self, identity: str) -> Key | None:
        """Return the key with an id that IAM or STS gave out; None for one that may not be used."""
        key = get_backend("iam")[self.account]["aws"].access_keys.get(identity)
        if key is None or key.status != "Active":
            return None
        role = get_backend("sts")[self.account]["aws"].get_assumed_role_from_access_key(identity)
        if role:
            return Key(
                key.secret_access_key, role.session_token, role.expiration.replace(tzinfo=UTC).timestamp()
            )
        return Key(key.secret_access_key)

    def describe_repository(self, name: str) -> dict | None:
        """Return what ECR knows of a repository of our region, None when it does not exist."""
        try:
            return self.ecr.describe_repositories(repositoryNames=[name])["repositories"][0]
        except self.ecr.exceptions.RepositoryNotFoundException:
            return None

    # ECR

    def _ecr(self, request: Request, operation: str, region: str) -> Response:
        if operation in ECR_REFUSED:
            raise AwsError(
                "NotServedByLocalaws", f"localaws does not serve {operation}: {ECR_REFUSED[operation]}", 501
            )
        # The registry is that of one region; moto keeps other regions' repositories to itself.
        if region == self.region and operation == "DeleteRepository":
            return self._delete_repository(request, region)
        if region == self.region and operation in OPERATIONS:
            return protocol.answer(getattr(self, f"_{_snake(operation)}")(protocol.parse(request)))
        response = self.backend(request, region, "ecr")
        host = self.url.removeprefix("http://").encode()
        response.set_data(ECR_HOST.sub(host, response.get_data().replace(b'"https://', b'"http://')))
        return response

    def _get_authorization_token(self, parameters: dict) -> dict:
        password, expires = self.registry.password()
        token = b64encode(f"AWS:{password}".encode()).decode()
        return {
            "authorizationData": [
                {"authorizationToken": token, "expiresAt": expires, "proxyEndpoint": self.url}
            ]
        }

    def _delete_repository(self, request: Request, region: str) -> Response:
        parameters = protocol.parse(request)
        name = self._known(parameters)
        if self.registry.images(name) and not parameters.get("force"):
            raise AwsError(
                "RepositoryNotEmptyException",
                f"The repository with name '{name}' in registry with id '{self.account}' cannot be deleted "
                "because it still contains images",
            )
        # The images first: killed in between, the repository is there and empty, not gone with images to reappear.
        self.registry.delete_repository(name)
        return self.backend(request, region, "ecr")

    def _describe_images(self, parameters: dict) -> dict:
        name = self._known(parameters)
        images = self._selected(name, parameters)
        details = [
            {
                "registryId": self.account,
                "repositoryName": name,
                "imageDigest": image["digest"],
                **({"imageTags": image["tags"]} if image["tags"] else {}),
                "imageSizeInBytes": image["size"],
                "imagePushedAt": image["pushed"],
                "imageManifestMediaType": image["mediaType"],
            }
            for image in images
        ]
        return _page("imageDetails", details, parameters)

    def _list_images(self, parameters: dict) -> dict:
        ids = [
            {"imageDigest": image["digest"], **({"imageTag": tag} if tag else {})}
            for image in self._selected(self._known(parameters), parameters)
            for tag in image["tags"] or [None]
        ]
        return _page("imageIds", ids, parameters)

    def _batch_get_image(self, parameters: dict) -> dict:
        name = self._known(parameters)
        images, failures = [], []
        for wanted in parameters.get("imageIds", []):
            image = self._find(name, wanted)
            if image is None:
                failures.append(_not_found(wanted))
                continue
            images.append(self._image(name, {"imageDigest": image["digest"], **wanted}, image["mediaType"]))
        return {"images": images, "failures": failures}

    def _put_image(self, parameters: dict) -> dict:
        name, body = self._known(parameters), parameters.get("imageManifest", "")
        digest = "sha256:" + hashlib.sha256(body.encode()).hexdigest()
        tag = parameters.get("imageTag")
        held = self._find(name, {"imageDigest": digest})
        if held and (tag is None or tag in held["tags"]):
            what = f"tag '{tag}'" if tag else f"digest '{digest}'"
            raise AwsError(
                "ImageAlreadyExistsException",
                f"Image with {what} already exists in the repository with name '{name}' "
                f"in registry with id '{self.account}'",
            )
        try:
            media_type = parameters.get("imageManifestMediaType") or json.loads(body).get("mediaType", "")
            self.registry.put_manifest(
                name, tag or parameters.get("imageDigest", digest), body.encode(), media_type
            )
        except (RegistryError, ValueError, AttributeError) as error:
            raise AwsError("InvalidParameterException", str(error)) from error
        return {
            "image": self._image(
                name, {"imageDigest": digest, **({"imageTag": tag} if tag else {})}, media_type
            )
        }

    def _batch_delete_image(self, parameters: dict) -> dict:
        name = self._known(parameters)
        gone, failures = [], []
        for wanted in parameters.get("imageIds", []):
            image = self._find(name, wanted)
            if image is None:
                failures.append(_not_found(wanted))
                continue
            for digest, tag in self.registry.delete_image(name, wanted.get("imageTag") or image["digest"]):
                gone.append({"imageDigest": digest, **({"imageTag": tag} if tag else {})})
        return {"imageIds": gone, "failures": failures}

    def _known(self, parameters: dict) -> str:
        name = parameters.get("repositoryName", "")
        if self.describe_repository(name) is None:
            raise AwsError(
                "RepositoryNotFoundException",
                f"The repository with name '{name}' does not exist in the registry with id '{self.account}'",
            )
        return name

    def _find(self, name: str, wanted: dict) -> dict | None:
        for image in self.registry.images(name):
            by_digest = wanted.get("imageDigest", image["digest"]) == image["digest"]
            if wanted and by_digest and ("imageTag" not in wanted or wanted["imageTag"] in image["tags"]):
                return image
        return None

    def _selected(self, name: str, parameters: dict) -> list[dict]:
        if wanted := parameters.get("imageIds"):
            images = [(one, self._find(name, one)) for one in wanted]
            for one, image in images:
                if image is None:
                    raise AwsError(
                        "ImageNotFoundException",
                        f"The image with imageId {_words(one)} does not exist within the repository with name "
                        f"'{name}' in the registry with id '{self.account}'",
                    )
            return [image for _, image in images]
        status = parameters.get("filter", {}).get("tagStatus", "ANY")
        return [
            image
            for image in self.registry.images(name)
            if status == "ANY" or (status == "TAGGED") == bool(image["tags"])
        ]

    def _image(self, name: str, image_id: dict, media_type: str) -> dict:
        return {
            "registryId": self.account,
            "repositoryName": name,
            "imageId": image_id,
            "imageManifest": self.registry.read_manifest(image_id["imageDigest"]).decode(),
            "imageManifestMediaType": media_type,
        }

    # IAM

    def _simulate(self, form: dict[str, list[str]]) -> Response:
        """Evaluate a role's policies: Action, Resource and their opposites, with wildcards; Deny wins.

        A statement with a Condition does not apply, because the request carries no context: its keys are reported
        as MissingContextValues, as the service does.
        """
        role = form.get("PolicySourceArn", [""])[0]
        try:
            statements = self._statements(role)
        except ClientError as error:
            code, message = error.response["Error"]["Code"], error.response["Error"]["Message"]
            return protocol.failure_xml(AwsError(code, message, 404 if code == "NoSuchEntity" else 400))
        actions, resources = _members(form, "ActionNames"), _members(form, "ResourceArns") or ["*"]
        results = []
        for action in actions:
            for resource in resources:
                decision, missing = _decide(statements, action, resource)
                keys = "".join(f"<member>{escape(key)}</member>" for key in sorted(missing))
                results.append(
                    f"<member><EvalActionName>{escape(action)}</EvalActionName>"
                    f"<EvalResourceName>{escape(resource)}</EvalResourceName>"
                    f"<EvalDecision>{decision}</EvalDecision>"
                    f"<MatchedStatements/><MissingContextValues>{keys}</MissingContextValues></member>"
                )
        body = f"<EvaluationResults>{''.join(results)}</EvaluationResults><IsTruncated>false</IsTruncated>"
        metadata = f"<ResponseMetadata><RequestId>{uuid.uuid4()}</RequestId></ResponseMetadata>"
        return Response(
            f'<SimulatePrincipalPolicyResponse xmlns="{IAM_XML}"><SimulatePrincipalPolicyResult>{body}'
            f"</SimulatePrincipalPolicyResult>{metadata}</SimulatePrincipalPolicyResponse>",
            content_type="text/xml",
        )

    def _statements(self, arn: str) -> list[dict]:
        role = arn.rsplit("/", 1)[-1]
        documents = []
        for name in self.iam.list_role_policies(RoleName=role)["PolicyNames"]:
            documents.append(self.iam.get_role_policy(RoleName=role, PolicyName=name)["PolicyDocument"])
        for attached in self.iam.list_attached_role_policies(RoleName=role)["AttachedPolicies"]:
            policy = self.iam.get_policy(PolicyArn=attached["PolicyArn"])["Policy"]
            version = self.iam.get_policy_version(
                PolicyArn=policy["Arn"], VersionId=policy["DefaultVersionId"]
            )
            documents.append(version["PolicyVersion"]["Document"])
        return [statement for document in documents for statement in _listed(document["Statement"])]


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
    if f"Not{element}" in statement:
        return not _matches(statement[f"Not{element}"], element, value)
    return _matches(statement.get(element, []), element, value)


def _matches(patterns, element: str, value: str) -> bool:
    lowered = [one.lower() if element == "Action" else one for one in _listed(patterns)]
    # In a policy a bracket is only a bracket.
    return any(re.match(translate(one.replace("[", "[[]")), value) for one in lowered)


def _listed(value) -> list:
    return value if isinstance(value, list) else [value]


def _members(form: dict[str, list[str]], name: str) -> list[str]:
    numbered = re.compile(rf"{name}\.member\.(\d+)")
    found = {int(match[1]): values[0] for key, values in form.items() if (match := numbered.fullmatch(key))}
    return [found[number] for number in sorted(found)]


def _page(key: str, items: list, parameters: dict) -> dict:
    """Return one page; its token is the number of the item that the next one begins with."""
    token = parameters.get("nextToken", "0")
    if not token.isdecimal():
        raise AwsError("InvalidParameterException", f"Invalid parameter at 'nextToken': {token!r}")
    begin, size = int(token), parameters.get("maxResults", PAGE)
    more = {"nextToken": str(begin + size)} if begin + size < len(items) else {}
    return {key: items[begin : begin + size], **more}


def _not_found(wanted: dict) -> dict:
    if not wanted:
        reason = "Invalid request parameters: both tag and digest cannot be null"
        return {"imageId": wanted, "failureCode": "MissingDigestAndTag", "failureReason": reason}
    return {"imageId": wanted, "failureCode": "ImageNotFound", "failureReason": "Requested image not found"}


def _words(image_id: dict) -> str:
    digest, tag = image_id.get("imageDigest", "null"), image_id.get("imageTag", "null")
    return f"{{imageDigest:'{digest}', imageTag:'{tag}'}}"


def _snake(operation: str) -> str:
    return re.sub(r"(?<!^)(?=[A-Z])", "_", operation).lower()
