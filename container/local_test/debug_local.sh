#!/usr/bin/env bash
# Opens a shell in a container.
usage="usage: container/local_test/debug_local.sh IMAGE [TEST_DIR] [--port PORT]

Opens a shell in IMAGE, with TEST_DIR (default: the test_dir beside this script) as /opt/ml, port 8080 published as
PORT, and your container/ folder, as you edit it, as /src. In the shell, for instance:

  train                             what the image does
  /src/run decision_trees train     the same with your files of this moment, no build needed
  python3 -m pdb /opt/program/train line by line
  serve &                           then predict.sh in another terminal"
# shellcheck source=common.sh
. "$(dirname -- "${BASH_SOURCE[0]}")/common.sh"
arguments "$@"
fill_channel
free_port
trap give_back EXIT
terminal=--interactive
[ ! -t 0 ] || terminal=--interactive=true\ --tty
# shellcheck disable=SC2086  # one word or two
"$docker" run --rm --init $terminal --publish "127.0.0.1:$port:8080" --env MODEL_SERVER_ADDRESS=0.0.0.0 \
    --mount "type=bind,source=$base,target=/opt/ml" \
    --mount "type=bind,source=$(dirname "$here"),target=/src,readonly" "$image" bash
