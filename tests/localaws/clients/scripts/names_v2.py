"""SDK 2: the names that it puts together itself, as a notebook's first cells ask for them."""

import boto3
import sagemaker

role = sagemaker.get_execution_role()
session = sagemaker.Session()
bucket, account, region = session.default_bucket(), session.account_id(), session.boto_region_name
print(role, bucket, account, region)
assert boto3.client("iam").get_role(RoleName=role.rpartition("/")[2])["Role"]["Arn"] == role
assert bucket == f"sagemaker-{region}-{account}"
print(session.upload_data(__file__, key_prefix="names"))
image = f"{account}.dkr.ecr.{region}.amazonaws.com/none:latest"
estimator = sagemaker.estimator.Estimator(image, instance_count=1, instance_type="ml.m5.large")
assert estimator.role == role
