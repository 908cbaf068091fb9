"""What utils/iam and the templates allow: a learner's own things, and nobody else's. IAM's policy simulator decides."""

import importlib.util
import json

import boto3
import pytest

from workshop import ROOT, connect

specification = importlib.util.spec_from_file_location("write", ROOT / "utils/cloudformation/write.py")
write = importlib.util.module_from_spec(specification)
specification.loader.exec_module(write)

WHERE = "us-west-2:000000000000"


def things(target, stem: str) -> dict[str, list[str]]:
    """The ARNs of what a learner's labs make, by what may be done to them."""
    sagemaker = [f"arn:aws:sagemaker:{WHERE}:{kind}" for kind in ("endpoint", "model", "training-job")]
    tuning = f"arn:aws:sagemaker:{WHERE}:hyper-parameter-tuning-job/{target.tuning}22150000"
    logs = f"arn:aws:logs:{WHERE}:log-group:/aws/sagemaker"
    return {
        "sagemaker:DeleteEndpoint sagemaker:DeleteModel sagemaker:StopTrainingJob sagemaker:AddTags sagemaker:ListTags "
        "sagemaker:CreateEndpoint sagemaker:InvokeEndpoint": [
            f"{kind}/{name}"
            for kind in sagemaker
            for name in (target.name, target.both, target.unet, target.large)
        ],
        "sagemaker:StopHyperParameterTuningJob sagemaker:CreateHyperParameterTuningJob": [tuning],
        "ecr:DeleteRepository ecr:PutImage ecr:TagResource ecr:ListTagsForResource ecr:BatchGetImage": [
            f"arn:aws:ecr:{WHERE}:repository/{name}"
            for name in (target.name, target.own, target.unet, target.large)
        ],
        "s3:DeleteBucket s3:CreateBucket s3:PutBucketTagging s3:GetBucketTagging": [
            f"arn:aws:s3:::{target.bucket}"
        ],
        "s3:PutObject s3:DeleteObject s3:GetObject": [f"arn:aws:s3:::{target.bucket}/training/iris.csv"],
        "logs:DeleteLogGroup logs:ListTagsForResource": [f"{logs}/Endpoints/{target.name}"],
        "logs:DeleteLogStream": [
            f"{logs}/TrainingJobs:log-stream:{target.walk}-1/algo-1",
            f"{logs}/TransformJobs:log-stream:{target.walk}-1/i-1",
        ],
        "sagemaker:StopNotebookInstance": [f"arn:aws:sagemaker:{WHERE}:notebook-instance/{stem}"],
        "iam:GetRole iam:SimulatePrincipalPolicy": [f"arn:aws:iam::000000000000:role/{stem}"],
    }


@pytest.fixture
def decides(target):
    """decides(POLICY, ACTION, ARN): what IAM's simulator says of a role that has the policy."""
    iam, roles = boto3.client("iam"), {}

    def ask(policy: str, action: str, resource: str) -> str:
        if policy not in roles:
            name = f"{target.learner}-{len(roles)}"
            trust = (ROOT / "utils/iam/trust-policy.json").read_text()
            roles[policy] = iam.create_role(RoleName=name, AssumeRolePolicyDocument=trust)["Role"]["Arn"]
            iam.put_role_policy(RoleName=name, PolicyName="workshop", PolicyDocument=policy)
        answer = iam.simulate_principal_policy(
            PolicySourceArn=roles[policy], ActionNames=[action], ResourceArns=[resource]
        )
        return answer["EvaluationResults"][0]["EvalDecision"]

    return ask


def of_learner(learner: str) -> str:
    """The templates' policy as it is for a role with this tag `learner`, in which IAM itself puts the name."""
    return json.dumps(write.policy()).replace("${aws:PrincipalTag/learner}", learner)


@pytest.mark.parametrize("other", ["ana", "ben", "ana1", "an"])
def test_a_learner_may_change_their_own_things_and_nobody_elses(decides, environment, other):
    environment["WORKSHOP_LEARNER"] = other
    policy, expected = of_learner("ana"), "allowed" if other == "ana" else "implicitDeny"
    for actions, resources in things(connect(quiet=True), f"sagemaker-byoa-{other}").items():
        for action in actions.split():
            for resource in resources:
                assert decides(policy, action, resource) == expected, f"ana: {action} {resource}"


def test_nothing_of_one_without_a_name_either(decides, environment):
    del environment["WORKSHOP_LEARNER"]
    target = connect(quiet=True)
    for action, resource in [
        ("s3:DeleteBucket", f"arn:aws:s3:::{target.bucket}"),
        ("ecr:DeleteRepository", f"arn:aws:ecr:{WHERE}:repository/{target.name}"),
        ("sagemaker:DeleteEndpoint", f"arn:aws:sagemaker:{WHERE}:endpoint/{target.name}"),
    ]:
        assert decides(of_learner("ana"), action, resource) == "implicitDeny"


@pytest.mark.parametrize(
    "action",
    [
        "iam:TagRole",
        "iam:PutRolePolicy",
        "iam:CreateRole",
        "sagemaker:CreateNotebookInstance",
        "sagemaker:CreatePresignedNotebookInstanceUrl",
        "s3:PutBucketPolicy",
        "budgets:ModifyBudget",
    ],
)
def test_nobody_gives_themselves_more(decides, action):
    """Least of all by another tag on the role, which says whose things are theirs."""
    for policy in (of_learner("ana"), (ROOT / "utils/iam/learner-policy.json").read_text()):
        for resource in (
            "*",
            "arn:aws:iam::000000000000:role/sagemaker-byoa-ana",
            "arn:aws:s3:::sagemaker-byoa-ana-x",
        ):
            assert decides(policy, action, resource) == "implicitDeny"


def test_the_role_goes_to_sagemaker_alone():
    passed = [one for one in write.policy()["Statement"] if one["Action"] == "iam:PassRole"]
    assert [one["Resource"] for one in passed] == [[f"arn:aws:iam::*:role/{write.LEARNER}"]]
    assert passed[0]["Condition"] == {"StringEquals": {"iam:PassedToService": "sagemaker.amazonaws.com"}}


def test_without_the_templates_learners_are_one(decides, environment):
    """README says so of utils/iam: what they may, they may to each other's things, and to none of another name."""
    policy = (ROOT / "utils/iam/learner-policy.json").read_text()
    environment["WORKSHOP_LEARNER"] = "ben"
    mine = things(connect(quiet=True), "sagemaker-byoa-ben")
    mine.pop("sagemaker:StopNotebookInstance")
    for actions, resources in mine.items():
        for action in actions.split():
            assert decides(policy, action, resources[0]) == "allowed", action
    assert decides(policy, "s3:DeleteBucket", "arn:aws:s3:::payroll") == "implicitDeny"
