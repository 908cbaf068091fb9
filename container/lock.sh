#!/bin/sh
# Pins what an algorithm imports: container/lock.sh ALGORITHM. The uv of .venv does it (make setup).
#   requirements-train.txt, requirements-serve.txt  ->  requirements-train.lock, requirements-serve.lock
# The versions are those of requirements.lock where it has them, so that an image and this machine run the same.
set -eu
root=$(cd -- "$(dirname -- "$0")/.." && pwd)
if [ $# -ne 1 ] || [ ! -f "$root/container/$1/requirements-serve.txt" ]; then
    echo "usage: container/lock.sh ALGORITHM, a folder of container/ with requirements-train.txt and requirements-serve.txt" >&2
    exit 2
fi
cd "$root/container/$1"
PATH="$root/.venv/bin:$PATH"
for verb in train serve; do
    uv pip compile --quiet --python-platform x86_64-manylinux_2_28 --python-version 3.11 --only-binary :all: \
        --generate-hashes --no-header --no-annotate --constraint "$root/requirements.lock" \
        "requirements-$verb.txt" --output-file "requirements-$verb.lock"
    echo "container/$1/requirements-$verb.lock"
done
