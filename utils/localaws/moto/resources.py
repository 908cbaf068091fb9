"""The resources that a CloudFormation stack can have, each made by its own service's client.

`KINDS` says what is served: a type or a property that is not in it is refused by name.
"""

import json
import time
from contextlib import suppress

from botocore import xform_name
from botocore.exceptions import ClientError
from moto.cloudformation.exceptions import UnformattedGetAttTemplateException

from localaws import services

POLL_SECONDS = 0.2


class Failed(Exception):
    """A resource could not be made; the message says why."""


class Kind:
    """A type of resource: how it is made, changed and deleted.

    service:     botocore's name of the service whose client does it
    operation:   of the call that makes it, whose fields are the properties, by their names in CamelCase
    named:       the property with its name
    given:       properties beside the fields of that call
    changeable:  properties that change in place; of any other, AWS makes the resource anew
    attributes:  what Fn::GetAtt gives
    """

    service = operation = named = ""
    only: frozenset[str] = frozenset()
    given: frozenset[str] = frozenset()
    changeable: frozenset[str] = frozenset()
    attributes: tuple[str, ...] = ()

    def fields(self) -> dict:
        """The fields of the call that makes it, by the property's name."""
        members = services.model(self.service).operation_model(self.operation).input_shape.members
        named = {name[0].upper() + name[1:]: (name, shape) for name, shape in members.items()}
        return {name: one for name, one in named.items() if not self.only or name in self.only}

    @property
    def served(self) -> set[str]:
        return {*self.fields(), *self.given, self.named}

    def request(self, properties: dict) -> dict:
        """The properties as the call wants them."""
        fields = self.fields()
        return {
            fields[name][0]: _shaped(fields[name][1], value)
            for name, value in properties.items()
            if name in fields
        }

    def create(self, client, name: str, properties: dict) -> tuple[str, dict]:
        """Make one; its physical id, which is what Ref gives, and its attributes."""
        raise NotImplementedError

    def settle(self, client, made: "Made") -> None:
        """Bring one that is made to what its properties say beyond that call, or wait until it is."""

    def change(self, client, made: "Made", properties: dict) -> None:
        """Change one in place."""

    def delete(self, client, made: "Made") -> None:
        """Delete one."""
        raise NotImplementedError


class Made:
    """A resource of a stack, as it was made; `policies` are DeletionPolicy and UpdateReplacePolicy of its template."""

    def __init__(self, kind: str, logical: str, physical: str, name: str, properties: dict, attributes: dict):
        self.cf_resource_type, self.logical_resource_id, self.physical_resource_id = kind, logical, physical
        self.name, self.properties, self.attributes = name, properties, attributes
        self.policies: dict[str, str] = {}

    def get_cfn_attribute(self, attribute: str) -> str:
        """What Fn::GetAtt gives. Raises moto's exception for one that the type has not."""
        if attribute not in self.attributes:
            raise UnformattedGetAttTemplateException()
        return self.attributes[attribute]


class SageMaker(Kind):
    """A model, an endpoint configuration or an endpoint; Ref gives its ARN, and an attribute its name."""

    service, changeable = "sagemaker", frozenset({"Tags"})

    def __init__(self, kind: str):
        self.kind, self.operation, self.named = kind, f"Create{kind}", f"{kind}Name"
        self.attributes = (self.named,)

    def create(self, client, name, properties):
        answer = _call(client, self.operation, **self.request(properties) | {self.named: name})
        return answer[f"{self.kind}Arn"], {self.named: name}

    def change(self, client, made, properties):
        tags = self.request(properties).get("Tags", [])
        gone = {tag["Key"] for tag in made.properties.get("Tags", ())} - {tag["Key"] for tag in tags}
        if gone:
            client.delete_tags(ResourceArn=made.physical_resource_id, TagKeys=sorted(gone))
        if tags:
            client.add_tags(ResourceArn=made.physical_resource_id, Tags=tags)

    def delete(self, client, made):
        _call(client, f"Delete{self.kind}", **{self.named: made.name})


class Endpoint(SageMaker):
    """An endpoint is made when it is in service."""

    changeable = frozenset({"Tags", "EndpointConfigName"})

    def settle(self, client, made):
        self._wait(client, made.name)

    def change(self, client, made, properties):
        if properties["EndpointConfigName"] != made.properties["EndpointConfigName"]:
            config = properties["EndpointConfigName"].rpartition("/")[2]
            client.update_endpoint(EndpointName=made.name, EndpointConfigName=config)
            self._wait(client, made.name)
            now = client.describe_endpoint(EndpointName=made.name)
            if now["EndpointConfigName"] != config:  # it has gone back by itself
                raise Failed(now.get("FailureReason", f"The endpoint stays with {now['EndpointConfigName']}"))
        super().change(client, made, properties)

    def delete(self, client, made):
        super().delete(client, made)
        try:
            while client.describe_endpoint(EndpointName=made.name):
                time.sleep(POLL_SECONDS)
        except ClientError:
            pass  # it is gone

    def _wait(self, client, name: str) -> None:
        while (told := client.describe_endpoint(EndpointName=name))["EndpointStatus"] != "InService":
            if told["EndpointStatus"] in ("Failed", "UpdateRollbackFailed", "OutOfService"):
                raise Failed(told.get("FailureReason", told["EndpointStatus"]))
            time.sleep(POLL_SECONDS)


class Repository(Kind):
    """A repository of images."""

    service, operation, named = "ecr", "CreateRepository", "RepositoryName"
    only = frozenset({"ImageTagMutability", "ImageScanningConfiguration", "EncryptionConfiguration", "Tags"})
    given = frozenset({"LifecyclePolicy", "RepositoryPolicyText", "EmptyOnDelete"})
    changeable = frozenset({"ImageTagMutability", "ImageScanningConfiguration", "Tags"}) | given
    attributes = ("Arn", "RepositoryUri")

    def create(self, client, name, properties):
        told = client.create_repository(repositoryName=name, **self.request(properties))["repository"]
        return name, {"Arn": told["repositoryArn"], "RepositoryUri": told["repositoryUri"]}

    def settle(self, client, made):
        self._policies(client, made.name, {}, made.properties)

    def _policies(self, client, name, before, properties):
        of = {"repositoryName": name}
        lifecycle = properties.get("LifecyclePolicy", {}).get("LifecyclePolicyText")
        if lifecycle:
            client.put_lifecycle_policy(**of, lifecyclePolicyText=lifecycle)
        elif "LifecyclePolicy" in before:
            client.delete_lifecycle_policy(**of)
        if policy := properties.get("RepositoryPolicyText"):
            client.set_repository_policy(**of, policyText=_text(policy))
        elif "RepositoryPolicyText" in before:
            client.delete_repository_policy(**of)

    def change(self, client, made, properties):
        asked, of = self.request(properties), {"repositoryName": made.name}
        client.put_image_tag_mutability(**of, imageTagMutability=asked.get("imageTagMutability", "MUTABLE"))
        scanning = asked.get("imageScanningConfiguration", {"scanOnPush": False})
        client.put_image_scanning_configuration(**of, imageScanningConfiguration=scanning)
        arn = made.attributes["Arn"]
        if gone := [tag["Key"] for tag in made.properties.get("Tags", ())]:
            client.untag_resource(resourceArn=arn, tagKeys=gone)
        if asked.get("tags"):
            client.tag_resource(resourceArn=arn, tags=asked["tags"])
        self._policies(client, made.name, made.properties, properties)

    def delete(self, client, made):
        client.delete_repository(repositoryName=made.name, force=bool(made.properties.get("EmptyOnDelete")))


# What is set of a bucket once it is there, and by which call.
SETTINGS = {
    "VersioningConfiguration": "PutBucketVersioning",
    "PublicAccessBlockConfiguration": "PutPublicAccessBlock",
    "Tags": "PutBucketTagging",
}


class Bucket(Kind):
    """A bucket; whoever deletes it has emptied it before, as on AWS."""

    service, operation, named = "s3", "CreateBucket", "BucketName"
    only = frozenset({"BucketName"})
    given = frozenset(SETTINGS)
    changeable = frozenset(SETTINGS)
    attributes = ("Arn", "DomainName", "RegionalDomainName")

    def create(self, client, name, properties):
        region = client.meta.region_name
        client.create_bucket(Bucket=name, CreateBucketConfiguration={"LocationConstraint": region})
        hosts = f"{name}.s3.amazonaws.com", f"{name}.s3.{region}.amazonaws.com"
        return name, dict(zip(self.attributes, (f"arn:aws:s3:::{name}", *hosts), strict=True))

    def settle(self, client, made):
        self._set(client, made.name, made.properties)

    def _set(self, client, name, properties):
        for setting, operation in SETTINGS.items():
            if setting in properties:
                value = {"TagSet": properties[setting]} if setting == "Tags" else properties[setting]
                _call(client, operation, Bucket=name, **{"Tagging" if setting == "Tags" else setting: value})

    def change(self, client, made, properties):
        if "Tags" in made.properties:
            client.delete_bucket_tagging(Bucket=made.name)
        if "PublicAccessBlockConfiguration" in made.properties:
            client.delete_public_access_block(Bucket=made.name)
        before = made.properties.get("VersioningConfiguration") and {"Status": "Suspended"}
        self._set(
            client, made.name, {**({"VersioningConfiguration": before} if before else {}), **properties}
        )

    def delete(self, client, made):
        client.delete_bucket(Bucket=made.name)


class Role(Kind):
    """A role with the policies that it brings."""

    service, operation, named = "iam", "CreateRole", "RoleName"
    only = frozenset(
        {
            "Path",
            "AssumeRolePolicyDocument",
            "Description",
            "MaxSessionDuration",
            "PermissionsBoundary",
            "Tags",
        }
    )
    given = frozenset({"ManagedPolicyArns", "Policies"})
    changeable = frozenset({"AssumeRolePolicyDocument", "ManagedPolicyArns", "Policies"})
    attributes = ("Arn", "RoleId")

    def create(self, client, name, properties):
        told = client.create_role(RoleName=name, **self.request(properties))["Role"]
        return name, {"Arn": told["Arn"], "RoleId": told["RoleId"]}

    def settle(self, client, made):
        self._attach(client, made.name, made.properties)

    def _attach(self, client, name, properties):
        for arn in properties.get("ManagedPolicyArns", ()):
            client.attach_role_policy(RoleName=name, PolicyArn=arn)
        for policy in properties.get("Policies", ()):
            document = _text(policy["PolicyDocument"])
            client.put_role_policy(RoleName=name, PolicyName=policy["PolicyName"], PolicyDocument=document)

    def _detach(self, client, made):
        for arn in made.properties.get("ManagedPolicyArns", ()):
            with suppress(client.exceptions.NoSuchEntityException):
                client.detach_role_policy(RoleName=made.name, PolicyArn=arn)
        for policy in made.properties.get("Policies", ()):
            with suppress(client.exceptions.NoSuchEntityException):
                client.delete_role_policy(RoleName=made.name, PolicyName=policy["PolicyName"])

    def change(self, client, made, properties):
        document = _text(properties["AssumeRolePolicyDocument"])
        client.update_assume_role_policy(RoleName=made.name, PolicyDocument=document)
        self._detach(client, made)
        self._attach(client, made.name, properties)

    def delete(self, client, made):
        self._detach(client, made)
        client.delete_role(RoleName=made.name)


class Policy(Kind):
    """A policy within roles."""

    service, operation, named = "iam", "PutRolePolicy", "PolicyName"
    only = frozenset({"PolicyDocument"})
    given = frozenset({"Roles"})
    changeable = frozenset({"PolicyDocument", "Roles"})

    def create(self, client, name, properties):
        return name, {}

    def settle(self, client, made):
        self._put(client, made.name, made.properties)

    def _put(self, client, name, properties):
        for role in properties.get("Roles", ()):
            client.put_role_policy(RoleName=role, PolicyName=name, **self.request(properties))

    def change(self, client, made, properties):
        self.delete(client, made)
        self._put(client, made.name, properties)

    def delete(self, client, made):
        for role in made.properties.get("Roles", ()):
            with suppress(client.exceptions.NoSuchEntityException):
                client.delete_role_policy(RoleName=role, PolicyName=made.name)


class ManagedPolicy(Kind):
    """A policy of its own, attached to roles."""

    service, operation, named = "iam", "CreatePolicy", "ManagedPolicyName"
    only = frozenset({"PolicyDocument", "Path", "Description"})
    given = frozenset({"Roles"})
    attributes = ("PolicyArn",)

    def create(self, client, name, properties):
        arn = client.create_policy(PolicyName=name, **self.request(properties))["Policy"]["Arn"]
        return arn, {"PolicyArn": arn}

    def settle(self, client, made):
        for role in made.properties.get("Roles", ()):
            client.attach_role_policy(RoleName=role, PolicyArn=made.physical_resource_id)

    def delete(self, client, made):
        for role in made.properties.get("Roles", ()):
            with suppress(client.exceptions.NoSuchEntityException):
                client.detach_role_policy(RoleName=role, PolicyArn=made.physical_resource_id)
        client.delete_policy(PolicyArn=made.physical_resource_id)


class LogGroup(Kind):
    """A log group."""

    service, operation, named = "logs", "CreateLogGroup", "LogGroupName"
    only = frozenset({"Tags"})
    given = frozenset({"RetentionInDays"})
    changeable = frozenset({"RetentionInDays"})
    attributes = ("Arn",)

    def create(self, client, name, properties):
        tags = {tag["Key"]: tag["Value"] for tag in properties.get("Tags", ())}
        client.create_log_group(logGroupName=name, **({"tags": tags} if tags else {}))
        groups = client.describe_log_groups(logGroupNamePrefix=name)["logGroups"]
        return name, {"Arn": next(group["arn"] for group in groups if group["logGroupName"] == name)}

    def settle(self, client, made):
        self._retain(client, made.name, made.properties)

    def _retain(self, client, name, properties):
        if "RetentionInDays" in properties:
            days = int(properties["RetentionInDays"])
            client.put_retention_policy(logGroupName=name, retentionInDays=days)
        else:
            client.delete_retention_policy(logGroupName=name)

    def change(self, client, made, properties):
        self._retain(client, made.name, properties)

    def delete(self, client, made):
        client.delete_log_group(logGroupName=made.name)


class StateMachine(Kind):
    """A state machine of Step Functions."""

    service, operation, named = "stepfunctions", "CreateStateMachine", "StateMachineName"
    only = frozenset({"RoleArn"})
    given = frozenset({"DefinitionString", "Definition", "DefinitionSubstitutions"})
    changeable = frozenset({"RoleArn"}) | given
    attributes = ("Arn", "Name")

    def _asked(self, properties) -> dict:
        text = properties.get("DefinitionString") or json.dumps(properties.get("Definition", {}))
        for name, value in properties.get("DefinitionSubstitutions", {}).items():
            text = text.replace(f"${{{name}}}", str(value))
        return {"definition": text, "roleArn": properties["RoleArn"]}

    def create(self, client, name, properties):
        arn = client.create_state_machine(name=name, **self._asked(properties))["stateMachineArn"]
        return arn, {"Arn": arn, "Name": name}

    def change(self, client, made, properties):
        client.update_state_machine(stateMachineArn=made.physical_resource_id, **self._asked(properties))

    def delete(self, client, made):
        client.delete_state_machine(stateMachineArn=made.physical_resource_id)


#: The types of resources that are served.
KINDS = {
    "AWS::ECR::Repository": Repository(),
    "AWS::IAM::ManagedPolicy": ManagedPolicy(),
    "AWS::IAM::Policy": Policy(),
    "AWS::IAM::Role": Role(),
    "AWS::Logs::LogGroup": LogGroup(),
    "AWS::S3::Bucket": Bucket(),
    "AWS::SageMaker::Endpoint": Endpoint("Endpoint"),
    "AWS::SageMaker::EndpointConfig": SageMaker("EndpointConfig"),
    "AWS::SageMaker::Model": SageMaker("Model"),
    "AWS::StepFunctions::StateMachine": StateMachine(),
}


def _call(client, operation: str, **asked) -> dict:
    return getattr(client, xform_name(operation))(**asked)


def _text(document) -> str:
    return document if isinstance(document, str) else json.dumps(document)


def _shaped(shape, value):
    """A property as a field of a call: its names as the service spells them, documents as text, and numbers and truth
    values that a template has as text, which CloudFormation takes."""
    kind = shape.type_name
    if kind == "structure" and isinstance(value, dict):
        members = {name.lower(): name for name in shape.members}
        named = {members.get(name.lower(), name): one for name, one in value.items()}
        return {
            name: _shaped(shape.members[name], one) if name in shape.members else one
            for name, one in named.items()
        }
    if kind == "list" and isinstance(value, list):
        return [_shaped(shape.member, one) for one in value]
    if kind == "map" and isinstance(value, dict):
        return {name: _shaped(shape.value, one) for name, one in value.items()}
    if kind == "string":
        return _text(value) if isinstance(value, dict) else str(value)
    if isinstance(value, str):
        if kind in ("integer", "long"):
            return int(value)
        if kind in ("float", "double"):
            return float(value)
        if kind == "boolean":
            return value.lower() == "true"
    return value
