#!/bin/sh
# Pins what an algorithm imports, and what the stack does: container/lock.sh [ALGORITHM], without a name every one.
#   container/{stack,ALGORITHM}/requirements-train.txt  ->  container/ALGORITHM/requirements-train.lock; serve: the same
# What CUDA alone needs goes into a lock of its own, requirements-train.cuda.lock, which a build for CPUs does without. Such
# a build (torch 2.13.0+cpu, for torch==2.13.0) is in no common index: its hash stands in the list, behind the name.
# The versions are those that the lists ask for; else those of requirements.lock, so that an image and this machine run
# the same; else those that the lock has already (to have newer ones, delete it first). The uv of .venv does it, as pip is
# configured.
set -eu
cd -- "$(dirname -- "$0")"
PATH="$PWD/../.venv/bin:$PATH"
if [ $# -eq 0 ]; then
    for list in */requirements-train.txt templates/*/requirements-train.txt; do
        if [ -f "$list" ] && [ "$list" != stack/requirements-train.txt ]; then set -- "$@" "${list%/*}"; fi
    done
elif [ $# -gt 1 ] || [ "$1" = stack ] || [ ! -f "$1/requirements-train.txt" ] || [ ! -f "$1/requirements-serve.txt" ]; then
    [ -d "$1" ] || echo "container/lock.sh: there is no container/$1" >&2
    echo "usage: container/lock.sh [ALGORITHM], a folder of container/ with requirements-train.txt and requirements-serve.txt" >&2
    exit 2
fi
for algorithm; do
    for verb in train serve; do
        lock=$algorithm/requirements-$verb.lock
        cuda=${lock%.lock}.cuda.lock list=$algorithm/requirements-$verb.txt
        # uv keeps to the versions of the file that it writes to, where it can: first come, first served.
        cat ../requirements.lock "$lock" "$cuda" 2>/dev/null |
            awk "/^[^ ]/ { skip = / == 'win32'/ } !skip" >"$lock.new"
        # A build for CPUs is offered for some machines, and the lock is for all of them: === takes none.
        awk '/--hash=/ { sub("==", "===", $1); print $1 }' "$list" >"$lock.exact"
        python3 ../utils/uv_pip.py compile --quiet --universal --python-version 3.11 --only-binary :all: --generate-hashes --no-header \
            --no-annotate "stack/requirements-$verb.txt" "$list" --constraint "$lock.exact" --output-file "$lock.new" || {
            rm -f "$lock.new" "$lock.exact"
            echo "container/lock.sh: container/$list cannot be pinned, for what uv says above:" \
                "mend a name or a version in it" >&2
            exit 1
        }
        rm -f "$cuda" && : >"$lock"
        awk -v lock="$lock" -v cuda="$cuda" -v list="$list" '
            BEGIN {
                while ((getline line < list) > 0)
                    for (i = split(line, word, " "); i > 1; i--)
                        if (word[i] ~ /^--hash=/) own[word[1]] = own[word[1]] " " word[i]
            }
            NR == FNR { there[$1]; next }
            /^[^ ]/ { file = /^(cuda|nvidia|triton)/ ? cuda : lock }
            { print > file }
            /^[^ ]/ {
                for (i = split(own[$1], hash, " "); i > 0; i--)
                    if (!(hash[i] in there)) print "    " hash[i] " \\" > file
            }' "$lock.new" "$lock.new"
        rm -f "$lock.new" "$lock.exact"
        for made in "$lock" "$cuda"; do [ ! -f "$made" ] || echo "container/$made"; done
    done
done
