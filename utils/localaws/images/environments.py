"""The Python that an image's programs run with off Docker, and whether an algorithm's modules can be imported by it."""

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

from localaws.state import locate

PROGRAM = Path(__file__).with_name("environment")  # the workshop's, in container/, comes with the package
MODULES = {"train": "training", "serve": "predictor"}  # what each imports of an algorithm
IMPORT_SECONDS = 60
# Imports modules, and has the stack look at what they hold; the last line of what it prints says of the first that
# fails where and why: file, line, cause.
IMPORTER = """
import importlib, json, os, sys, traceback
if os.path.exists("stack/algorithm.py"):
    import stack  # first, as its programs do
for name in sys.argv[1:]:
    try:
        importlib.import_module(name)
    except BaseException as error:
        places = [(frame.filename, frame.lineno) for frame in traceback.extract_tb(error.__traceback__)]
        if isinstance(error, SyntaxError):
            places.append((error.filename, error.lineno))
        here = [place for place in places if str(place[0]).startswith(os.getcwd() + os.sep)]
        file, line = here[-1] if here else (name + ".py", 1)
        cause = traceback.format_exception_only(error)[-1].strip()
        print("", json.dumps([os.path.relpath(file), line, cause, isinstance(error, ModuleNotFoundError)]), sep="\\n")
        sys.exit(1)
if os.path.exists("stack/algorithm.py"):
    from stack import algorithm
    try:
        if "training" in sys.argv:
            algorithm.trainer()
        if "predictor" in sys.argv:
            algorithm.predictor()
    except ValueError as error:
        print("", json.dumps([None, 0, str(error), False]), sep="\\n")
        sys.exit(1)
"""


def locks(program: Path) -> list[Path]:
    """The lock files of what `train` and `serve` import, those that a folder has."""
    files = (program / f"requirements-{verb}.lock" for verb in ("train", "serve"))
    return [file for file in files if file.is_file()]


def python(
    locks: list[Path], progress: Callable[[str], None], started: Callable[[int], None] = lambda pid: None
) -> Path:
    """Return the Python with the packages of the lock files; make it where it is not there yet.

    `progress` is told a line of each step, `started` the pid of what makes it, which leads a session of its own. Raises
    RuntimeError, with what is wrong and what mends it.
    """
    said = ""
    with subprocess.Popen(
        [sys.executable, "-I", PROGRAM, f"--into={_place()}", *locks],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        errors="replace",
        start_new_session=True,
        umask=0o022,  # what a server that is root makes its workers, who are nobody, must read
    ) as process:
        started(process.pid)
        for line in process.stderr:
            said = line.rstrip()
            progress(said)
        found = process.stdout.read().removesuffix("\n")
    if process.returncode:
        raise RuntimeError(said or f"{PROGRAM} ended with {process.returncode}")
    return Path(found)


def _place() -> Path:
    """Where environments are made: in the workshop's build/, else in the home."""
    return (locate.ROOT / "build" if locate.has_workshop() else locate.home()) / "environments"


def size(python: Path) -> int:
    """The bytes of an environment's packages, those that are linked from another included, without byte code."""
    total = 0
    for folder, folders, files in os.walk(python.parent.parent / "lib", followlinks=True):
        folders[:] = [name for name in folders if name != "__pycache__"]
        total += sum(os.stat(file).st_size for name in files if os.path.exists(file := f"{folder}/{name}"))
    return total


def check_syntax(sources: dict[str, Path]) -> None:
    """Compile the Python among an image's files (path there -> file here). Raises ValueError with file, line and cause."""
    for path, file in sources.items():
        content = file.read_bytes()
        first = content.partition(b"\n")[0]
        if file.suffix == ".py" or (first.startswith(b"#!") and b"python" in first):
            try:
                compile(content, path, "exec", dont_inherit=True)
            except SyntaxError as error:
                text = f": {error.text.strip()}" if error.text else ""
                raise ValueError(f"{named(file)}, line {error.lineno}: {error.msg}{text}") from None
            except ValueError as error:  # NUL in it
                raise ValueError(f"{named(file)}: {error}") from None


def check_imports(python: Path, sources: dict[str, Path], algorithm: str, target: str = "both") -> None:
    """Import an algorithm's modules as its image for `target` will: by its own Python, its files laid out as there.

    Raises ValueError with file, line, cause and mend.
    """
    modules = [name for verb, name in MODULES.items() if target in (verb, "both") and f"{name}.py" in sources]
    if "stack/algorithm.py" in sources and (
        lacking := [name for name in MODULES.values() if f"{name}.py" not in sources]
    ):
        raise ValueError(
            f"container/{algorithm}/{lacking[0]}.py is missing: an algorithm is training.py and predictor.py"
        )
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary).resolve()
        for path, file in sources.items():
            (folder / path).parent.mkdir(parents=True, exist_ok=True)
            (folder / path).symlink_to(file)
        kept = {name: value for name, value in os.environ.items() if not name.startswith("PYTHON")}
        own = {"PYTHONPATH": str(folder), "ALGORITHM_DIR": str(folder), "PYTHONDONTWRITEBYTECODE": "1"}
        try:
            done = subprocess.run(
                [python, "-c", IMPORTER, *modules],
                cwd=folder,
                env=kept | own | {"PATH": f"{python.parent}{os.pathsep}{os.environ.get('PATH', os.defpath)}"},
                stdin=subprocess.DEVNULL,
                capture_output=True,
                text=True,
                errors="replace",
                timeout=IMPORT_SECONDS,
            )
        except subprocess.TimeoutExpired:
            raise ValueError(
                f"container/{algorithm}: importing {' and '.join(modules)} takes more than {IMPORT_SECONDS} s: what "
                "takes long belongs into a function"
            ) from None
    if done.returncode == 0:
        return
    try:
        path, line, cause, missing = json.loads(done.stdout.splitlines()[-1])
    except (ValueError, IndexError):  # ended by a signal
        raise ValueError(
            f"container/{algorithm}: importing {' and '.join(modules)} ended with {done.returncode}: {done.stderr[-300:]}"
        ) from None
    if path is None:
        raise ValueError(f"container/{algorithm}: {cause}")
    place = f"{named(sources[path])}, line {line}" if path in sources else path
    mend = (
        f". Its package stands in neither requirements-train.txt nor requirements-serve.txt of container/{algorithm}? "
        f"Put it there, then: container/lock.sh {algorithm}"
    )
    raise ValueError(f"{place}: {cause}{mend if missing else ''}")


def named(file: Path) -> Path:
    """A file's path as people know it: in the workshop from its root."""
    return file.relative_to(locate.ROOT) if file.is_relative_to(locate.ROOT) else file
