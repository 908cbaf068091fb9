#!/bin/sh
# Stands in the place of `train` or `serve` in an image that was built for the other one.
verb=$(basename "$0")
[ "$verb" = train ] && only=serves || only=trains
message="$verb: this image only $only; build it with --target both, or --target $verb"
echo "$message" >&2
# What SageMaker shows as the job's FailureReason.
failure="${SAGEMAKER_BASE_DIR:-/opt/ml}/output/failure"
if [ "$verb" = train ] && [ -d "${failure%/*}" ]; then
    printf '%s' "$message" >"$failure"
fi
exit 2
