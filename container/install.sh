#!/bin/sh
# A step of the Dockerfile: installs the lock files beside it into /opt/venv, without what no program uses.
set -eu
ca=/run/secrets/ca_bundle
if [ -s $ca ]; then export PIP_CERT=$ca; fi

# A page that says the wheels' hashes, as an index does: pip would rather take what it knows to have a hash of the lock
# than the newer build whose hash it has yet to find.
page=/tmp/wheels.html
for wheel in /opt/wheels/*.whl; do
    [ ! -f "$wheel" ] || echo "<a href='file://$wheel#sha256=$(sha256sum "$wheel" | cut -d ' ' -f 1)'>${wheel##*/}</a>"
done >$page

install() { # a list of --requirement FILE
    /opt/pip/bin/pip --python /opt/venv/bin/python --disable-pip-version-check install --quiet --no-deps --no-compile \
        --require-hashes --only-binary :all: --find-links $page "$@"
}

locks="" cuda=""
for lock in /opt/pip/requirements-*.lock; do
    case $lock in
        *.cuda.lock) cuda="$cuda --requirement $lock" ;;
        *) locks="$locks --requirement $lock" ;;
    esac
done
# shellcheck disable=SC2086  # two words a lock file
install $locks
# What CUDA alone needs: not for a build for CPUs, whose version says so (torch 2.13.0+cpu).
for build in /opt/venv/lib/python*/site-packages/*+cpu.dist-info; do [ ! -d "$build" ] || cuda=""; done
# shellcheck disable=SC2086
[ -z "$cuda" ] || install $cuda

cd /opt/venv/lib/python*/site-packages
# Tests, what only compilers and type checkers read, onnxruntime's tools for making models smaller, and its library for
# C, which Python's module has inside; torch's tests in C++; what dask.dataframe does not import of pyarrow.
find . -depth -type d \( -name test -o -name tests \) -exec rm -rf {} +
find . -type f \( -name '*.pyi' -o -name '*.pyx' -o -name '*.pxd' -o -name '*.h' -o -name '*.hpp' -o -name '*.c' \
    -o -name '*.cc' -o -name '*.cpp' -o -name '*.proto' -o -name '*.a' \) -delete
rm -rf onnxruntime/quantization onnxruntime/tools onnxruntime/transformers onnxruntime/capi/libonnxruntime.so* \
    torch/bin/test_* torch/bin/protoc* pyarrow/include pyarrow/libarrow_flight* pyarrow/_flight* pyarrow/*.pxi
# Compiled here, once: a container's file system may be read-only, and a cold start would compile each time. What is
# written for a later Python stays as it is: packages bring such files, and import them there alone.
/opt/venv/bin/python -m compileall -qq -j 0 --invalidation-mode unchecked-hash . || true
