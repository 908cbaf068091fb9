# shellcheck shell=bash
# What the scripts beside it share. Each sets `usage` first.
set -euo pipefail
: "${usage:?is set by the script that reads this file}"

fail() {
    printf '%s: %s\n' "$(basename "$0")" "$*" >&2
    exit 1
}

here=$(cd -- "$(dirname -- "${BASH_SOURCE[0]}")" && pwd)
docker=${DOCKER:-docker}

# Reads up to two words and --port PORT. Sets first, second and port.
words() {
    first="" second="" port=8080
    while [ $# -gt 0 ]; do
        case $1 in
            --help) echo "$usage" && exit ;;
            --port)
                [[ ${2:-} =~ ^[0-9]{1,5}$ ]] || fail "--port needs a number, as in: --port 8081"
                port=$2 && shift
                ;;
            -*) fail "unknown option $1 (--help explains what there is)" ;;
            *)
                if [ -z "$first" ]; then first=$1; elif [ -z "$second" ]; then second=$1; else fail "one word too many: $1"; fi
                ;;
        esac
        shift
    done
}

# For scripts that take IMAGE [TEST_DIR] [--port PORT]. Sets image, base (the container's /opt/ml) and port.
arguments() {
    words "$@"
    image=$first base=$second
    [ -n "$image" ] || fail "IMAGE is missing, as in: $0 sagemaker-decision-trees"
    base=${base:-$here/test_dir}
    [ -d "$base/input/config" ] || fail "$base has no input/config: it must be laid out like container/local_test/test_dir"
    base=$(cd -- "$base" && pwd)
    [[ $base != *,* ]] || fail "docker cannot mount a folder with a comma in its name: $base"
    mkdir -p "$base/input/data/training" "$base/model" "$base/output"

    command -v "$docker" >/dev/null || fail "'$docker' is not installed; without it: container/run decision_trees train|serve"
    local problem
    problem=$("$docker" version --format ok 2>&1 >/dev/null) || fail "no Docker engine answers: ${problem##*$'\n'}
Start Docker Desktop, or: sudo systemctl start docker (and be in the group docker)"
    "$docker" image inspect "$image" >/dev/null 2>&1 ||
        fail "there is no image $image here. Build it: container/build_local.sh ${image%%:*}"
}

# The training file is in data/, once; a channel with files of your own is left alone.
fill_channel() {
    local channel=$base/input/data/training
    if [ "$base" = "$here/test_dir" ] && [ -z "$(ls "$channel")" ]; then
        cp "$here/../../data/iris.csv" "$channel/"
    fi
}

# The container runs as root, as on SageMaker: what it wrote becomes yours, here and not on Docker's own machine.
give_back() {
    if [ "$(id -u)" != 0 ] && ! "$docker" info --format '{{.SecurityOptions}}' | grep -q rootless; then
        "$docker" run --rm --network none --mount "type=bind,source=$base,target=/opt/ml" "$image" \
            chown -R "$(id -u):$(id -g)" /opt/ml/model /opt/ml/output
    fi
}

free_port() {
    if (exec 3<>"/dev/tcp/127.0.0.1/$port") 2>/dev/null; then
        local container
        container=$("$docker" ps --quiet --filter "publish=$port")
        fail "port $port is taken. Stop what listens there${container:+ ($docker stop $container)}, or take another one: --port 8081"
    fi
}
