#!/bin/sh
# Compiles stack/tables/fast.c for the programs of a Python environment, where fast.py looks for it: compile.sh PREFIX
set -eu
[ $# -eq 1 ] || { echo "usage: container/compile.sh PREFIX (the folder that Python calls sys.prefix)" >&2; exit 2; }
here=$(cd -- "$(dirname -- "$0")" && pwd)
made="$1/lib/libfast.$$.so"
trap 'rm -f "$made"' EXIT
"${CC:-cc}" -O2 -Wall -Wextra -shared -fPIC -o "$made" "$here/stack/tables/fast.c"
mv -f "$made" "$1/lib/libfast.so" # at once: a program that starts meanwhile must not miss it
