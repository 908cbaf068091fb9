#!/bin/sh
# Compiles stack/fast.c for the programs of a Python environment, where numeric.py looks for it: compile.sh PREFIX
set -eu
[ $# -eq 1 ] || { echo "usage: container/compile.sh PREFIX (the folder that Python calls sys.prefix)" >&2; exit 2; }
here=$(cd -- "$(dirname -- "$0")" && pwd)
"${CC:-cc}" -O2 -Wall -Wextra -shared -fPIC -o "$1/lib/libfast.so" "$here/stack/fast.c"
