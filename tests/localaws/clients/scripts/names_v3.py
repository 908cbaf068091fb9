"""SDK 3: the names that it puts together itself, as a notebook's first cells ask for them."""

import boto3
from sagemaker.core.helper.session_helper import Session, get_execution_role
from sagemaker.train import ModelTrainer
from sagemaker.train.configs import Compute

role = get_execution_role()
session = Session()
bucket, account, region = session.default_bucket(), session.account_id(), session.boto_region_name
print(role, bucket, account, region)
assert boto3.client("iam").get_role(RoleName=role.rpartition("/")[2])["Role"]["Arn"] == role
assert bucket == f"sagemaker-{region}-{account}"
print(session.upload_data(__file__, key_prefix="names"))
image = f"{account}.dkr.ecr.{region}.amazonaws.com/none:latest"
trainer = ModelTrainer(training_image=image, compute=Compute(instance_type="ml.m5.large", instance_count=1))
assert trainer.role == role, trainer.role
