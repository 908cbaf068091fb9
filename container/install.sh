#!/bin/sh
# A step of the Dockerfile: installs the lock files beside it into /opt/venv, without what no program uses.
set -eu
ca=/run/secrets/ca_bundle
if [ -s $ca ]; then export PIP_CERT=$ca; fi
locks=""
for lock in /opt/pip/requirements-*.lock; do locks="$locks --requirement $lock"; done
# shellcheck disable=SC2086  # two words a lock file
/opt/pip/bin/pip --python /opt/venv/bin/python --disable-pip-version-check install --quiet --no-deps --no-compile \
    --require-hashes --only-binary :all: $locks

cd /opt/venv/lib/python*/site-packages
# Tests, what only compilers and type checkers read, onnxruntime's tools for making models smaller, and its library for
# C, which Python's module has inside.
find . -depth -type d \( -name test -o -name tests \) -exec rm -rf {} +
find . -type f \( -name '*.pyi' -o -name '*.pyx' -o -name '*.pxd' -o -name '*.h' -o -name '*.hpp' -o -name '*.c' \
    -o -name '*.cc' -o -name '*.cpp' -o -name '*.proto' -o -name '*.a' \) -delete
rm -rf onnxruntime/quantization onnxruntime/tools onnxruntime/transformers onnxruntime/capi/libonnxruntime.so*
# Compiled here, once: a container's file system may be read-only, and a cold start would compile each time.
/opt/venv/bin/python -m compileall -q -j 0 --invalidation-mode unchecked-hash .
