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

python=""
for candidate in "${PYTHON:-python3.11}" python3 python3.12 python3.13; do
    if "$candidate" -c 'import sys; sys.exit(not (3, 11) <= sys.version_info < (3, 14))' 2>/dev/null; then
        python=$candidate
        break
    fi
done
if [ -z "$python" ]; then
    say "Python 3.11, 3.12 or 3.13 is needed and none was found. Install one:"
    say "  Debian, Ubuntu: apt-get install python3 python3-venv     macOS: brew install python@3.12"
    say "  conda: conda env create -f environment.yml && conda activate sagemaker-byoa"
    say "or name it: make setup PYTHON=/path/to/python3.12"
    exit 1
fi

if ! "$python" -c 'import ensurepip, venv' 2>/dev/null && ! debian_install python3-venv; then
    say "$python cannot make virtual environments. Install its venv module: sudo apt-get install python3-venv"
    exit 1
fi

say "$("$python" --version) -> .venv, packages from requirements.lock (two to four minutes, once)"
# A .venv whose Python or pip does not work (moved, or half-made by an interrupted set-up) is made anew.
.venv/bin/python -m pip --version >/dev/null 2>&1 || "$python" -m venv --clear .venv
.venv/bin/python -m pip install -qq --disable-pip-version-check --require-hashes --no-deps -r requirements.lock
.venv/bin/python -m pip install -qq --disable-pip-version-check --no-deps --no-build-isolation --editable .

if ! PATH="$PATH:/usr/sbin:/usr/local/sbin" command -v nginx >/dev/null && ! debian_install nginx-light; then
    say "nginx is not installed: the labs go on without it (gunicorn listens itself). To see the whole stack:"
    say "  Debian, Ubuntu: sudo apt-get install nginx-light     macOS: brew install nginx"
fi
if ! container/compile.sh .venv 2>/dev/null && ! { debian_install gcc libc6-dev && container/compile.sh .venv; }; then
    say "no C compiler that works: the container runs without its compiled reader: large requests take longer."
    say "  Debian, Ubuntu: sudo apt-get install gcc libc6-dev     macOS: xcode-select --install     then: make setup -B"
fi
touch .venv/ready
say "done"
