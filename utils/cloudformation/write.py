"""Write learner.yaml and class.yaml out of what they are made of: utils/iam/, on_start.sh, stop_when_idle.py.

    .venv/bin/python utils/cloudformation/write.py

A test compares the templates with what this writes.
"""

import json
import re
from pathlib import Path

import yaml

HERE = Path(__file__).resolve().parent
IAM = HERE.parent / "iam"
#: A role's own tag; a policy with it is one for all learners, and each one's own.
LEARNER = "sagemaker-byoa-${aws:PrincipalTag/learner}"
TAG = {"Key": "workshop", "Value": "sagemaker-byoa"}
IDLE = "${PREFIX:-}/usr/local/lib/stop_when_idle.py"  # a test runs the script below another folder
# Thirty names that WORKSHOP_LEARNER takes, for a room in which nobody has told theirs yet.
CLASS = ",".join(f"l{number:02}" for number in range(1, 31))


class Writer(yaml.SafeDumper):
    """YAML with scripts as they are, line by line, and nothing by reference."""

    def ignore_aliases(self, data):
        return True


Writer.add_representer(
    str,
    lambda writer, text: writer.represent_scalar(
        "tag:yaml.org,2002:str", text, style="|" if "\n" in text else None
    ),
)


def policy() -> dict:
    """Both policies of utils/iam for one role, which is the learner's and SageMaker's, and within what is the learner's."""
    statements = []
    for name in ("learner-policy.json", "execution-policy.json"):
        for statement in json.loads((IAM / name).read_text())["Statement"]:
            resources = statement["Resource"]
            resources = [resources] if isinstance(resources, str) else resources
            statements.append(statement | {"Resource": [_own(resource) for resource in resources]})
    # What looks at roles looks at the learner's own.
    who = next(one for one in statements if one["Sid"] == "WhoAmI")
    looks = [action for action in who["Action"] if action.startswith("iam:")]
    who["Action"] = [action for action in who["Action"] if action not in looks]
    role = f"arn:aws:iam::*:role/{LEARNER}"
    statements += [
        {"Sid": "LookAtTheOwnRole", "Effect": "Allow", "Action": looks, "Resource": [role]},
        {
            "Sid": "StopWhenIdle",
            "Effect": "Allow",
            "Action": ["sagemaker:StopNotebookInstance"],
            "Resource": [f"arn:aws:sagemaker:*:*:notebook-instance/{LEARNER}"],
        },
    ]
    return {"Version": "2012-10-17", "Statement": statements}


def _own(resource: str) -> str:
    """The resource, cut down to what has the learner's name: with a hyphen after it, so that ana is not ana1."""
    if ":role/" in resource and ":role/aws-service-role/" not in resource:
        return f"arn:aws:iam::*:role/{LEARNER}"
    return re.sub(r"sagemaker-byoa\*", f"{LEARNER}-*", resource)


def script() -> dict:
    """What an instance runs when it starts; the parameters are set in front."""
    names = {"REPOSITORY": "Repository", "BRANCH": "Branch", "IDLE_MINUTES": "IdleMinutes"}
    head: list = ["#!/bin/bash\n"]
    for name, parameter in names.items():
        head += [f"{name}='", {"Ref": parameter}, "'\n"]
    head += ["REGION='", {"Ref": "AWS::Region"}, f"'\nidle={IDLE}\n"]
    body = (HERE / "on_start.sh").read_text().removeprefix("#!/bin/bash\n")
    idle = (HERE / "stop_when_idle.py").read_text()
    return {"Fn::Base64": {"Fn::Join": ["", [*head, f"cat >\"$idle\" <<'PYTHON'\n{idle}PYTHON\n{body}"]]}}


def parameters(dollars: int) -> dict:
    """What both templates ask for."""
    return {
        "Email": {
            "Type": "String",
            "Description": "Who is told when 50, 80 and 100 % of the budget are spent",
            "AllowedPattern": "[^@ ]+@[^@ ]+",
        },
        "MonthlyDollars": {
            "Type": "Number",
            "Default": dollars,
            "MinValue": 1,
            "Description": "The budget of the whole account for a month, in US dollars",
        },
        "Repository": {
            "Type": "String",
            "Description": "The https:// address that the instance clones the workshop from",
            "AllowedPattern": "https://[A-Za-z0-9._~:/@%-]+",
        },
        "Branch": {"Type": "String", "Default": "main", "AllowedPattern": "[A-Za-z0-9._/-]+"},
        "InstanceType": {
            "Type": "String",
            "Default": "ml.t3.medium",
            "AllowedValues": ["ml.t3.medium", "ml.t3.large", "ml.t3.xlarge", "ml.m5.xlarge"],
        },
        "IdleMinutes": {
            "Type": "Number",
            "Default": 60,
            "MinValue": 10,
            "Description": "An instance in which no kernel and no terminal did anything for so long stops",
        },
    }


def shared() -> dict:
    """The resources that are there once, however many learners."""
    alarms = [
        {
            "Notification": {
                "NotificationType": "ACTUAL",
                "ComparisonOperator": "GREATER_THAN",
                "Threshold": percent,
                "ThresholdType": "PERCENTAGE",
            },
            "Subscribers": [{"SubscriptionType": "EMAIL", "Address": {"Ref": "Email"}}],
        }
        for percent in (50, 80, 100)
    ]
    return {
        "Policy": {
            "Type": "AWS::IAM::ManagedPolicy",
            "Properties": {
                "Description": "What a learner and SageMaker may do, each only with what has the learner's name",
                "PolicyDocument": policy(),
            },
        },
        "WhenItStarts": {
            "Type": "AWS::SageMaker::NotebookInstanceLifecycleConfig",
            "Properties": {"OnStart": [{"Content": script()}]},
        },
        "Alarm": {
            "Type": "AWS::Budgets::Budget",
            "Properties": {
                "Budget": {
                    "BudgetType": "COST",
                    "TimeUnit": "MONTHLY",
                    "BudgetLimit": {"Amount": {"Ref": "MonthlyDollars"}, "Unit": "USD"},
                },
                "NotificationsWithSubscribers": alarms,
            },
        },
    }


def of_learner(learner: dict, suffix: str) -> dict:
    """The role and the notebook instance of one learner; `suffix` ends their logical names."""
    name = {"Fn::Join": ["-", ["sagemaker-byoa", learner]]}
    tags = [TAG, {"Key": "learner", "Value": learner}]
    return {
        f"Role{suffix}": {
            "Type": "AWS::IAM::Role",
            "Properties": {
                "RoleName": name,
                "AssumeRolePolicyDocument": json.loads((IAM / "trust-policy.json").read_text()),
                "ManagedPolicyArns": [{"Ref": "Policy"}],
                # Whatever is attached to it later: it can do no more than this.
                "PermissionsBoundary": {"Ref": "Policy"},
                "Tags": tags,
            },
        },
        f"Notebook{suffix}": {
            "Type": "AWS::SageMaker::NotebookInstance",
            "Properties": {
                "NotebookInstanceName": name,
                "InstanceType": {"Ref": "InstanceType"},
                "PlatformIdentifier": "notebook-al2023-v1",
                "RoleArn": {"Fn::GetAtt": [{"Fn::Sub": f"Role{suffix}"} if suffix else "Role", "Arn"]},
                "LifecycleConfigName": {
                    "Fn::GetAtt": ["WhenItStarts", "NotebookInstanceLifecycleConfigName"]
                },
                "VolumeSizeInGB": 20,
                "RootAccess": "Enabled",
                "Tags": tags,
            },
            "Metadata": {"RootAccess": "Labs 01 and 03 build and push images with the instance's Docker."},
        },
    }


def templates() -> dict[str, dict]:
    """The two templates by their files' names."""
    head = {"AWSTemplateFormatVersion": "2010-09-09"}
    one = head | {
        "Description": "The workshop for one learner: a notebook instance, its role, an alarm for money",
        "Parameters": {
            "Learner": {
                "Type": "String",
                "Description": "WORKSHOP_LEARNER, which is in the name of all that the learner makes",
                "AllowedPattern": "[a-z0-9]{2,8}",
            },
            **parameters(20),
        },
        "Resources": shared() | of_learner({"Ref": "Learner"}, ""),
    }
    names = {
        "Type": "CommaDelimitedList",
        "Default": CLASS,
        "AllowedPattern": "[a-z0-9]{2,8}",
        "Description": "WORKSHOP_LEARNER of each, 2 to 8 small letters or digits, with commas",
    }
    each = {
        "Fn::ForEach::Learner": ["Learner", {"Ref": "Learners"}, of_learner({"Ref": "Learner"}, "${Learner}")]
    }
    many = head | {
        "Transform": "AWS::LanguageExtensions",
        "Description": "The workshop for a room: for each learner a notebook instance and a role of their own",
        "Parameters": {"Learners": names, **parameters(150)},
        "Resources": shared() | each,
    }
    return {"learner.yaml": one, "class.yaml": many}


def text(template: dict) -> str:
    """A template as its file."""
    dumped = yaml.dump(template, Dumper=Writer, sort_keys=False, width=110, allow_unicode=True)
    return f"# Written by write.py: change that, or what it reads, and run it.\n{dumped}"


if __name__ == "__main__":
    for name, template in templates().items():
        (HERE / name).write_text(text(template))
        print(f"wrote {name}")
