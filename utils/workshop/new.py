"""Starts an algorithm of your own from a template: make new NAME=my_algorithm [LIKE=tabular|image|blank]

container/NAME then trains, serves and is tested at once; each TODO in it is where your own lines go.
"""

import argparse
import re
import shutil
import sys
from pathlib import Path

from . import ROOT
from .language import _
from .target import sample

CONTAINER = ROOT / "container"
PLACEHOLDER = "my_algorithm"
#: What an image, a module and a folder may be called, all three.
NAME = "[a-z][a-z0-9]*(__?[a-z0-9]+)*"


class NewError(ValueError):
    """No folder can be made; the message says why and what to do."""


def templates() -> list[str]:
    """The names of what an algorithm can begin as."""
    return sorted(
        path.name for path in (CONTAINER / "templates").iterdir() if (path / "training.py").exists()
    )


def create(name: str, like: str = "tabular") -> Path:
    """Make container/NAME from container/templates/LIKE and return it. Raises NewError where that cannot be."""
    if like not in templates():
        raise NewError(
            _(
                "LIKE={like}: there is no such template; there are {templates}",
                like=like,
                templates=", ".join(templates()),
            )
        )
    if not name:
        raise NewError(_("say how it is to be called: make new NAME={placeholder}", placeholder=PLACEHOLDER))
    if not re.fullmatch(NAME, name):
        raise NewError(
            _(
                "NAME={name}: an image gets this name, so it is small letters, digits and _ between them, "
                "a letter first, as in {placeholder}",
                name=name,
                placeholder=PLACEHOLDER,
            )
        )
    folder = CONTAINER / name
    taken = {path.name.lower() for path in CONTAINER.iterdir()}
    if name in taken | {path.stem for path in CONTAINER.glob("*.*")}:
        raise NewError(_("NAME={name}: container/{name} is there already; take another name", name=name))
    if f"{name}/" in (ROOT / ".gitignore").read_text(encoding="utf-8").split():
        raise NewError(
            _("NAME={name}: git ignores every folder {name}/ (.gitignore); take another name", name=name)
        )
    source = CONTAINER / "templates" / like
    made = folder.with_name(f".{name}.new")  # whole or not at all
    shutil.rmtree(made, ignore_errors=True)
    try:
        shutil.copytree(source, made, ignore=shutil.ignore_patterns("__pycache__", ".*"))
        (made / f"{like}_test.py").rename(made / f"{name}_test.py")
        for path in made.iterdir():
            if path.suffix in (".py", ".txt") and PLACEHOLDER in (text := path.read_text(encoding="utf-8")):
                path.write_text(text.replace(PLACEHOLDER, name), encoding="utf-8")
        made.rename(folder)
    finally:
        shutil.rmtree(made, ignore_errors=True)
    return folder


def main() -> int:
    parser = argparse.ArgumentParser(prog="make new", description=__doc__.partition("\n")[0])
    parser.add_argument("name", nargs="?", default="")
    parser.add_argument("--like", default="tabular")
    arguments = parser.parse_args()
    try:
        folder = create(arguments.name, arguments.like)
    except NewError as error:
        print(f"new: {error}", file=sys.stderr)
        return 2
    name = folder.name
    files = sorted(path.name for path in folder.iterdir() if "TODO" in path.read_text(errors="replace"))
    data, payload, content_type = sample(folder)
    base = f"build/ml/{name}"
    print(
        _(
            """container/{name} trains and serves as it is. Your lines go where it says TODO: {files}.

  .venv/bin/python -m pytest container/{name}     # trains it, serves it, asks it its payload
  container/lock.sh {name}                        # after a change of requirements-train.txt or -serve.txt
  make check-container ALGORITHM={name}
  .venv/bin/python -m localaws build {name} -t {name}    # packs it into an image

Or by hand, off Docker, with {base} for /opt/ml:

  mkdir -p {base}/input/data/training && cp -R {data} {base}/input/data/training
  SAGEMAKER_BASE_DIR={base} container/run {name} train
  SAGEMAKER_BASE_DIR={base} container/run {name} serve &    # kill $! ends it
  curl -sS --retry 9 --retry-connrefused --data-binary @container/{name}/{payload} -H 'Content-Type: {content_type}' localhost:8080/invocations

container/README.md says what you may write.""",
            name=name,
            files=", ".join(files),
            base=base,
            data=data,
            payload=payload.name,
            content_type=content_type,
        )
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
