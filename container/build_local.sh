#!/usr/bin/env bash
# Builds container/Dockerfile and tags it; pushes nothing.
set -euo pipefail

usage() {
    cat <<'TEXT'
usage: container/build_local.sh NAME [options]

Builds the image NAME:TAG from container/Dockerfile, for linux/amd64, which is what SageMaker runs.

  --algorithm FOLDER  the folder in container/ that is built (default: decision_trees)
  --target TARGET     both (train and serve, the default), train or serve
  --tag TAG           default: latest
  --base IMAGE        another base: a Debian or Ubuntu with Python 3.11 and its venv module
  --pip-conf FILE     pip's configuration, for a package index of your company's (default: $PIP_CONFIG_FILE)
  --ca FILE           certificates to trust, for a proxy of your company's (default: $PIP_CERT)
  --wheels FOLDER     wheels that are taken where a lock file has their hash: a build of PyTorch for CPUs, say (default:
                      $PIP_FIND_LINKS, where it is a folder)
  --dry-run           print the commands instead of running them
  --help              print this

Those two files are build secrets: they are in no layer and not in the history of the image.
DOCKER names the program to use (default: docker).
TEXT
}

fail() {
    printf 'build_local.sh: %s\n' "$*" >&2
    exit 1
}

here=$(cd -- "$(dirname -- "${BASH_SOURCE[0]}")" && pwd)
docker=${DOCKER:-docker}
name="" algorithm=decision_trees target=both tag=latest base="" dry_run=""
pip_conf=${PIP_CONFIG_FILE:-} ca=${PIP_CERT:-} wheels=""
[ ! -d "${PIP_FIND_LINKS:-}" ] || wheels=$PIP_FIND_LINKS
while [ $# -gt 0 ]; do
    case $1 in
        --algorithm | --target | --tag | --base | --pip-conf | --ca | --wheels)
            [ $# -ge 2 ] || fail "$1 needs a value (--help explains it)"
            case $1 in
                --algorithm) algorithm=$2 ;;
                --target) target=$2 ;;
                --tag) tag=$2 ;;
                --base) base=$2 ;;
                --pip-conf) pip_conf=$2 ;;
                --ca) ca=$2 ;;
                --wheels) wheels=$2 ;;
            esac
            shift 2
            ;;
        --dry-run) dry_run=yes && shift ;;
        --help) usage && exit ;;
        -*) fail "unknown option $1 (--help lists them)" ;;
        *)
            [ -z "$name" ] || fail "one NAME, please: got '$name' and '$1'"
            name=$1 && shift
            ;;
    esac
done
[ -n "$name" ] || fail "NAME is missing, as in: container/build_local.sh sagemaker-decision-trees"
[[ $name =~ ^[a-z0-9]+([._/-][a-z0-9]+)*$ ]] ||
    fail "'$name' is not a name for an image: small letters and digits, with . _ - / between; tags go to --tag"
[[ $tag =~ ^[A-Za-z0-9_][A-Za-z0-9_.-]{0,127}$ ]] || fail "--tag '$tag': letters, digits and _ . -, at most 128"
case $target in both | train | serve) ;; *) fail "--target '$target' is none of: both, train, serve" ;; esac
[ -f "$here/$algorithm/predictor.py" ] ||
    fail "container/$algorithm holds no predictor.py: is '$algorithm' the name of an algorithm?"
for verb in train serve; do
    lock=container/$algorithm/requirements-$verb.lock
    [ -f "$here/../$lock" ] || fail "$lock is missing: make it with container/lock.sh $algorithm"
done
[ -z "$pip_conf" ] || [ -r "$pip_conf" ] || fail "--pip-conf (PIP_CONFIG_FILE): cannot read '$pip_conf'"
[ -z "$ca" ] || [ -r "$ca" ] || fail "--ca (PIP_CERT): cannot read '$ca'"
[ -z "$wheels" ] || [ -d "$wheels" ] || fail "--wheels: there is no folder '$wheels'"
# Of the folder only what the lock files name: it may be large, and what it has for others changes nothing here.
found=()
for wheel in ${wheels:+"$wheels"/*.whl}; do
    IFS=- read -r package version _ <<<"${wheel##*/}"
    [ ! -f "$wheel" ] || ! grep -Eiqx "${package//[-_.]/[-_.]}==${version%%+*}( .*)?" \
        "$here/$algorithm/requirements-${target#both}"*.lock || found+=("${wheel##*/}")
done

export DOCKER_BUILDKIT=1
knows() { [[ $options == *"$1"* ]]; }
options=$("$docker" build --help 2>&1) || options="missing: $options"
if [ -z "$dry_run" ]; then
    command -v "$docker" >/dev/null ||
        fail "'$docker' is not installed: https://docs.docker.com/engine/install (or, without Docker: python -m localaws build)"
    knows --secret || fail "'$docker' has no BuildKit, which this recipe needs: install docker-buildx-plugin, or name another with DOCKER"
    problem=$("$docker" version --format ok 2>&1 >/dev/null) || fail "no Docker engine answers: ${problem##*$'\n'}
Start Docker Desktop, or: sudo systemctl start docker (and be in the group docker)"
fi

command=("$docker" build --platform linux/amd64 --target "$target" --build-arg "ALGORITHM=$algorithm")
# SageMaker takes no index of images, which attestations would make of it.
knows --provenance && command+=(--provenance=false)
[ -z "$base" ] || command+=(--build-arg "BASE_IMAGE=$base")
[ -z "$pip_conf" ] || command+=(--secret "id=pip_conf,src=$pip_conf")
[ -z "$ca" ] || command+=(--secret "id=ca_bundle,src=$ca")
[ ${#found[@]} = 0 ] || command+=(--build-arg "WHEELS=$name-wheels:$tag")
command+=(--tag "$name:$tag" "$here")
pack=(tar -C "$wheels" -c ${found[@]+"${found[@]}"})
unpack=("$docker" import --platform linux/amd64 - "$name-wheels:$tag")
if [ -n "$dry_run" ]; then
    [ ${#found[@]} = 0 ] || { printf '%q ' "${pack[@]}" && printf '| ' && printf '%q ' "${unpack[@]}" && echo; }
    printf '%q ' "${command[@]}" && echo
    exit
fi
if [ ${#found[@]} != 0 ]; then
    # An image of them that is gone after the build: Docker's older clients hand in no folder beside the context.
    trap '"$docker" rmi --force "$name-wheels:$tag" >/dev/null 2>&1' EXIT
    "${pack[@]}" | "${unpack[@]}" >/dev/null
fi
"${command[@]}"
"$docker" image inspect --format "built $name:$tag  {{.Id}}  {{.Size}} bytes" "$name:$tag"
