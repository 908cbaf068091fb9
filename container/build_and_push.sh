#!/usr/bin/env bash
# Builds an image and pushes it to Amazon ECR: to AWS, or to localaws where AWS_ENDPOINT_URL names it.
set -euo pipefail

usage() {
    cat <<'TEXT'
usage: container/build_and_push.sh NAME [options]

Builds NAME:TAG, makes the ECR repository NAME unless it is there (scanned on push, the last ten images kept), logs
in, pushes, and prints digest and URI. All options of build_local.sh work here too:

  --algorithm FOLDER, --target TARGET, --tag TAG, --base IMAGE, --pip-conf FILE, --ca FILE, --wheels FOLDER,
  --dry-run, --help

The region is AWS_REGION, AWS_DEFAULT_REGION, that of your profile, else us-west-2.
For localaws, in the same shell before it:  eval "$(python -m localaws env)"
TEXT
}

fail() {
    printf 'build_and_push.sh: %s\n' "$*" >&2
    exit 1
}

run() {
    if [ -n "$dry_run" ]; then
        printf '%q ' "$@" && echo
    else
        "$@"
    fi
}

here=$(cd -- "$(dirname -- "${BASH_SOURCE[0]}")" && pwd)
docker=${DOCKER:-docker}
name="" tag=latest dry_run="" previous=""
for word in "$@"; do
    case $previous:$word in
        --tag:*) tag=$word ;;
        --algorithm:* | --target:* | --base:* | --pip-conf:* | --ca:* | --wheels:*) ;;
        *:--help) usage && exit ;;
        *:--dry-run) dry_run=yes ;;
        *:-*) ;;
        *) name=$word ;;
    esac
    previous=$word
done

# It checks the name and the options, too.
"$here/build_local.sh" "$@"

case $name in
    *sagemaker*) ;;
    *) echo "build_and_push.sh: '$name' has no 'sagemaker' in it: a role with only AmazonSageMakerFullAccess cannot pull it" >&2 ;;
esac
PATH=$PATH:$here/../.venv/bin # the workshop's own, where there is no other
command -v aws >/dev/null || fail "the aws command is not installed: pip install awscli, or https://aws.amazon.com/cli"
region=${AWS_REGION:-${AWS_DEFAULT_REGION:-$(aws configure get region || true)}}
region=${region:-us-west-2}
ecr=(aws ecr --region "$region" --output text)

if [ -n "$dry_run" ]; then
    uri="REPOSITORY_URI"
else
    ask=("${ecr[@]}" describe-repositories --repository-names "$name" --query "repositories[0].repositoryUri")
    if ! uri=$("${ask[@]}" 2>&1); then
        [[ $uri == *RepositoryNotFoundException* ]] || fail "ECR in $region does not answer as it should: $uri"
        uri=""
    fi
fi
if [ -z "$uri" ] || [ -n "$dry_run" ]; then
    run "${ecr[@]}" create-repository --repository-name "$name" --image-scanning-configuration scanOnPush=true \
        --query "repository.repositoryArn"
    run "${ecr[@]}" put-lifecycle-policy --repository-name "$name" --query repositoryName --lifecycle-policy-text \
        '{"rules": [{"rulePriority": 1, "description": "Keep the last ten images", "action": {"type": "expire"},
          "selection": {"tagStatus": "any", "countType": "imageCountMoreThan", "countNumber": 10}}]}'
fi
if [ -n "$dry_run" ]; then
    printf '%q ' "${ecr[@]}" get-login-password && printf '| '
    run "$docker" login --username AWS --password-stdin "$uri"
else
    uri=$("${ask[@]}")
    password=$("${ecr[@]}" get-login-password) ||
        fail "'aws ecr get-login-password' failed; it needs the aws command 1.17.10 or newer, or 2: aws --version"
    "$docker" login --username AWS --password-stdin "${uri%%/*}" <<<"$password"
fi
run "$docker" tag "$name:$tag" "$uri:$tag"
run "$docker" push "$uri:$tag"
[ -z "$dry_run" ] || exit 0
digest=$("${ecr[@]}" describe-images --repository-name "$name" --image-ids "imageTag=$tag" \
    --query "imageDetails[0].imageDigest")
echo "digest $digest"
echo "uri $uri:$tag"
