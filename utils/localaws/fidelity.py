"""FIDELITY.md: every operation and request field of AWS's, served here or refused, told by the code that decides.

`python -m localaws fidelity` writes it; a test compares the file with what the code says now.
"""

from collections.abc import Iterable, Iterator
from importlib.metadata import version
from pathlib import Path

from botocore import xform_name

from localaws.door import proxy, server
from localaws.engines import docker, process
from localaws.engines.network import ADDRESSES, INTERFACE
from localaws.images.registry import ALGORITHMS
from localaws.moto import gaps, notices, workflows
from localaws.moto.backend import PASSING, answered, service_model
from localaws.moto.resources import KINDS
from localaws.sagemaker.control_plane import SERVED
from localaws.sagemaker.hosting import scaling
from localaws.sagemaker.jobs.jobs import RECORDED
from localaws.state import locate

FILE = Path(__file__).with_name("FIDELITY.md")
HEAD = """\
# What localaws serves

Written by `python -m localaws fidelity` out of the code that decides, botocore {botocore}'s models and moto {moto}; a test keeps it so.

A refused operation, or a refused field that asks for something, is answered with `NotServedByLocalaws` (HTTP 501) and its name. What is served is checked against the service's model: required, type, enum, pattern, length, range.

{recorded} are recorded: clients send them unasked, and nothing here can act on them. They are described back, and the job's log says that they are not acted on.

Every request is signed (Signature Version 4; presigned URLs and forms of S3 also by version 2), with the home's own key or one that AssumeRole or CreateAccessKey gave out, and refused otherwise as AWS does. Two things differ: a key may do all that its owner may, whatever its policies say, and nothing of S3's is public, whatever its ACL says. The home's own key is the role `{role}`, as on a notebook instance.

Each region has resources of its own; the page shows those of {region}. A repository of another region is `127.0.0.1:PORT/region.REGION/NAME`.

By the proxy of `localaws env` hosts that end with {hosts} are answered here, by {schemes}, whatever service they are of; nothing is passed on to AWS. Images by `{account}.dkr.ecr.REGION.amazonaws.com/NAME` are those of the registry here. It keeps to OCI's distribution specification 1.1, takes digests by {algorithms}, and of what that leaves open does as ECR does: an index is refused before its images, an image goes with its last tag where ECR's API deletes it.
"""
OTHERS = {
    "s3": "S3",
    "ecr": "ECR",
    "iam": "IAM",
    "sts": "STS",
    "logs": "CloudWatch Logs",
    "monitoring": "CloudWatch",
    "cloudformation": "CloudFormation",
    "states": "Step Functions",
    "events": "EventBridge",
    "sns": "SNS",
    "application-autoscaling": "Application Auto Scaling of other services",
    "dynamodb": "DynamoDB",
    "ec2": "EC2",
    "kms": "KMS",
    "secretsmanager": "Secrets Manager",
    "sqs": "SQS",
    "ssm": "Systems Manager",
}


def table() -> str:
    """Return the whole of FIDELITY.md."""
    parts = [_head(), *_sagemaker(), *_runtime(), *_scaling()]
    parts += _engines()
    parts.append(
        "## The other services\n\nmoto answers them; where it lacks or errs, localaws does, "
        "and the image registry (`docker push`, `docker pull`) is localaws' own. What is in "
        f"{', '.join(OTHERS[service] for service in sorted(PASSING))} is kept in memory alone: it lasts until "
        "`python -m localaws down`; the rest is there again, whatever ended localaws.\n"
    )
    parts += [_other(service, title) for service, title in OTHERS.items()]
    parts += _made_of_others()
    return "\n".join(parts)


def _head() -> str:
    return HEAD.format(
        **{name: version(name) for name in ("botocore", "moto")},
        recorded=", ".join(f"`{name}`" for name in RECORDED),
        role=locate.ROLE_ARN,
        region=locate.REGION,
        account=locate.ACCOUNT,
        hosts=" or ".join(f"`.{name}`" for name in proxy.SUFFIXES),
        schemes=" and ".join(
            f"{scheme}:// (port {port})" for scheme, port in sorted(proxy.PORTS.items(), reverse=True)
        ),
        algorithms=" and ".join(ALGORITHMS.values()),
    )


def _sagemaker() -> Iterator[str]:
    known = service_model("sagemaker").operation_names
    yield f"## SageMaker: {len(SERVED)} of {len(known)} operations\n"
    yield from _operations("sagemaker", SERVED)
    refused = [name for name in known if name not in SERVED]
    yield _folded(f"The {len(refused)} refused operations", _names(refused))


def _scaling() -> Iterator[str]:
    known = service_model(scaling.SERVICE).operation_names
    yield f"## Application Auto Scaling of endpoints' variants: {len(scaling.SERVED)} of {len(known)} operations\n"
    yield (
        "What is asked with the service namespace `sagemaker` is localaws' own, and there again after a start: target "
        "tracking adds and takes away instances. An instance that is taken away first answers what it was asked. "
        f"{scaling.CLOCK} {scaling.ZERO}\n"
    )
    yield from _operations(scaling.SERVICE, scaling.SERVED)
    yield f"Refused: {_names(name for name in known if name not in scaling.SERVED)}"


def _operations(service: str, every: dict[str, dict]) -> Iterator[str]:
    """What of each operation's request is served, recorded and refused."""
    model, whole = service_model(service), []
    for operation, served in sorted(every.items()):
        taken, recorded, refused = [], [], []
        for path, values in _fields(model.operation_model(operation).input_shape, served):
            if values is None:
                refused.append(f"`{path}`")
            elif path in RECORDED:
                recorded.append(f"`{path}`")
            else:
                only = " or ".join(f"`{value}`" for value in sorted(values))
                taken.append(f"`{path}`" + (f" (only {only})" if only else ""))
        if not (refused or recorded) and "(only" not in "".join(taken):
            whole.append(operation)
            continue
        kept = f"Recorded: {', '.join(recorded)}\n\n" if recorded else ""
        body = f"Served: {', '.join(taken)}\n\n{kept}Refused: {', '.join(refused) or 'none'}\n"
        yield _folded(f"<b>{operation}</b>: {len(taken)} fields served, {len(refused)} refused", body)
    if whole:
        yield f"With all their fields: {_names(whole)}"


def _fields(shape, served: dict[str, set[str]], path: str = "") -> Iterator[tuple[str, set[str] | None]]:
    """Give each path of a request as deep as `SERVED` decides on it: the values that are served (none: all), or None."""
    while shape.type_name == "list":
        shape = shape.member
    if path in served:
        yield path, served[path]
    elif not path or any(name.startswith(f"{path}.") for name in served):
        for name, member in shape.members.items():
            yield from _fields(member, served, f"{path}.{name}" if path else name)
    else:
        yield path, None


def _runtime() -> Iterator[str]:
    model = service_model("sagemaker-runtime")
    verbs = {
        name: model.operation_model(name).http["requestUri"].rpartition("/")[2]
        for name in model.operation_names
    }
    served = [name for name, verb in verbs.items() if verb in server.VERBS]
    refused = [name for name in verbs if name not in served]
    yield f"## SageMaker Runtime: {len(served)} of {len(verbs)} operations\n"
    yield f"Served: {_names(served)}\nRefused: {_names(refused) if refused else 'none'}"


def _engines() -> Iterator[str]:
    yield "## How an image is run without Docker: what the first line of its log says\n"
    ours = f"Built by `python -m {process.BUILDER}`, or with its lock files"
    yield f"- {ours}: {_said(process.ISOLATION_NOTICE)}"
    for what, root, network in (
        ("with an operating system, training", process.ITS_ROOT, "host"),
        ("without one, serving", process.NO_ROOT, "served"),
        ("any, training with EnableNetworkIsolation", process.ITS_ROOT, "none"),
    ):
        notice = process.IN_NAMESPACES.format(root=root, network=process.NETWORKS[network])
        yield f"- Any other image, {what}: {_said(notice)}"
    joined = process.JOINED_NOTICE.format(network=process.NETWORKS["joined"])
    yield f"- {ours}, on several hosts (`InstanceCount`): {_said(joined)}"
    for what, network in (("", "joined"), (", with EnableNetworkIsolation", "apart")):
        yield f"- Any other image, on several hosts{what}: as above, and: “{process.NETWORKS[network]}”"
    yield (
        f"\nA host's network has `{INTERFACE}` and `lo`; the hosts' `{INTERFACE}` are ports of a bridge, all of it in "
        f"network name spaces ({ADDRESSES}) that are gone with the job, whatever ends it. Where there are none, on macOS "
        "or where the kernel refuses them, a job on several hosts fails and says why.\n"
    )
    yield "ENTRYPOINT, ENV, WORKDIR and USER are the image's, and `train` or `serve` is its argument, as with Docker.\n"
    yield "Where this machine has no memory left, Linux kills a program: its job or endpoint then says that it needs more.\n"
    yield "## Several hosts with Docker\n"
    joined = docker.JOINED_NOTICE.format("").partition("docker. ")[2]
    yield f"“{joined}” An image without an operating system has processes for hosts, as above.\n"


def _said(notice: str) -> str:
    return f"“{notice.partition('process. ')[2]}”"


def _other(service: str, title: str) -> str:
    known = set(service_model(service).operation_names)
    ours = {name for name in known if xform_name(name) in gaps.OURS.get(service, ())}
    refused = known - answered(service)
    told = {"by moto": known - refused - ours, "by localaws": ours, "refused": refused}
    counts = ", ".join(f"{len(names)} {who}" for who, names in told.items() if names)
    body = "\n".join(f"{who.capitalize()}: {_names(names)}" for who, names in told.items() if names)
    return _folded(f"<b>{title}</b>: {counts}", body)


def _made_of_others() -> Iterator[str]:
    yield "## What CloudFormation, Step Functions, EventBridge and SNS reach\n"
    kinds = "".join(
        f"- `{name}`: {_names(kind.served)}  In place: {_names(kind.changeable)}"
        for name, kind in KINDS.items()
    )
    yield (
        "A stack is made step by step, each resource by its own service's client, and goes back where one fails; it is "
        "there again after a stop. Any other type or property is refused by name before anything is made, as are "
        "`Transform`, nested stacks and stack sets. Properties that do not change in place replace the resource; of "
        "SageMaker's, one that its Create operation refuses rolls the stack back, with the reason in its events.\n"
    )
    yield _folded(f"The {len(KINDS)} types of resources", kinds)
    actions = ", ".join(f"`{name}{'.sync' * (name in workflows.JOBS)}`" for name in sorted(workflows.ACTIONS))
    yield (
        f"A state machine's tasks are those of {_listed(workflows.INTEGRATIONS)}, with SageMaker's {actions}; what a task "
        "calls is this localaws, and any other task is refused by name when the state machine is made.\n"
    )
    told = ", ".join(f"`SageMaker {word} State Change`" for word in notices.TOLD.values())
    yield (
        f"EventBridge hears of {told}. A rule's targets are queues, topics, log groups, state machines and buses here; "
        "schedules, archives and API destinations are refused. SNS delivers to queues alone: other protocols are refused."
        "\n"
    )


def _listed(names: Iterable[str]) -> str:
    return ", ".join(f"`{name}`" for name in sorted(names))


def _names(operations: Iterable[str]) -> str:
    return _listed(operations) + "\n"


def _folded(summary: str, body: str) -> str:
    return f"<details><summary>{summary}</summary>\n\n{body}\n</details>\n"
