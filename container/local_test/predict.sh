#!/usr/bin/env bash
# Sends a file to a server that serve_local.sh has started, and prints the answer.
usage="usage: container/local_test/predict.sh PAYLOAD [CONTENT_TYPE] [--port PORT]

PAYLOAD is a file; CONTENT_TYPE is text/csv (the default), application/json, application/jsonlines or
application/x-npy; PORT is 8080. Exit code 1 where the answer is an error."
# shellcheck source=common.sh
. "$(dirname -- "${BASH_SOURCE[0]}")/common.sh"
words "$@"
payload=$first content_type=$second
[ -n "$payload" ] || fail "PAYLOAD is missing, as in: $0 container/decision_trees/payload.csv"
[ -r "$payload" ] || fail "cannot read the file '$payload'"
command -v curl >/dev/null || fail "curl is not installed: apt-get install curl, or brew install curl"

url=http://127.0.0.1:$port/invocations
# The status comes as a last line of its own, after the answer.
answer=$(curl --silent --show-error --noproxy '*' --max-time 70 --header "Content-Type: ${content_type:-text/csv}" \
    --data-binary "@$payload" --write-out '\n%{http_code}' "$url" | tr -d '\0') ||
    fail "$url does not answer. Start the server: container/local_test/serve_local.sh IMAGE --port $port"
printf '%s\n' "${answer%$'\n'*}"
status=${answer##*$'\n'}
[ "$status" = 200 ] || fail "the server answered with status $status"
