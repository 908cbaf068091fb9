#!/usr/bin/env bash
# Serves in a container, as SageMaker does, until Ctrl-C.
usage="usage: container/local_test/serve_local.sh IMAGE [TEST_DIR] [--port PORT]

Runs \`docker run IMAGE serve\` with the model of TEST_DIR (default: the test_dir beside this script), which
train_local.sh has made, on http://127.0.0.1:PORT (default: 8080). Then, in another terminal:

  container/local_test/predict.sh container/decision_trees/payload.csv"
# shellcheck source=common.sh
. "$(dirname -- "${BASH_SOURCE[0]}")/common.sh"
arguments "$@"
[ -n "$(ls "$base/model")" ] || fail "$base/model is empty. Train first: container/local_test/train_local.sh $image"
free_port
exec "$docker" run --rm --publish "127.0.0.1:$port:8080" \
    --mount "type=bind,source=$base/model,target=/opt/ml/model,readonly" "$image" serve
