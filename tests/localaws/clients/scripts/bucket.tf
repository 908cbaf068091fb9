# A bucket as Terraform's documentation shows it, and what belongs to it.
provider "aws" {
  s3_use_path_style = true
}

resource "aws_s3_bucket" "data" {
  bucket = "terraformed"
  tags   = { Name = "data" }
}

resource "aws_s3_bucket_versioning" "data" {
  bucket = aws_s3_bucket.data.id
  versioning_configuration {
    status = "Enabled"
  }
}

resource "aws_s3_bucket_request_payment_configuration" "data" {
  bucket = aws_s3_bucket.data.id
  payer  = "Requester"
}

resource "aws_s3_object" "rows" {
  bucket  = aws_s3_bucket.data.id
  key     = "a/b"
  content = "1,2"
}
