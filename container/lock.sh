#!/bin/sh
# Pins what an algorithm imports, and what the stack does: container/lock.sh [ALGORITHM], without a name every one.
#   container/{stack,ALGORITHM}/requirements-train.txt  ->  container/ALGORITHM/requirements-train.lock; serve: the same
# The versions are those of requirements.lock where it has them, so that an image and this machine run the same, else
# those that the lock has already (to have newer ones, delete it first). The uv of .venv does it, as pip is configured.
set -eu
cd -- "$(dirname -- "$0")"
PATH="$PWD/../.venv/bin:$PATH"
if [ $# -eq 0 ]; then
    for list in */requirements-train.txt templates/*/requirements-train.txt; do
        if [ -f "$list" ] && [ "$list" != stack/requirements-train.txt ]; then set -- "$@" "${list%/*}"; fi
    done
elif [ $# -gt 1 ] || [ "$1" = stack ] || [ ! -f "$1/requirements-train.txt" ] || [ ! -f "$1/requirements-serve.txt" ]; then
    echo "usage: container/lock.sh [ALGORITHM], a folder of container/ with requirements-train.txt and requirements-serve.txt" >&2
    exit 2
fi
for algorithm; do
    for verb in train serve; do
        python3 ../utils/uv_pip.py compile --quiet --universal --python-version 3.11 --only-binary :all: --generate-hashes --no-header \
            --no-annotate --constraint ../requirements.lock "stack/requirements-$verb.txt" \
            "$algorithm/requirements-$verb.txt" --output-file "$algorithm/requirements-$verb.lock"
        echo "container/$algorithm/requirements-$verb.lock"
    done
done
