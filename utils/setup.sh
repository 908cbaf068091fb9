#!/bin/sh
# Make this clone ready, once: .venv from requirements.lock, the helper packages, nginx where it can be installed, and
# the container's compiled reader.
# Run by the Makefile whenever requirements.lock is newer than what is installed. Asks nothing; what is missing and
# cannot be installed from here is named with the command that installs it.
set -eu
cd "$(dirname "$0")/.."

say() { printf 'setup: %s\n' "$*"; }

# Debian installs quietly as root; everybody else gets the command.
debian_install() {
    [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null || return 1
    say "installing $* (apt-get)"
    export DEBIAN_FRONTEND=noninteractive
    { apt-get -qq update && apt-get -qq install -y --no-install-recommends "$@"; } </dev/null >/dev/null 2>&1
}

pip_install() { .venv/bin/python -m pip install --disable-pip-version-check --no-deps "$@"; }

# uv takes seconds for what takes pip minutes. It is in the lock like everything else: pip fetches it by its hash.
uv_install() {
    if ! command -v uv >/dev/null; then
        sed -n '/^uv==/,/[^\\]$/p' requirements.lock >.venv/uv.lock
        pip_install --require-hashes -r .venv/uv.lock || return
    fi
    .venv/bin/python utils/uv_pip.py install --python .venv/bin/python --no-deps --require-hashes \
        --requirement requirements.lock || return
    # Not by uv, which would compile everybody's tests as well, a third of all. Needed, since the Makefile forbids Python
    # to write byte code: each start would compile all that it imports. What does not compile here says so when imported.
    say "compiling byte code"
    .venv/bin/python -W ignore -m compileall -qq -j 0 -x '/tests?/' .venv/lib || true
}

if [ -n "${PYTHON:-}" ]; then set -- "$PYTHON"; else set -- python3.11 python3 python3.12 python3.13; fi
python="" tried=""
for candidate in "$@"; do
    version=$("$candidate" -c 'import sys; print("%d.%d" % sys.version_info[:2])' 2>/dev/null) || version="does not run"
    case $version in
    3.11 | 3.12 | 3.13) python=$candidate && break ;;
    *) tried="$tried${tried:+, }$candidate ($version)" ;;
    esac
done
if [ -z "$python" ]; then
    say "Python 3.11, 3.12 or 3.13 is needed; tried: $tried. Install one:"
    say "  Debian, Ubuntu: apt-get install python3 python3-venv     macOS: brew install python@3.12"
    say "  conda: conda env create -f environment.yml && conda activate sagemaker-byoa"
    say "or name it: make setup PYTHON=/path/to/python3.12"
    exit 1
fi

if ! "$python" -c 'import ensurepip, venv' 2>/dev/null && ! debian_install python3-venv; then
    say "$python cannot make virtual environments. Install its venv module: sudo apt-get install python3-venv"
    exit 1
fi

say "$("$python" --version) -> .venv, packages from requirements.lock (about half a minute, once)"
# What an interrupted set-up left, or another Python's, is made anew.
if ! { [ -f .venv/ready ] && .venv/bin/python -m pip --version >/dev/null 2>&1 &&
    [ "$(.venv/bin/python --version)" = "$("$python" --version)" ]; }; then
    "$python" -m venv --clear .venv
fi
rm -f .venv/ready
if ! uv_install; then
    say "uv cannot install them here, its reason is above. So pip does, which takes two to five minutes."
    if ! pip_install --require-hashes -r requirements.lock; then
        say "pip cannot install them either, its reason is above. Behind a proxy or a package index of your own, tell pip:"
        say "  $python -m pip config set global.index-url https://…     (global.cert, global.proxy)     then: make setup"
        exit 1
    fi
fi
pip_install -qq --no-build-isolation --editable .

if ! PATH="$PATH:/usr/sbin:/usr/local/sbin" command -v nginx >/dev/null && ! debian_install nginx-light; then
    say "nginx is not installed: the labs go on without it (gunicorn listens itself). To see the whole stack:"
    say "  Debian, Ubuntu: sudo apt-get install nginx-light     macOS: brew install nginx"
fi
if ! container/compile.sh .venv 2>/dev/null && ! { debian_install gcc libc6-dev && container/compile.sh .venv; }; then
    say "no C compiler that works: the container runs without its compiled reader: large requests take longer."
    say "  Debian, Ubuntu: sudo apt-get install gcc libc6-dev     macOS: xcode-select --install     then: make setup -B"
fi
# What decision_trees runs with: a fifth of a second, links into .venv. Others are made when they are first run.
if [ -f container/environment ]; then
    .venv/bin/python -I container/environment container/decision_trees/requirements-*.lock >/dev/null || true
fi
touch .venv/ready
