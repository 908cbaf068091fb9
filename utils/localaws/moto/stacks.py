"""CloudFormation: moto reads templates and answers requests; what a stack makes is made here, by each service's own client.

moto would make it within the request, undo nothing, and pass over properties that it does not know. Here a stack goes
its way in a thread of its own: in the order of its references, each step an event, and where one fails, back again.
A type or a property that resources.py has not is refused by name before anything is made.
"""

import copy
import graphlib
import logging
import re
import secrets
import threading
import uuid
from collections.abc import Iterable
from contextlib import suppress
from types import SimpleNamespace

import yaml
from botocore.exceptions import BotoCoreError, ClientError
from moto.backends import get_backend
from moto.cloudformation import models, parsing, responses
from moto.cloudformation.exceptions import ValidationError
from moto.cloudformation.utils import yaml_tag_constructor
from moto.core.exceptions import ServiceException
from moto.core.responses import ActionResult

from localaws.errors import AwsError, NotServed
from localaws.state import locate

from . import gaps
from .kept import backend
from .resources import KINDS, Failed, Made

GONE = re.compile(r"NotFound|NoSuch|does not exist|Could not find|ResourceNotFound")

log = logging.getLogger("localaws")


class ChangeSetNotFound(ServiceException):
    """There is no such change set."""

    code = "ChangeSetNotFound"


class NotServedHere(ServiceException):
    """What AWS would make of a template and localaws does not."""

    code = "NotServedByLocalaws"


class _Loader(yaml.SafeLoader):
    """YAML with CloudFormation's short forms (!Ref), in which a date is a text: `Version: 2012-10-17`."""


_Loader.yaml_implicit_resolvers = {
    first: [(tag, pattern) for tag, pattern in resolvers if not tag.endswith(":timestamp")]
    for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
}
_Loader.add_multi_constructor("!", lambda loader, name, node: yaml_tag_constructor(loader, f"!{name}", node))
_Loader.add_constructor("!Condition", lambda loader, node: {"Condition": node.value})


def _read(template: str, Loader=None) -> dict:
    """A template, of which all is served. Raises moto's ValidationError, or NotServedHere with the names."""
    try:
        found = yaml.load(template, Loader=_Loader)
    except yaml.YAMLError as error:
        raise ValidationError(message=f"Template format error: {error}") from error
    resources = found.get("Resources") if isinstance(found, dict) else None
    if not isinstance(resources, dict) or not resources:
        raise ValidationError(message="Template format error: At least one Resources member must be defined.")
    lacking = ["Transform"] if "Transform" in found else []
    for name, resource in resources.items():
        if name.startswith("Fn::"):  # which a Transform writes out
            continue
        if not isinstance(resource, dict) or "Type" not in resource:
            raise ValidationError(message=f"Template format error: [/Resources/{name}] has no Type.")
        kind = KINDS.get(resource["Type"])
        unserved = set(resource.get("Properties") or {}) - kind.served if kind else {""}
        lacking += [f"{resource['Type']}{one and '.'}{one} ({name})" for one in sorted(unserved)]
    if lacking:
        mend = f"leave it out, or run it against AWS; served are {', '.join(KINDS)}"
        raise NotServedHere(str(NotServed(", ".join(lacking), mend)))
    return found


def _referred(part) -> set[str]:
    """The names that a part of a template refers to."""
    if isinstance(part, list):
        return set().union(*map(_referred, part))
    if not isinstance(part, dict):
        return set()
    found = _referred([value for name, value in part.items() if name not in ("Ref", "Fn::GetAtt")])
    if "Ref" in part:
        found.add(part["Ref"])
    if attribute := part.get("Fn::GetAtt"):
        found.add(attribute[0] if isinstance(attribute, list) else attribute.split(".")[0])
    if substituted := part.get("Fn::Sub"):
        text, own = substituted if isinstance(substituted, list) else (substituted, {})
        found |= {name.split(".")[0] for name in re.findall(r"\$\{([^!}]+)\}", text)} - own.keys()
    return found


def _order(resources: dict, known: Iterable[str] = ()) -> list[str]:
    """The names of a template's resources, each after those that it needs; `known` are the other names that it may use.

    Raises ValidationError for a name that there is not, and for a circle.
    """
    graph = {}
    for name, resource in resources.items():
        depends = resource.get("DependsOn", [])
        graph[name] = _referred(resource.get("Properties")) | (
            {depends} if isinstance(depends, str) else set(depends)
        )
    if unknown := set().union(*graph.values()) - resources.keys() - set(known):
        names = ", ".join(sorted(unknown))
        message = f"Template format error: Unresolved resource dependencies [{names}] in the Resources block of the template"
        raise ValidationError(message=message)
    try:
        order = graphlib.TopologicalSorter({name: needs & resources.keys() for name, needs in graph.items()})
        return list(order.static_order())
    except graphlib.CycleError as error:
        circle = ", ".join(sorted(set(error.args[1])))
        raise ValidationError(message=f"Circular dependency between resources: [{circle}]") from error


class Resources(parsing.ResourceMap):
    """moto's map of a stack's resources, which would make what it is asked for; this one has what is made."""

    def __getitem__(self, name: str):
        return self._parsed_resources[name]

    def __iter__(self):
        return iter([name for name, one in self._parsed_resources.items() if isinstance(one, Made)])

    def __len__(self) -> int:
        return len(list(iter(self)))

    def validate_outputs(self) -> None:
        """Nothing to do: moto asks its own classes."""

    def wanted(self) -> list[str]:
        """The names of what its template asks for, in the order in which it is made."""
        conditions, asked = self.lazy_condition_map, self._resource_json_map
        order = _order(asked, self._parsed_resources)
        return [name for name in order if conditions.get(asked[name].get("Condition"), True)]

    def renew(self, template: dict, parameters: dict) -> None:
        """Take another template."""
        self._template, self._resource_json_map = template, template["Resources"]
        made = {name: self._parsed_resources[name] for name in self}
        fixed = {name: one for name, one in self._parsed_resources.items() if name.startswith("AWS::")}
        self._parsed_resources, self.resolved_parameters = fixed | made, {}
        self.input_parameters = parameters
        self.load()


class Stack(models.Stack):
    """moto's stack, which goes its way in a thread of its own; each step is told, kept, and undone where a later fails."""

    told: list[dict] | None = None  # its outputs, as of the last time that it was complete

    def __init__(self, *arguments, **named):
        super().__init__(*arguments, **named)
        self.resource_map.wanted()  # whose errors are the caller's

    @property
    def outputs(self) -> list[dict] | None:
        """What Describe tells: nothing before all is made."""
        return self.told or None

    @property
    def exports(self) -> list:
        """What other stacks may import: nothing before all is made."""
        named = [one for one in self.told or () if "ExportName" in one]
        return [parsing.Export(self.stack_id, one["ExportName"], one["OutputValue"]) for one in named]

    def create_resources(self) -> None:
        """Begin to make all."""
        self.status = "CREATE_IN_PROGRESS"
        self._start(self._create)

    def update(self, template, role_arn=None, parameters=None, tags=None) -> None:
        """Begin to become what another template says."""
        if not self.status.endswith("_COMPLETE") or self.status == "ROLLBACK_COMPLETE":
            message = f"Stack:{self.stack_id} is in {self.status} state and can not be updated."
            raise ValidationError(self.stack_id, message=message)
        before = self.template, self.parameters, self.tags
        parsed = self.parse_template(template)
        after = (
            template,
            self.parameters if parameters is None else parameters,
            self.tags if tags is None else tags,
        )
        if (parsed, *after[1:]) == (self.template_dict, *before[1:]):
            raise ValidationError(self.stack_id, message="No updates are to be performed.")
        trial = copy.deepcopy(self.resource_map)
        trial.renew(parsed, after[1])  # whose errors are the caller's
        trial.wanted()
        self._tell_stack("UPDATE_IN_PROGRESS", "User Initiated")
        self._start(self._update, before, after)

    def delete(self) -> None:
        """Begin to delete all."""
        self._tell_stack("DELETE_IN_PROGRESS", "User Initiated")
        self._start(self._delete)

    def _start(self, step, *arguments) -> None:
        threading.Thread(
            target=self._go, args=(step, *arguments), name=f"stack-{self.name}", daemon=True
        ).start()

    def _go(self, step, *arguments) -> None:
        try:
            step(*arguments)
        except Exception as error:  # whatever nobody expected: who waits must hear of it
            log.exception("stack %s", self.name)
            self._tell_stack(self._failed(), f"InternalFailure: {error}")
        gaps.keep("cloudformation", self.region_name)

    def _become(self, template, parameters, tags) -> None:
        self.template, self.parameters, self.tags = template, parameters, tags
        self._parse_template()
        self.resource_map.renew(self.template_dict, parameters)
        self.output_map = self._create_output_map()

    def _complete(self, status: str) -> None:
        names = {export.value: export.name for export in self.output_map.exports}
        exports = backend("cloudformation", self.region_name).exports
        for export in self.exports:
            exports.pop(export.name, None)
        self.told = []
        for one in filter(None, self.output_map.values()):
            name = {"ExportName": names[one.value]} if one.value in names else {}
            told = {"OutputKey": one.key, "OutputValue": str(one.value), "Description": one.description}
            self.told.append(told | name)
        exports |= {export.name: export for export in self.exports}
        self._tell_stack(status)

    def _create(self) -> None:
        undo: list = []
        try:
            self._reach(undo, [])
            self._complete("CREATE_COMPLETE")
        except Exception as error:
            self._tell_stack("ROLLBACK_IN_PROGRESS", _reason(error))
            self._tell_stack("ROLLBACK_COMPLETE" if self._undone(undo) else "ROLLBACK_FAILED")

    def _update(self, before: tuple, after: tuple) -> None:
        undo: list = []
        stale: list[Made] = []
        try:
            self._become(*after)
            self._reach(undo, stale)
            stale += [
                self.resource_map[name]
                for name in self.resource_map
                if name not in self.resource_map.wanted()
            ]
            self._tell_stack("UPDATE_COMPLETE_CLEANUP_IN_PROGRESS")
        except Exception as error:
            self._tell_stack("UPDATE_ROLLBACK_IN_PROGRESS", _reason(error))
            whole = self._undone(undo)
            self._become(*before)
            self._tell_stack("UPDATE_ROLLBACK_COMPLETE" if whole else "UPDATE_ROLLBACK_FAILED")
            return
        self._remove(stale[::-1])
        self._complete("UPDATE_COMPLETE")

    def _reach(self, undo: list, stale: list) -> None:
        """Make or change what the template asks for; `undo` gets how to take each step back, `stale` what is replaced."""
        for name in self.resource_map.wanted():
            made = self.resource_map._parsed_resources.get(name)
            asked = self.resource_map._resource_json_map[name]
            verb = "UPDATE" if made else "CREATE"
            kind = asked["Type"]
            try:
                policies = {
                    one: asked[one] for one in ("DeletionPolicy", "UpdateReplacePolicy") if one in asked
                }
                properties = parsing.clean_json(
                    copy.deepcopy(asked.get("Properties") or {}), self.resource_map
                )
                if made and made.cf_resource_type == kind and made.properties == properties:
                    made.policies = policies
                    continue
                self._tell(kind, name, made, f"{verb}_IN_PROGRESS")
                new = (
                    self._changed(made, properties, undo)
                    if made and _in_place(made, kind, properties)
                    else None
                )
                if not new:
                    new = self._new(kind, name, made, properties)
                    undo.append(lambda new=new: self._erase(new))
                    stale += [made] if made else []
                new.policies = policies
                self.resource_map._parsed_resources[name] = new
                undo.append(lambda name=name, made=made: self._put_back(name, made))
                self._tell(kind, name, new, f"{verb}_COMPLETE")
            except Exception as error:
                self._tell(kind, name, made, f"{verb}_FAILED", _reason(error))
                raise Failed(f"The following resource(s) failed to {verb.lower()}: [{name}].") from error

    def _new(self, kind: str, logical: str, old: Made | None, properties: dict) -> Made:
        named = KINDS[kind].named
        name = str(properties.get(named) or _name(kind, self.name, logical))
        if old and old.cf_resource_type == kind and old.name == name:
            raise Failed(
                "CloudFormation cannot update a stack when a custom-named resource requires replacing. "
                f"Rename {name} and update the stack again."
            )
        rest = {key: value for key, value in properties.items() if key != named}
        client = self._client(kind)
        physical, attributes = KINDS[kind].create(client, name, rest)
        made = Made(kind, logical, physical, name, properties, attributes)
        try:
            KINDS[kind].settle(client, made)
        except (BotoCoreError, ClientError, Failed):
            with suppress(BotoCoreError, ClientError):
                KINDS[kind].delete(client, made)
            raise
        return made

    def _changed(self, made: Made, properties: dict, undo: list) -> Made:
        kind = KINDS[made.cf_resource_type]
        client = self._client(made.cf_resource_type)
        new = copy.copy(made)
        new.properties = properties
        undo.append(lambda: kind.change(client, new, made.properties))
        kind.change(client, made, properties)
        return new

    def _put_back(self, name: str, made: Made | None) -> None:
        if made:
            self.resource_map._parsed_resources[name] = made
        else:
            self.resource_map._parsed_resources.pop(name, None)

    def _client(self, kind: str):
        return gaps.connect(KINDS[kind].service, self.region_name)

    def _erase(self, made: Made) -> None:
        """Delete a resource; one that is gone by now is as good as deleted."""
        self._tell(made.cf_resource_type, made.logical_resource_id, made, "DELETE_IN_PROGRESS")
        try:
            KINDS[made.cf_resource_type].delete(self._client(made.cf_resource_type), made)
        except ClientError as error:
            if not GONE.search(str(error)):
                self._tell(
                    made.cf_resource_type, made.logical_resource_id, made, "DELETE_FAILED", _reason(error)
                )
                raise
        self._tell(made.cf_resource_type, made.logical_resource_id, made, "DELETE_COMPLETE")

    def _undone(self, undo: list) -> bool:
        """Take all steps back, the last first; whether that went well."""
        whole = True
        for step in reversed(undo):
            try:
                step()
            except (BotoCoreError, ClientError, Failed):
                whole = False
        return whole

    def _remove(self, gone: list[Made]) -> list[str]:
        """Delete resources, and forget those that are gone; the names of those that are not."""
        left = []
        for made in gone:
            name = made.logical_resource_id
            in_use = self.resource_map._parsed_resources.get(name) is made
            policy = made.policies.get("DeletionPolicy" if in_use else "UpdateReplacePolicy", "Delete")
            try:
                if policy == "Delete":
                    self._erase(made)
                if in_use:
                    del self.resource_map._parsed_resources[name]
            except (BotoCoreError, ClientError):
                left.append(name)
        return left

    def _delete(self) -> None:
        every = _order(self.resource_map._resource_json_map, self.resource_map._parsed_resources)
        order = [name for name in every if name in [*self.resource_map]]
        left = self._remove([self.resource_map[name] for name in reversed(order)])
        if left:
            self._tell_stack(
                "DELETE_FAILED", f"The following resource(s) failed to delete: [{', '.join(left)}]."
            )
            return
        stacks = backend("cloudformation", self.region_name)
        for export in self.exports:
            stacks.exports.pop(export.name, None)
        self._tell_stack("DELETE_COMPLETE")
        stacks.deleted_stacks[self.stack_id] = stacks.stacks.pop(self.stack_id)

    def _tell_stack(self, status: str, reason: str | None = None) -> None:
        self.status, self.stack_status_reason = status, reason
        self._add_stack_event(status, reason)

    def _tell(
        self, kind: str, logical: str, made: Made | None, status: str, reason: str | None = None
    ) -> None:
        self.events.append(
            models.Event(
                stack_id=self.stack_id,
                stack_name=self.name,
                logical_resource_id=logical,
                physical_resource_id=made.physical_resource_id if made else "",
                resource_type=kind,
                resource_status=status,
                resource_status_reason=reason,
                resource_properties=None,
            )
        )
        gaps.keep("cloudformation", self.region_name)

    def interrupted(self) -> None:
        """After a start: what was under way when the server ended has failed."""
        if self.status.endswith("IN_PROGRESS") and self.status != "REVIEW_IN_PROGRESS":
            self._tell_stack(
                self._failed(), "localaws was stopped meanwhile. Delete the stack, create it again."
            )

    def _failed(self) -> str:
        return self.status.replace("_COMPLETE_CLEANUP", "").replace("IN_PROGRESS", "FAILED")


def _in_place(made: Made, kind: str, properties: dict) -> bool:
    """Whether a resource becomes what is asked for without another in its place."""
    names = {*made.properties, *properties}
    changed = {name for name in names if made.properties.get(name) != properties.get(name)}
    return made.cf_resource_type == kind and changed <= KINDS[kind].changeable


def _name(kind: str, stack: str, logical: str) -> str:
    """The name of a resource for which a template has none."""
    name = f"{stack[:24]}-{logical[:24]}-{secrets.token_hex(6)}"
    return name.lower() if kind in ("AWS::S3::Bucket", "AWS::ECR::Repository") else name


def _reason(error: Exception) -> str:
    return error.response["Error"]["Message"] if isinstance(error, ClientError) else str(error)


def _execute_change_set(stacks, change_set_name: str, stack_name: str | None = None) -> None:
    """moto's makes all within the request, and undoes nothing."""
    change_set = stacks.describe_change_set(change_set_name)
    stack = stacks.stacks[change_set.stack_id]
    if change_set.change_set_type == "CREATE":
        stack._become(change_set.template, change_set.parameters, change_set.tags or {})
        stack._tell_stack("CREATE_IN_PROGRESS", "User Initiated")
        stack.create_resources()
    else:
        stack.update(change_set.template, parameters=change_set.parameters, tags=change_set.tags)
    change_set.execution_status = "EXECUTE_COMPLETE"


def _delete_stack(stacks, name_or_stack_id: str) -> None:
    """moto's forgets the stack before its resources are gone."""
    for stack in list(stacks.stacks.values()):
        if name_or_stack_id in (stack.name, stack.stack_id):
            if stack.enable_termination_protection:
                message = f"Stack [{stack.name}] cannot be deleted while TerminationProtection is enabled"
                raise ValidationError(stack.stack_id, message=message)
            if stack.status.endswith("IN_PROGRESS") and stack.status != "REVIEW_IN_PROGRESS":
                message = (
                    f"Stack [{stack.name}] is in {stack.status}: localaws deletes it once that has ended"
                )
                raise ValidationError(stack.stack_id, message=message)
            stack.delete()


def check(operation: str, request) -> None:
    """Refuse what a stack would do otherwise than it is asked to. Raises NotServed, and as AWS does what makes roles
    without a word that it may."""
    asked = request.form
    for name in (
        "DisableRollback",
        "OnFailure",
        "ResourceTypes",
        "RollbackConfiguration",
        "TimeoutInMinutes",
    ):
        given = next((value for key, value in asked.items() if key.split(".")[0] == name), "")
        if given not in ("", "false", "ROLLBACK"):
            raise NotServed(f"{name} of {operation} of cloudformation", "leave it out")
    if operation in ("CreateStack", "UpdateStack", "CreateChangeSet") and "TemplateBody" in asked:
        given = {value for key, value in asked.items() if key.startswith("Capabilities.")}
        with suppress(ServiceException):  # which moto tells
            needed = _capability(_read(asked["TemplateBody"]))
            if needed and not given & {needed, "CAPABILITY_NAMED_IAM"}:
                raise AwsError("InsufficientCapabilitiesException", f"Requires capabilities : [{needed}]")


def _capability(template: dict) -> str | None:
    """What must be said with a template that makes roles or policies."""
    resources = [one for one in template["Resources"].values() if one["Type"].startswith("AWS::IAM::")]
    named = any(
        name in (one.get("Properties") or {})
        for one in resources
        for name in ("RoleName", "ManagedPolicyName")
    )
    return f"CAPABILITY_{'NAMED_' * named}IAM" if resources else None


class Reader(responses.CloudFormationResponse):
    """moto's reader of CloudFormation's requests, which takes a change set's name for one of all stacks'."""

    def list_change_sets(self):
        return ActionResult({"Summaries": self._change_sets()})

    def describe_change_set(self):
        self._name_by_id()
        return super().describe_change_set()

    def execute_change_set(self):
        self._name_by_id()
        return super().execute_change_set()

    def delete_change_set(self):
        self._name_by_id()
        return super().delete_change_set()

    def _change_sets(self) -> list:
        stack = self._get_param("StackName")
        known = self.cloudformation_backend.change_sets.values()
        return [one for one in known if stack in (None, one.stack_name, one.stack_id)]

    def _name_by_id(self) -> None:
        wanted = self._get_param("ChangeSetName")
        found = [one for one in self._change_sets() if wanted in (one.change_set_name, one.change_set_id)]
        if not found:
            raise ChangeSetNotFound(f"ChangeSet [{wanted}] does not exist")
        self.params["ChangeSetName"] = found[-1].change_set_id


def taken_up() -> None:
    """After what is on disk has come back: settle what was under way."""
    for stacks in get_backend("cloudformation")[locate.ACCOUNT].values():
        for stack in stacks.stacks.values():
            stack.interrupted()


models.Stack, responses.Stack, models.ResourceMap = Stack, Stack, Resources
models.yaml = responses.yaml = SimpleNamespace(load=_read, Loader=None, add_multi_constructor=lambda *_: None)
responses.CloudFormationResponse = Reader
models.mock_random = SimpleNamespace(uuid4=lambda: str(uuid.uuid4()))  # of which moto's are not kept
models.CloudFormationBackend.execute_change_set = _execute_change_set
models.CloudFormationBackend.delete_stack = _delete_stack
# moto's writes a file; what AWS's looks at is whether the template can be read.
models.CloudFormationBackend.validate_template = lambda stacks, template: []
