# Terraform makes a bucket, finds nothing to change, and takes it away. Its provider is the installed one: nothing is fetched.
set -eu
cp "$1" main.tf
cat > rc <<END
provider_installation {
  filesystem_mirror {
    path = "$2"
  }
}
END
export TF_CLI_CONFIG_FILE="$PWD/rc" CHECKPOINT_DISABLE=1
terraform init -no-color
terraform apply -auto-approve -no-color
terraform plan -detailed-exitcode -no-color
terraform destroy -auto-approve -no-color
