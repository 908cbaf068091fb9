# What a person who deploys a container of their own writes down for Terraform, as its documentation shows each.
provider "aws" {
  s3_use_path_style = true
}

data "aws_caller_identity" "here" {}

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

# With the versioning that they came under objects go again, marks of deletion too.
resource "aws_s3_object" "rows" {
  bucket  = aws_s3_bucket_versioning.data.id
  key     = "a/b"
  content = "1,2"
}

resource "aws_ecr_repository" "knn" {
  name                 = "terraformed"
  image_tag_mutability = "IMMUTABLE"
  force_delete         = true
  image_scanning_configuration {
    scan_on_push = true
  }
  tags = { Name = "knn" }
}

resource "aws_ecr_lifecycle_policy" "knn" {
  repository = aws_ecr_repository.knn.name
  policy = jsonencode({
    rules = [{
      rulePriority = 1
      description  = "Keep ten images"
      selection    = { tagStatus = "any", countType = "imageCountMoreThan", countNumber = 10 }
      action       = { type = "expire" }
    }]
  })
}

resource "aws_iam_role" "execution" {
  name = "terraformed"
  assume_role_policy = jsonencode({
    Version = "2012-10-17"
    Statement = [{
      Effect    = "Allow"
      Action    = "sts:AssumeRole"
      Principal = { Service = "sagemaker.amazonaws.com" }
    }]
  })
}

data "aws_iam_policy_document" "execution" {
  statement {
    actions   = ["s3:GetObject", "s3:PutObject"]
    resources = ["${aws_s3_bucket.data.arn}/*"]
  }
  statement {
    actions   = ["ecr:*", "logs:*"]
    resources = ["*"]
  }
}

resource "aws_iam_role_policy" "inline" {
  name   = "inline"
  role   = aws_iam_role.execution.id
  policy = data.aws_iam_policy_document.execution.json
}

resource "aws_iam_policy" "execution" {
  name   = "terraformed"
  policy = data.aws_iam_policy_document.execution.json
}

resource "aws_iam_role_policy_attachment" "execution" {
  role       = aws_iam_role.execution.name
  policy_arn = aws_iam_policy.execution.arn
}

resource "aws_cloudwatch_log_group" "endpoint" {
  name              = "/aws/sagemaker/Endpoints/terraformed"
  retention_in_days = 7
}

# The image has the name that every sample composes, and was pushed by the time that there is a model of it.
variable "image" {
  type = string
}

variable "artifact" {
  type = string
}

resource "aws_s3_object" "model" {
  bucket = aws_s3_bucket_versioning.data.id
  key    = "model.tar.gz"
  source = var.artifact
  etag   = filemd5(var.artifact)
}

resource "aws_sagemaker_model" "knn" {
  name               = "terraformed"
  execution_role_arn = aws_iam_role.execution.arn
  primary_container {
    image          = var.image
    model_data_url = "s3://${aws_s3_bucket.data.id}/${aws_s3_object.model.key}"
    environment    = { SAGEMAKER_LOG_LEVEL = "info" }
  }
  tags = { Name = "knn" }
}

resource "aws_sagemaker_endpoint_configuration" "knn" {
  name = "terraformed"
  production_variants {
    variant_name           = "all"
    model_name             = aws_sagemaker_model.knn.name
    initial_instance_count = 1
    instance_type          = "ml.m5.large"
  }
}

resource "aws_sagemaker_endpoint" "knn" {
  name                 = "terraformed"
  endpoint_config_name = aws_sagemaker_endpoint_configuration.knn.name
  tags                 = { Name = "knn" }
}

output "account" {
  value = data.aws_caller_identity.here.account_id
}
