"""CloudFormation by boto3's client and the `aws` command: what a stack makes is there, answers, and goes with it."""

import json
import subprocess
import sys
import uuid
from pathlib import Path

import pytest
import tiny
from botocore.exceptions import ClientError, WaiterError
from tiny import wait_until

from workshop import ROOT

ROLES = {"Capabilities": ["CAPABILITY_IAM"]}
QUICK = {"Delay": 1, "MaxAttempts": 120}
TEMPLATE = """
AWSTemplateFormatVersion: 2010-09-09
Parameters:
  Name: {Type: String}
  Image: {Type: String}
  Data: {Type: String}
  Instances: {Type: String, Default: "1"}
  Days: {Type: Number, Default: 7}
Conditions:
  Archived: !Equals [!Ref Days, 400]
Resources:
  Endpoint:
    Type: AWS::SageMaker::Endpoint
    Properties:
      EndpointName: !Ref Name
      EndpointConfigName: !GetAtt Config.EndpointConfigName
  Config:
    Type: AWS::SageMaker::EndpointConfig
    Properties:
      ProductionVariants:
        - VariantName: all
          ModelName: !GetAtt Model.ModelName
          InstanceType: ml.m5.large
          InitialInstanceCount: !Ref Instances
          InitialVariantWeight: 1
  Model:
    Type: AWS::SageMaker::Model
    DependsOn: Rights
    Properties:
      ExecutionRoleArn: !GetAtt Role.Arn
      PrimaryContainer:
        Image: !Ref Image
        ModelDataUrl: !Ref Data
        Environment: {WORD: !Sub "${AWS::StackName} in ${AWS::Region}"}
  Role:
    Type: AWS::IAM::Role
    Properties:
      AssumeRolePolicyDocument:
        Version: 2012-10-17
        Statement:
          - {Effect: Allow, Principal: {Service: sagemaker.amazonaws.com}, Action: "sts:AssumeRole"}
      ManagedPolicyArns: ["arn:aws:iam::aws:policy/AmazonSageMakerFullAccess"]
  Rights:
    Type: AWS::IAM::Policy
    Properties:
      PolicyName: data
      Roles: [!Ref Role]
      PolicyDocument:
        Version: 2012-10-17
        Statement: [{Effect: Allow, Action: "s3:*", Resource: "*"}]
  Images:
    Type: AWS::ECR::Repository
    Properties:
      RepositoryName: !Sub "${Name}/images"
      ImageScanningConfiguration: {ScanOnPush: true}
  Bucket:
    Type: AWS::S3::Bucket
    Properties:
      VersioningConfiguration: {Status: Enabled}
  Logs:
    Type: AWS::Logs::LogGroup
    Properties:
      LogGroupName: !Sub "/stacks/${Name}"
      RetentionInDays: !Ref Days
  Archive:
    Type: AWS::S3::Bucket
    Condition: Archived
Outputs:
  Repository: {Value: !GetAtt Images.RepositoryUri}
  Endpoint: {Value: !Ref Endpoint}
  Bucket:
    Value: !Ref Bucket
    Export: {Name: !Sub "${Name}-bucket"}
"""


@pytest.fixture(scope="module")
def account(survivor, tmp_path_factory):
    return tiny.account(survivor, tmp_path_factory.mktemp("account"))


@pytest.fixture(scope="module")
def cloudformation(survivor):
    return survivor.client("cloudformation")


@pytest.fixture(scope="module")
def trained(account) -> str:
    job = account.train(account.training_request(model="from a stack"))
    return job["ModelArtifacts"]["S3ModelArtifacts"]


def parameters(**values) -> list[dict]:
    return [{"ParameterKey": name, "ParameterValue": str(value)} for name, value in values.items()]


def events(cloudformation, name: str) -> list[tuple]:
    """What has happened to a stack, the oldest first."""
    told = cloudformation.describe_stack_events(StackName=name)["StackEvents"]
    return [
        (one["LogicalResourceId"], one["ResourceStatus"], one.get("ResourceStatusReason"))
        for one in reversed(told)
    ]


def waited(cloudformation, what: str, name: str) -> None:
    """Wait for a stack; where it does not come about, tell why."""
    try:
        cloudformation.get_waiter(f"stack_{what}_complete").wait(StackName=name, WaiterConfig=QUICK)
    except WaiterError as error:
        raise AssertionError(events(cloudformation, name)) from error


def a_stack(resources: dict, **more) -> str:
    return json.dumps({"Resources": resources, **more})


def test_a_stack_makes_what_answers_survives_and_goes_with_it(survivor, account, cloudformation, trained):
    name = f"stack-{uuid.uuid4().hex[:8]}"
    given = {"Name": name, "Image": account.image, "Data": trained}
    cloudformation.create_stack(
        StackName=name, TemplateBody=TEMPLATE, Parameters=parameters(**given), **ROLES
    )
    waited(cloudformation, "create", name)
    (stack,) = cloudformation.describe_stacks(StackName=name)["Stacks"]
    outputs = {one["OutputKey"]: one["OutputValue"] for one in stack["Outputs"]}
    assert stack["StackStatus"] == "CREATE_COMPLETE"

    def answer() -> dict:
        body = account.runtime.invoke_endpoint(EndpointName=name, Body=b"tell")["Body"].read()
        return json.loads(body)

    assert answer()["word"] == "from a stack"
    assert answer()["env"]["WORD"] == f"{name} in us-west-2"
    ecr, logs, iam = (survivor.client(one) for one in ("ecr", "logs", "iam"))
    (repository,) = ecr.describe_repositories(repositoryNames=[f"{name}/images"])["repositories"]
    assert repository["repositoryUri"] == outputs["Repository"]
    assert repository["imageScanningConfiguration"] == {"scanOnPush": True}
    (group,) = logs.describe_log_groups(logGroupNamePrefix=f"/stacks/{name}")["logGroups"]
    assert group["retentionInDays"] == 7
    assert account.s3.get_bucket_versioning(Bucket=outputs["Bucket"])["Status"] == "Enabled"
    resources = cloudformation.describe_stack_resources(StackName=name)["StackResources"]
    made = {one["LogicalResourceId"]: one["PhysicalResourceId"] for one in resources}
    assert made.keys() == {"Endpoint", "Config", "Model", "Role", "Rights", "Images", "Bucket", "Logs"}
    assert made["Endpoint"] == outputs["Endpoint"]
    order = [name for name, status, _ in events(cloudformation, name) if status == "CREATE_COMPLETE"]
    assert order[-1] == name and order.index("Role") < order.index("Rights") < order.index("Model")

    survivor.command("down")
    survivor.up()
    cloudformation, iam = survivor.client("cloudformation"), survivor.client("iam")
    account.__post_init__()
    assert cloudformation.describe_stacks(StackName=name)["Stacks"][0]["Outputs"] == stack["Outputs"]
    wait_until(
        lambda: account.sagemaker.describe_endpoint(EndpointName=name)["EndpointStatus"] == "InService", 30
    )
    assert answer()["word"] == "from a stack"

    before = account.sagemaker.describe_endpoint(EndpointName=name)["EndpointConfigName"]
    changed = parameters(**given, Instances=2, Days=30)
    cloudformation.update_stack(StackName=name, TemplateBody=TEMPLATE, Parameters=changed, **ROLES)
    waited(cloudformation, "update", name)
    after = account.sagemaker.describe_endpoint(EndpointName=name)
    assert after["EndpointConfigName"] != before and after["EndpointStatus"] == "InService"
    assert after["ProductionVariants"][0]["CurrentInstanceCount"] == 2
    with pytest.raises(ClientError, match="Could not find endpoint configuration"):
        account.sagemaker.describe_endpoint_config(EndpointConfigName=before)
    (group,) = survivor.client("logs").describe_log_groups(logGroupNamePrefix=f"/stacks/{name}")["logGroups"]
    assert group["retentionInDays"] == 30
    untouched = {"Role", "Bucket", "Images", "Model"}
    assert not untouched & {
        one for one, status, _ in events(cloudformation, name) if status == "UPDATE_IN_PROGRESS"
    }

    cloudformation.delete_stack(StackName=name)
    waited(cloudformation, "delete", name)
    for call, given in (
        (account.sagemaker.describe_endpoint, {"EndpointName": name}),
        (survivor.client("ecr").describe_repositories, {"repositoryNames": [f"{name}/images"]}),
        (account.s3.head_bucket, {"Bucket": outputs["Bucket"]}),
        (iam.get_role, {"RoleName": made["Role"]}),
    ):
        with pytest.raises(ClientError):
            call(**given)
    assert (
        cloudformation.describe_stacks(StackName=stack["StackId"])["Stacks"][0]["StackStatus"]
        == "DELETE_COMPLETE"
    )


def test_a_resource_that_cannot_be_made_rolls_the_stack_back_with_its_reason(survivor, account):
    cloudformation, name = survivor.client("cloudformation"), f"stack-{uuid.uuid4().hex[:8]}"
    model = {"ExecutionRoleArn": account.role, "PrimaryContainer": {"Image": "127.0.0.1:1/nothing:latest"}}
    resources = {
        "Images": {"Type": "AWS::ECR::Repository", "Properties": {"RepositoryName": name}},
        "Model": {"Type": "AWS::SageMaker::Model", "DependsOn": "Images", "Properties": model},
    }
    cloudformation.create_stack(StackName=name, TemplateBody=a_stack(resources))
    with pytest.raises(WaiterError):
        cloudformation.get_waiter("stack_create_complete").wait(StackName=name, WaiterConfig=QUICK)
    told = events(cloudformation, name)
    (reason,) = [reason for one, status, reason in told if (one, status) == ("Model", "CREATE_FAILED")]
    assert "127.0.0.1:1/nothing:latest" in reason
    assert [status for one, status, _ in told if one == "Images"][-1] == "DELETE_COMPLETE"
    wait_until(lambda: events(cloudformation, name)[-1][1] == "ROLLBACK_COMPLETE", 10)
    assert survivor.client("ecr").describe_repositories()["repositories"] is not None
    with pytest.raises(ClientError, match="RepositoryNotFound"):
        survivor.client("ecr").describe_repositories(repositoryNames=[name])
    with pytest.raises(ClientError, match="ROLLBACK_COMPLETE"):
        cloudformation.update_stack(StackName=name, TemplateBody=a_stack({"Images": resources["Images"]}))
    cloudformation.delete_stack(StackName=name)
    waited(cloudformation, "delete", name)


def test_an_update_that_fails_leaves_what_was(survivor):
    cloudformation, name = survivor.client("cloudformation"), f"stack-{uuid.uuid4().hex[:8]}"
    ecr = survivor.client("ecr")
    images = {"Type": "AWS::ECR::Repository", "Properties": {"RepositoryName": name}}
    cloudformation.create_stack(StackName=name, TemplateBody=a_stack({"Images": images}))
    waited(cloudformation, "create", name)
    changed = {
        "Type": images["Type"],
        "Properties": {"RepositoryName": name, "ImageTagMutability": "IMMUTABLE"},
    }
    taken = {"Type": images["Type"], "Properties": {"RepositoryName": name}, "DependsOn": "Images"}
    cloudformation.update_stack(StackName=name, TemplateBody=a_stack({"Images": changed, "Again": taken}))
    with pytest.raises(WaiterError):
        cloudformation.get_waiter("stack_update_complete").wait(StackName=name, WaiterConfig=QUICK)
    wait_until(lambda: events(cloudformation, name)[-1][1] == "UPDATE_ROLLBACK_COMPLETE", 10)
    (repository,) = ecr.describe_repositories(repositoryNames=[name])["repositories"]
    assert repository["imageTagMutability"] == "MUTABLE"
    assert json.loads(json.dumps(cloudformation.get_template(StackName=name)["TemplateBody"])) == {
        "Resources": {"Images": images}
    }


def test_a_role_that_is_half_made_goes_and_what_is_to_be_retained_stays(survivor):
    cloudformation, iam, s3 = (survivor.client(name) for name in ("cloudformation", "iam", "s3"))
    name = f"stack-{uuid.uuid4().hex[:8]}"
    kept = {"Type": "AWS::S3::Bucket", "DeletionPolicy": "Retain", "Properties": {"BucketName": name}}
    cloudformation.create_stack(StackName=name, TemplateBody=a_stack({"Kept": kept}))
    waited(cloudformation, "create", name)
    role = {
        "Type": "AWS::IAM::Role",
        "Properties": {
            "RoleName": name,
            "AssumeRolePolicyDocument": json.loads(tiny.TRUST),
            "ManagedPolicyArns": [
                "arn:aws:iam::aws:policy/AmazonS3FullAccess",
                "arn:aws:iam::aws:policy/Nothing",
            ],
        },
    }
    named = {"Capabilities": ["CAPABILITY_NAMED_IAM"]}
    cloudformation.update_stack(StackName=name, TemplateBody=a_stack({"Role": role}), **named)
    wait_until(lambda: events(cloudformation, name)[-1][1] == "UPDATE_ROLLBACK_COMPLETE", 30)
    with pytest.raises(iam.exceptions.NoSuchEntityException):
        iam.get_role(RoleName=name)
    role["Properties"]["ManagedPolicyArns"].pop()
    cloudformation.update_stack(StackName=name, TemplateBody=a_stack({"Role": role}), **named)
    waited(cloudformation, "update", name)
    s3.head_bucket(Bucket=name)
    assert iam.get_role(RoleName=name)["Role"]["Arn"].endswith(name)
    with pytest.raises(ClientError, match="No updates are to be performed"):
        cloudformation.update_stack(StackName=name, TemplateBody=a_stack({"Role": role}), **named)
    cloudformation.delete_stack(StackName=name)
    waited(cloudformation, "delete", name)


def test_a_state_machine_of_a_stack_runs_and_is_changed_in_place(survivor, account):
    cloudformation, states = survivor.client("cloudformation"), survivor.client("stepfunctions")
    name = f"stack-{uuid.uuid4().hex[:8]}"

    def template(word: str) -> str:
        definition = {"StartAt": "Say", "States": {"Say": {"Type": "Pass", "Result": "${Word}", "End": True}}}
        properties = {
            "StateMachineName": name,
            "RoleArn": account.role,
            "DefinitionString": json.dumps(definition),
            "DefinitionSubstitutions": {"Word": word},
        }
        machine = {"Type": "AWS::StepFunctions::StateMachine", "Properties": properties}
        return a_stack({"Machine": machine}, Outputs={"Arn": {"Value": {"Ref": "Machine"}}})

    def output() -> str:
        (told,) = cloudformation.describe_stacks(StackName=name)["Stacks"][0]["Outputs"]
        started = states.start_execution(stateMachineArn=told["OutputValue"])["executionArn"]
        return wait_until(lambda: states.describe_execution(executionArn=started).get("output"), 30)

    cloudformation.create_stack(StackName=name, TemplateBody=template("first"))
    waited(cloudformation, "create", name)
    assert output() == '"first"'
    cloudformation.update_stack(StackName=name, TemplateBody=template("second"))
    waited(cloudformation, "update", name)
    assert output() == '"second"'
    cloudformation.delete_stack(StackName=name)
    waited(cloudformation, "delete", name)


@pytest.mark.parametrize("file", ["learner.yaml", "class.yaml"])
def test_what_our_own_templates_ask_for_beyond_it_is_named(survivor, file):
    cloudformation = survivor.client("cloudformation")
    body = (ROOT / "utils" / "cloudformation" / file).read_text()
    with pytest.raises(ClientError) as refused:
        cloudformation.create_stack(
            StackName="never", TemplateBody=body, Capabilities=["CAPABILITY_NAMED_IAM"]
        )
    message = refused.value.response["Error"]["Message"]
    assert ("Transform" if file == "class.yaml" else "AWS::SageMaker::NotebookInstance (Notebook)") in message


def test_what_is_not_served_is_refused_by_name_before_anything_is_made(survivor):
    cloudformation = survivor.client("cloudformation")
    notebook = {"Type": "AWS::SageMaker::NotebookInstance", "Properties": {}}
    bucket = {"Type": "AWS::S3::Bucket", "Properties": {"BucketName": "never", "WebsiteConfiguration": {}}}
    with pytest.raises(ClientError) as refused:
        cloudformation.create_stack(StackName="never", TemplateBody=a_stack({"A": notebook, "B": bucket}))
    error = refused.value.response["Error"]
    assert error["Code"] == "NotServedByLocalaws"
    assert (
        "AWS::SageMaker::NotebookInstance (A), AWS::S3::Bucket.WebsiteConfiguration (B)" in error["Message"]
    )
    with pytest.raises(ClientError, match="does not exist"):
        cloudformation.describe_stacks(StackName="never")
    unknown = {"A": {"Type": "AWS::S3::Bucket", "Properties": {"BucketName": {"Ref": "Nobody"}}}}
    with pytest.raises(ClientError, match=r"Unresolved resource dependencies \[Nobody\]"):
        cloudformation.create_stack(StackName="never", TemplateBody=a_stack(unknown))
    with pytest.raises(ClientError, match="OnFailure of CreateStack"):
        cloudformation.create_stack(StackName="never", TemplateBody=a_stack(unknown), OnFailure="DELETE")
    role = {"Type": "AWS::IAM::Role", "Properties": {"RoleName": "never", "AssumeRolePolicyDocument": {}}}
    with pytest.raises(ClientError, match=r"Requires capabilities : \[CAPABILITY_NAMED_IAM\]"):
        cloudformation.create_stack(StackName="never", TemplateBody=a_stack({"A": role}), **ROLES)
    circle = {one: {"Type": "AWS::S3::Bucket", "DependsOn": other} for one, other in (("A", "B"), ("B", "A"))}
    with pytest.raises(ClientError, match="Circular dependency"):
        cloudformation.create_stack(StackName="never", TemplateBody=a_stack(circle))


def test_the_aws_command_deploys_updates_and_deletes(survivor, tmp_path):
    """`deploy` makes a change set, waits for it, executes it, and waits for the stack."""
    name, file = f"stack-{uuid.uuid4().hex[:8]}", tmp_path / "template.yaml"
    file.write_text(
        "Parameters: {Days: {Type: Number}}\nResources:\n  Logs: {Type: AWS::Logs::LogGroup, "
        f"Properties: {{LogGroupName: /{name}, RetentionInDays: !Ref Days}}}}\n"
    )
    logs = survivor.client("logs")

    def aws(*arguments: str) -> str:
        command = [Path(sys.executable).parent / "aws", "cloudformation", *arguments, "--stack-name", name]
        done = subprocess.run(command, env=survivor.env, capture_output=True, text=True, timeout=120)
        assert done.returncode == 0, (
            done.stdout + done.stderr,
            events(survivor.client("cloudformation"), name),
        )
        return done.stdout

    deploy = ("deploy", "--template-file", str(file), "--parameter-overrides")
    cloudformation = survivor.client("cloudformation")
    for days, what in ((7, "create"), (30, "update")):
        # Its own waiter looks twice a minute.
        aws(*deploy, f"Days={days}", "--no-execute-changeset")
        (change_set,) = [
            one
            for one in cloudformation.list_change_sets(StackName=name)["Summaries"]
            if one["ExecutionStatus"] == "AVAILABLE" and one["StackName"] == name
        ]
        cloudformation.execute_change_set(ChangeSetName=change_set["ChangeSetId"])
        waited(cloudformation, what, name)
        (group,) = logs.describe_log_groups(logGroupNamePrefix=f"/{name}")["logGroups"]
        assert group["retentionInDays"] == days
    assert "No changes" in aws(*deploy, "Days=30", "--no-fail-on-empty-changeset")
    assert "UPDATE_COMPLETE" in aws("describe-stacks")
    aws("delete-stack")
    wait_until(lambda: not logs.describe_log_groups(logGroupNamePrefix=f"/{name}")["logGroups"], 30)
