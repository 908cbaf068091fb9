"""uv's pip commands, as pip is configured: `.venv/bin/python utils/uv_pip.py install|compile OPTION ...`.

`install` fills .venv (utils/setup.sh) and an algorithm's environment (container/environment), `compile` pins packages
(container/lock.sh, make lock).

A company's package index, certificate or proxy stands in pip's configuration (`pip config`, PIP_*), which uv does not
read. What uv has no word for, a keyring for one, it goes without: it may fail then, and set-up takes pip.
"""

import ast
import importlib.util
import math
import os
import shutil
import subprocess
import sys

#: pip's options, and uv's for the same; pip takes several of each, parted by blanks.
OPTIONS = {
    "index-url": "--default-index",
    "extra-index-url": "--index",
    "find-links": "--find-links",
    "trusted-host": "--allow-insecure-host",
}
#: pip's options, and the variables that uv reads instead.
VARIABLES = {
    "cert": ["SSL_CERT_FILE"],
    "client-cert": ["SSL_CLIENT_CERT"],
    "proxy": ["http_proxy", "https_proxy", "HTTP_PROXY", "HTTPS_PROXY"],
    "timeout": ["UV_HTTP_TIMEOUT"],
}


def pip_settings() -> dict[str, str]:
    """What pip goes by in an installation: options and values, of all its files and variables; {} where it is not."""
    if importlib.util.find_spec("pip") is None:
        return {}
    command = [sys.executable, "-m", "pip", "config", "list"]
    lines = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True).stdout.splitlines()
    # Certificates that pip uses without being told to.
    bundle = os.environ.get("REQUESTS_CA_BUNDLE") or os.environ.get("CURL_CA_BUNDLE")
    settings = {"cert": bundle} if bundle else {}
    for section in ("global.", "install.", ":env:."):  # pip's order: a later one wins
        for name, value in (line.split("=", 1) for line in lines if line.startswith(section)):
            if text := ast.literal_eval(value).strip():  # an empty one counts as none
                settings[name.removeprefix(section).removeprefix("default-")] = text
    return settings


def command_and_environment(command: list[str], settings: dict[str, str]) -> tuple[list[str], dict[str, str]]:
    """uv's arguments and environment for one of its pip commands and what pip is set to."""
    # Of several indexes pip takes the best that any has, uv the first that knows the name. What differs by that cannot
    # harm here: the lock's hashes say which files may be installed, wherever they come from.
    arguments = ["pip", *command, "--index-strategy", "unsafe-best-match"]
    environment = dict(os.environ)
    for option, value in settings.items():
        if option in OPTIONS:
            for one in value.split():
                arguments += [OPTIONS[option], os.path.expanduser(one)]
        elif option == "no-index" and value.lower() in ("1", "true", "yes", "on"):
            arguments.append("--no-index")
        elif option in VARIABLES:
            if option == "timeout":
                value = str(math.ceil(float(value)))  # uv counts in whole seconds
            environment |= dict.fromkeys(VARIABLES[option], os.path.expanduser(value))
    return arguments, environment


if __name__ == "__main__":
    places = os.pathsep.join([os.environ.get("PATH", ""), os.path.dirname(sys.executable)])
    uv = shutil.which("uv", path=places)
    if uv is None:
        sys.exit("uv is neither on PATH nor in .venv")
    arguments, environment = command_and_environment(sys.argv[1:], pip_settings())
    os.execve(uv, [uv, *arguments], environment)
