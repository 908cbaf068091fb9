"""Where the labs run: localaws on this machine, or AWS where the learner asked for it."""

import json
import mimetypes
import os
import re
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from contextvars import ContextVar
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from urllib.parse import urlsplit

import boto3
from botocore.config import Config
from botocore.exceptions import (
    BotoCoreError,
    ClientError,
    ConnectionError,
    HTTPClientError,
    NoCredentialsError,
)
from IPython.display import HTML

import localaws

from . import ROOT, kernels
from .errors import WorkshopError
from .language import _, enter_labs, language
from .notebook import explain_errors

#: What README has an administrator give the role on AWS; the local role gets the same.
ROLE = "sagemaker-byoa"
IAM = ROOT / "utils" / "iam"
#: The beginning of everything's name, and the value of its tag `workshop`.
WORKSHOP = "sagemaker-byoa"
#: Hours after which what the labs make may be deleted: a day of work and the evening.
TIME_TO_LIVE = 12.0
#: For the first call to AWS: somebody without a network should not wait for minutes to hear so.
SOON = Config(connect_timeout=5, read_timeout=20, retries={"total_max_attempts": 2})


class TargetError(WorkshopError):
    """The target cannot be reached or is not fully described."""


@dataclass(frozen=True)
class Target:
    """What every later cell talks to. All names that the labs make begin with `name`, `bucket` or `tuning`."""

    kind: str  # "local" or "aws"
    region: str
    account: str
    learner: str  # "" where nobody shares the account
    role: str  # ARN of the execution role that SageMaker assumes
    endpoint_url: str  # "" on AWS: boto3 then finds AWS's own
    algorithm: str  # the folder of container/ that is built, trained and served
    name: str  # repository, endpoint, and the beginning of every job's and model's name
    bucket: str
    tuning: str  # the beginning of every tuning job's name, of which AWS takes 32 characters in all
    docker: bool  # images are built by Docker: always for AWS, here where an engine answers
    who: str  # who AWS says that its caller is, as in user/ana
    folder: Path  # what the labs write on this machine: this walk's own, so no other one passes for it

    @property
    def walk(self) -> str:
        """The beginning of the names of those jobs that later labs go on with; an exercise's job has another name."""
        return f"{self.name}-walk"

    @property
    def own(self) -> str:
        """The image and the repository of what 10_bring_your_own brings."""
        return f"{self.name}-my-knn"

    @property
    def both(self) -> str:
        """The endpoint on which 10_bring_your_own compares it with the walk's algorithm."""
        return f"{self.name}-both"

    @property
    def unet(self) -> str:
        """The repository and the endpoint of 11_image_in_mask_out, and the beginning of its jobs' and models' names."""
        return f"{self.name}-unet"

    @property
    def wrong(self) -> str:
        """The repository and the endpoint of 12_what_goes_wrong, and the beginning of its jobs' and models' names."""
        return f"{self.name}-wrong"

    @property
    def large(self) -> str:
        """The repository and the endpoint of 13_outgrow_one_machine, and the beginning of its jobs' and models' names."""
        return f"{self.name}-large"

    @property
    def source(self) -> Path:
        """The algorithm's folder: training.py, predictor.py and what belongs to them."""
        return ROOT / "container" / self.algorithm

    @property
    def hyperparameters(self) -> dict:
        """What the labs train the algorithm with."""
        return said(self.source, "hyperparameters")

    @property
    def searched(self) -> dict[str, tuple[int, int]]:
        """Where 08_tune searches, by hyperparameter. Raises TargetError where nobody has said it."""
        ranges = said(self.source, "search")
        if not ranges:
            raise TargetError(
                _(
                    "Where should a search look for hyperparameters of {algorithm}? Say it in container/"
                    '{algorithm}/labs.json, as in {{"search": {{"max_depth": [1, 10]}}}}, then restart the kernel.',
                    algorithm=self.algorithm,
                )
            )
        return {name: tuple(bounds) for name, bounds in ranges.items()}

    @property
    def tags(self) -> list[dict]:
        """What everything is tagged with that is made now, for boto3: whose it is, and when it may be deleted."""
        over = datetime.now(UTC) + timedelta(hours=time_to_live())
        says = {
            "workshop": WORKSHOP,
            "learner": self.learner or "none",
            "made-by": self.who,
            "expires": over.isoformat(timespec="seconds"),
        }
        return [{"Key": key, "Value": value} for key, value in says.items()]

    @property
    def sdk_tags(self) -> list[dict]:
        """The same tags as the SageMaker SDK wants them."""
        return [{"key": tag["Key"], "value": tag["Value"]} for tag in self.tags]

    @property
    def local(self) -> bool:
        return self.kind == "local"

    def console(self, kind: str, name: str) -> HTML:
        """A link to a thing in AWS's console, or on localaws' page; `kind` is job, endpoint, tuning or bucket.

        Here the link lets one browser in, once, and it may then come back: what a notebook keeps opens nothing.
        """
        if self.local:
            address = localaws.page("job" if kind == "tuning" else kind, name)
        elif kind == "bucket":
            address = f"https://s3.console.aws.amazon.com/s3/buckets/{name}?region={self.region}"
        else:
            place = {"job": "jobs", "endpoint": "endpoints", "tuning": "hyper-tuning-jobs"}[kind]
            address = f"https://{self.region}.console.aws.amazon.com/sagemaker/home?region={self.region}#/{place}/{name}"
        thing = {
            "job": _("job {name}", name=name),
            "endpoint": _("endpoint {name}", name=name),
            "tuning": _("tuning {name}", name=name),
            "bucket": _("bucket {name}", name=name),
        }[kind]
        if self.local:
            words = _("{thing}, on localaws' page", thing=thing)
        else:
            words = _("{thing}, on AWS's console", thing=thing)
        return HTML(f'<a href="{address}" target="_blank">{words}</a>')

    def __str__(self) -> str:
        where = (
            _("this machine, localaws at {address}", address=self.endpoint_url)
            if self.local
            else _("AWS: what you start costs money")
        )
        algorithm = f"container/{self.algorithm}"
        if self.algorithm != "decision_trees":
            algorithm = _(
                "{algorithm}; what the labs' text says of trees is not about it", algorithm=algorithm
            )
        rows = {
            _("Target"): where,
            _("Account"): self.account,
            _("Region"): self.region,
            _("Role"): self.role,
            _("Bucket"): self.bucket,
            _("Algorithm"): algorithm,
            _("Name"): self.name,
            _("Images"): _("built by Docker")
            if self.docker
            else _("built by localaws, run as processes with your rights: no Docker engine answers here"),
        }
        return "\n".join(f"{label:<9} {value}" for label, value in rows.items())


def time_to_live() -> float:
    """WORKSHOP_TTL_HOURS, in hours. Raises TargetError for what is no number above 0."""
    text = os.environ.get("WORKSHOP_TTL_HOURS", "").strip() or str(TIME_TO_LIVE)
    with suppress(ValueError):
        if 0 < (hours := float(text)) <= 24 * 365:
            return hours
    raise TargetError(
        _(
            "WORKSHOP_TTL_HOURS is {text!r}; it is the hours after which what the labs make may be deleted, such as 12.",
            text=text,
        )
    )


def said(source: Path, what: str) -> dict | str:
    """What an algorithm's labs.json says; {} where it says nothing. Raises TargetError for one that is no JSON object."""
    file = source / "labs.json"
    try:
        return json.loads(file.read_text(encoding="utf-8")).get(what, {}) if file.exists() else {}
    except (ValueError, AttributeError) as error:
        raise TargetError(
            _("container/{name}/labs.json is not a JSON object: {error}", name=source.name, error=error)
        ) from None


def sample(source: Path) -> tuple[str, Path | None, str | None]:
    """What an algorithm can be tried with: data, from ROOT on (its labs.json's `training`), its payload, of which type."""
    payload = next(iter(sorted(source.glob("payload.*"))), None)
    return said(source, "training") or "data/iris.csv", payload, mimetypes.guess_type(payload or "")[0]


_aloud = ContextVar("aloud", default=True)


@contextmanager
def quietly() -> Iterator[None]:
    """Let connect() print nothing: a lab has told its target once, and runs other labs' cells to catch up."""
    before = _aloud.set(False)
    try:
        yield
    finally:
        _aloud.reset(before)


def connect(quiet: bool = False) -> Target:
    """Choose the target, make boto3, the SageMaker SDK and the `aws` command talk to it, print what it is.

    The environment decides: `WORKSHOP_TARGET` is `local` (the default) or `aws`; `WORKSHOP_ROLE` is the execution
    role on AWS (a name or an ARN; on a SageMaker notebook instance its own role is found); `WORKSHOP_LEARNER` sets
    people apart who share an account (2 to 8 small letters or digits); `WORKSHOP_ALGORITHM` is the folder of
    container/ that the labs walk with (`decision_trees`); `WORKSHOP_TTL_HOURS` is when what they make expires. Locally, localaws is started where it does not run yet. Calling it again is cheap, and right after localaws was stopped or killed.

    What is said is said in the language of the lab; elsewhere, as in a terminal, in that of `WORKSHOP_LANG` (`en`).

    Raises TargetError, with what to do, where the target cannot be reached, and UnknownLanguage.
    """
    enter_labs()
    language()  # before anything is done: one that is unknown is named
    kind = os.environ.get("WORKSHOP_TARGET", "local").strip().lower()
    if kind not in ("local", "aws"):
        raise TargetError(_("WORKSHOP_TARGET is {kind!r}; it is 'local' (the default) or 'aws'.", kind=kind))
    learner = os.environ.get("WORKSHOP_LEARNER", "").strip()
    if learner and not re.fullmatch(r"[a-z0-9]{2,8}", learner):
        raise TargetError(
            _(
                "WORKSHOP_LEARNER is {learner!r}; it is 2 to 8 small letters or digits, such as 'ana1'.",
                learner=learner,
            )
        )
    algorithm = _algorithm()
    time_to_live()
    _own_commands_first()
    # onnxruntime reports its use to its makers unless this is set before it is imported.
    os.environ["ORT_DISABLE_TELEMETRY"] = "1"
    # A notebook cannot show a build's progress bars, which move the cursor.
    os.environ.setdefault("BUILDKIT_PROGRESS", "plain")
    target = _local(learner, algorithm) if kind == "local" else _aws(learner, algorithm)
    explain_errors(target.endpoint_url)
    if not quiet and _aloud.get():
        print(target)
        kernels.warn(target.name, target.folder.parent / "kernels" / target.name)
        _warn_of_another(target)
    return target


def _warn_of_another(target: Target) -> None:
    """Print what to do where somebody else of the account walks under the same name, by the bucket's tag `made-by`."""
    try:
        tags = boto3.client("s3").get_bucket_tagging(Bucket=target.bucket)["TagSet"]
    except ClientError:  # no bucket yet, an untagged one, or no right to look
        return
    made_by = {tag["Key"]: tag["Value"] for tag in tags}.get("made-by", target.who)
    if made_by != target.who:
        print(
            _(
                "[!] The bucket {bucket} was made by {made_by}, and you are {who}. If that is another person, each "
                "of you would overwrite what the other makes: set WORKSHOP_LEARNER, 2 to 8 small letters or digits, before "
                "JupyterLab starts.",
                bucket=target.bucket,
                made_by=made_by,
                who=target.who,
            )
        )


def _own_commands_first() -> None:
    """Let `python`, `aws` and container/run in a cell be those of this kernel's environment, activated or not."""
    here = str(Path(sys.executable).parent)
    path = os.environ.get("PATH", os.defpath).split(os.pathsep)
    os.environ["PATH"] = os.pathsep.join([here, *(folder for folder in path if folder != here)])


def algorithms() -> list[str]:
    """The folders of container/ that can be trained."""
    return sorted(file.parent.name for file in (ROOT / "container").glob("*/training.py"))


def _algorithm() -> str:
    """WORKSHOP_ALGORITHM, a folder of container/. Raises TargetError, with those that there are, for another name."""
    algorithm = os.environ.get("WORKSHOP_ALGORITHM", "").strip() or "decision_trees"
    if algorithm not in (there := algorithms()):
        raise TargetError(
            _(
                "WORKSHOP_ALGORITHM is {algorithm!r}, and container/{algorithm} has no training.py. There are: "
                "{there}; `make new NAME={algorithm}` makes another.",
                algorithm=algorithm,
                there=", ".join(there),
            )
        )
    return algorithm


def _names(learner: str, algorithm: str, region: str, account: str) -> dict:
    # AmazonSageMakerFullAccess reaches only repositories and buckets that have `sagemaker` in their names.
    stem = "-".join(filter(None, (WORKSHOP, learner)))
    # A SageMaker name has letters, digits and hyphens, 63 at most, of which the labs' own endings take 22.
    name = f"{stem}-{re.sub('[^a-z0-9]+', '-', algorithm.lower())}"[:41].strip("-")
    return {
        "learner": learner,
        "algorithm": algorithm,
        "name": name,
        "bucket": f"{stem}-{region}-{account}",
        "tuning": f"{WORKSHOP}-{learner or 'x'}-",  # no learner has a name of one letter
    }


def _local(learner: str, algorithm: str) -> Target:
    try:
        status = localaws.start()
    except (RuntimeError, ValueError) as error:
        raise TargetError(str(error)) from None
    os.environ.update(localaws.environment())
    # A client that was made before (another port, other keys) must not be found again by boto3.client().
    boto3.setup_default_session()
    iam = boto3.client("iam")
    try:
        role = iam.get_role(RoleName=ROLE)["Role"]["Arn"]
    except iam.exceptions.NoSuchEntityException:
        trust, policy = (IAM / name for name in ("trust-policy.json", "execution-policy.json"))
        with suppress(iam.exceptions.EntityAlreadyExistsException):  # another learner's kernel was quicker
            iam.create_role(RoleName=ROLE, AssumeRolePolicyDocument=trust.read_text())
        role = iam.get_role(RoleName=ROLE)["Role"]["Arn"]
        iam.put_role_policy(RoleName=ROLE, PolicyName="workshop", PolicyDocument=policy.read_text())
    names = _names(learner, algorithm, status.region, status.account)
    return Target(
        kind="local",
        region=status.region,
        account=status.account,
        role=role,
        endpoint_url=status.endpoint_url,
        docker=status.engine == "docker",
        who="this machine",
        folder=Path(status.home) / "labs" / f"{names['bucket']}-{algorithm}",
        **names,
    )


def _aws(learner: str, algorithm: str) -> Target:
    if elsewhere := [name for name, value in os.environ.items() if _leads_elsewhere(name, value)]:
        names = " ".join(sorted(elsewhere))
        raise TargetError(
            _(
                "WORKSHOP_TARGET is 'aws', but calls would go elsewhere: {names}. Restart the kernel if a local lab ran in "
                "it; if that does not help: unset {names}",
                names=names,
            )
        )
    region = boto3.Session().region_name or "us-west-2"
    os.environ["AWS_DEFAULT_REGION"] = region
    boto3.setup_default_session()
    try:
        identity = boto3.client("sts", config=SOON).get_caller_identity()
    except NoCredentialsError:
        raise TargetError(
            _(
                "WORKSHOP_TARGET is 'aws' and no credentials were found. Run `aws configure` in a "
                "terminal, or set WORKSHOP_TARGET=local to stay on this machine."
            )
        ) from None
    except (ConnectionError, HTTPClientError) as error:
        raise TargetError(
            _(
                "AWS cannot be reached from here: {error} Look at the network, a VPN or the proxy. To go on without AWS, on "
                "this machine: unset WORKSHOP_TARGET, then restart the kernel.",
                error=error,
            )
        ) from None
    except (ClientError, BotoCoreError) as error:
        raise TargetError(_("AWS does not accept these credentials: {error}", error=error)) from None
    account = identity["Account"]
    names = _names(learner, algorithm, region, account)
    return Target(
        kind="aws",
        region=region,
        account=account,
        role=_execution_role(identity["Arn"]),
        # A tag takes these alone.
        who=re.sub(r"[^\w .:/=+@-]", "_", identity["Arn"].rpartition(":")[2]),
        endpoint_url="",
        docker=True,
        folder=ROOT / "build" / f"{names['bucket']}-{algorithm}",
        **names,
    )


def _leads_elsewhere(name: str, value: str) -> bool:
    """Whether a variable sends calls to another place than AWS; to AWS's private endpoints it may."""
    if localaws.leads_here(name, value):
        return True
    host = urlsplit(value).hostname or ""
    return (
        name.startswith("AWS_ENDPOINT_URL")
        and bool(value)
        and not re.search(r"\.(amazonaws\.com(\.cn)?|api\.aws)$", host)
    )


def _execution_role(caller_arn: str) -> str:
    """The ARN of the role for SageMaker: WORKSHOP_ROLE, else the role that this notebook instance itself runs as."""
    named = os.environ.get("WORKSHOP_ROLE", "").strip()
    if named.startswith("arn:"):
        return named
    assumed = re.search(r":assumed-role/([^/]+)/", caller_arn)
    if not named and not assumed:
        raise TargetError(
            _(
                "SageMaker needs an execution role and you are not on a notebook instance that has one. Name yours: "
                "export WORKSHOP_ROLE=ROLE_NAME_OR_ARN (README, 'On AWS', says how to make it)."
            )
        )
    name = named or assumed.group(1)
    try:
        role = boto3.client("iam").get_role(RoleName=name)["Role"]
    except ClientError as error:
        raise TargetError(
            _(
                "The role {name!r} cannot be looked up ({code}). Give the whole ARN: "
                "export WORKSHOP_ROLE=arn:aws:iam::ACCOUNT:role/NAME",
                name=name,
                code=error.response["Error"]["Code"],
            )
        ) from None
    if "sagemaker.amazonaws.com" not in json.dumps(role["AssumeRolePolicyDocument"]):
        raise TargetError(
            _(
                "SageMaker may not assume the role {name!r}: its trust policy does not name sagemaker.amazonaws.com. Name "
                "another: export WORKSHOP_ROLE=ROLE_NAME_OR_ARN (README, 'On AWS', says how to make it).",
                name=name,
            )
        )
    return role["Arn"]
