#!/usr/bin/env bash
# Trains in a container, as SageMaker does.
usage="usage: container/local_test/train_local.sh IMAGE [TEST_DIR]

Runs \`docker run IMAGE train\` with TEST_DIR (default: the test_dir beside this script) as /opt/ml and no network.
The model lands in TEST_DIR/model, the cause of a failure in TEST_DIR/output/failure."
# shellcheck source=common.sh
. "$(dirname -- "${BASH_SOURCE[0]}")/common.sh"
arguments "$@"
fill_channel
trap give_back EXIT
trap 'exit 130' INT TERM
"$docker" run --rm --network none --mount "type=bind,source=$base,target=/opt/ml" "$image" train
