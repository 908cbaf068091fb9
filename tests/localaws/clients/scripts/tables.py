"""Tables in S3: pandas by s3fs, and lines by smart_open."""

import boto3
import pandas as pd
from smart_open import open as smart_open

s3 = boto3.client("s3")
s3.create_bucket(Bucket="tables", CreateBucketConfiguration={"LocationConstraint": s3.meta.region_name})
pd.DataFrame({"species": ["setosa", "virginica"], "length": [5.1, 6.7]}).to_csv(
    "s3://tables/a/b.csv", index=False
)
print("PANDAS", pd.read_csv("s3://tables/a/b.csv")["length"].sum())
with smart_open("s3://tables/a/lines.txt", "w") as file:
    file.writelines(f"{number}\n" for number in range(100_000))
with smart_open("s3://tables/a/lines.txt") as file:
    print("LINES", sum(int(line) for line in file))
