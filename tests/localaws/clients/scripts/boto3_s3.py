"""boto3 of its own release, with nothing but what its documentation shows."""

import boto3

s3 = boto3.client("s3")
s3.create_bucket(Bucket="clients", CreateBucketConfiguration={"LocationConstraint": s3.meta.region_name})
s3.put_object(Bucket="clients", Key="a", Body=b"1,2\n")
print(s3.get_object(Bucket="clients", Key="a")["Body"].read().decode())
print(boto3.client("sts").get_caller_identity()["Arn"])
