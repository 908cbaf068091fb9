"""Who calls with the home's own key: a role, as on a notebook instance, of which SDKs make the role of their jobs."""

import json
from contextlib import suppress

import moto.sts.responses
from moto.core.responses import ActionResult

from localaws.state import locate

from .kept import backend

SESSION = "SageMaker"  # what SageMaker calls the session of a notebook instance
TRUST = {
    "Version": "2012-10-17",
    "Statement": [
        {
            "Effect": "Allow",
            "Principal": {"Service": "sagemaker.amazonaws.com"},
            "Action": "sts:AssumeRole",
        }
    ],
}
# What SageMaker's console gives such a role: the managed policy, and the buckets, here all of them.
MANAGED = "arn:aws:iam::aws:policy/AmazonSageMakerFullAccess"
ANY_BUCKET = {
    "Version": "2012-10-17",
    "Statement": [
        {
            "Effect": "Allow",
            "Action": ["s3:GetObject", "s3:PutObject", "s3:DeleteObject", "s3:ListBucket"],
            "Resource": ["arn:aws:s3:::*"],
        }
    ],
}


def make_role(iam) -> None:
    """Make the role that the home's own key stands for, or what of it is missing; `iam` is boto3's client."""
    name = {"RoleName": locate.ROLE}
    with suppress(iam.exceptions.EntityAlreadyExistsException):
        iam.create_role(**name, Path="/service-role/", AssumeRolePolicyDocument=json.dumps(TRUST))
    iam.attach_role_policy(**name, PolicyArn=MANAGED)
    iam.put_role_policy(**name, PolicyName="AnyBucket", PolicyDocument=json.dumps(ANY_BUCKET))


class Identity(moto.sts.responses.TokenResponse):
    """moto's reader of STS's requests, which knows whose the home's own key is."""

    def get_caller_identity(self) -> ActionResult:
        # moto sees no key in one that is not of AWS's form; a signature by an unknown one has been refused by now.
        if self.get_access_key() in backend("iam").access_keys:
            return super().get_caller_identity()
        roles = (role for role in backend("iam").roles.values() if role.arn == locate.ROLE_ARN)
        number = next((role.id for role in roles), "AROA0000000000000000")  # deleted since the start
        arn = f"arn:aws:sts::{locate.ACCOUNT}:assumed-role/{locate.ROLE}/{SESSION}"
        return ActionResult({"UserId": f"{number}:{SESSION}", "Account": locate.ACCOUNT, "Arn": arn})


moto.sts.responses.TokenResponse = Identity
