"""The algorithm's two files, training.py and predictor.py: found, imported, and held to what the stack will call."""

import ast
import difflib
import importlib
import importlib.machinery
import inspect
import os
import re
import sys
import traceback
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import NamedTuple

from stack.errors import InputError

# In an image the two files lie beside this package, in /opt/program; container/run says where they are.
FOLDER = Path(os.environ.get("ALGORITHM_DIR") or Path(__file__).parents[1]).resolve()
# The functions of SageMaker's inference toolkit, and where the stack has them for a predictor that does not.
FUNCTIONS = {
    "model_fn": (("model_dir",), "stack.onnx_model"),
    "input_fn": (("body", "content_type"), "stack.tables"),
    "predict_fn": (("data", "model"), "stack.onnx_model"),
    "output_fn": (("prediction", "accept"), "stack.tables"),
}
PAYLOAD_TYPES = {
    ".csv": "text/csv",
    ".json": "application/json",
    ".jsonl": "application/jsonlines",
    ".npy": "application/x-npy",
}
PAYLOAD_TYPES |= {".png": "image/png", ".jpg": "image/jpeg", ".txt": "text/plain"}


class BadAnswer(TypeError):
    """What predict_fn or output_fn returned is no answer."""


class Predictor(NamedTuple):
    """The four functions, and what predictor.py says of them.

    own:                  the names of those that predictor.py defines
    replies:              the media types that output_fn writes, None where nobody says: it then gets the client's wish
    rows_are_independent: a row's answer does not depend on the rows around it, so a table may be cut
    """

    model_fn: Callable
    input_fn: Callable
    predict_fn: Callable
    output_fn: Callable
    own: frozenset[str]
    replies: tuple[str, ...] | None
    rows_are_independent: bool


def trainer() -> Callable:
    """training.py's train(hyperparameters, channels, model_dir), or with a client. Raises InputError that names what is
    wrong with it.

    Or with the names in predictor.py, which is not imported (it may need what only a server has): better now than when
    the job has ended.
    """
    file = FOLDER / "predictor.py"
    if file.is_file():
        try:
            tree = ast.parse(file.read_bytes())
        except SyntaxError as error:
            raise InputError(f"predictor.py, line {error.lineno}: SyntaxError: {error.msg}") from None
        _check_names([node.name for node in tree.body if isinstance(node, ast.FunctionDef)])
    module = _load("training")
    client = ("client",) if takes_client(getattr(module, "train", None)) else ()
    return _function(module, "train", ("hyperparameters", "channels", "model_dir", *client))


def takes_client(train: Callable) -> bool:
    """Whether a train() asks for the `client` of a cluster of the job's hosts."""
    try:
        return "client" in inspect.signature(train).parameters
    except (TypeError, ValueError):  # no function, which _function says; something compiled
        return False


def cluster(resources: dict, on_loss: Callable[[str], None]):
    """This host's part of the cluster (cluster.py). Raises InputError where the algorithm lists no Dask."""
    try:
        from stack.cluster import Cluster
    except ModuleNotFoundError as error:
        raise InputError(
            f"training.py: train() takes a client, and there is no {error.name}{mend(error, 'training')}"
        ) from None
    return Cluster(resources, on_loss)


def predictor() -> Predictor:
    """predictor.py's functions, and the stack's for those that it lacks. Raises InputError that names what is wrong."""
    module = _load("predictor")
    own = frozenset(name for name in FUNCTIONS if hasattr(module, name))
    _check_names([name for name, value in vars(module).items() if callable(value)])
    if "model_fn" in own and "predict_fn" not in own and not _from_stack(module, "model_fn"):
        raise InputError(
            "predictor.py has a model_fn of its own and no predict_fn: only it can know how to ask its model; "
            "define predict_fn(data, model)"
        )
    functions = {}
    for name, (parameters, home) in FUNCTIONS.items():
        holder = module if name in own else importlib.import_module(home)
        functions[name] = _function(holder, name, parameters)
    own = frozenset(name for name in own if not _from_stack(module, name))
    replies = getattr(module, "REPLIES", None)
    if replies is None and "output_fn" not in own:
        replies = importlib.import_module("stack.tables.formats").TYPES
    if replies is not None and not (
        isinstance(replies, tuple | list)
        and replies
        and all(isinstance(r, str) and re.fullmatch(r"[^\s;/]+/[^\s;/]+", r) for r in replies)
    ):
        raise InputError(
            f"predictor.py: REPLIES must list media types without parameters, as in ('text/csv',); found {replies!r}"
        )
    independent = getattr(module, "ROWS_ARE_INDEPENDENT", "predict_fn" not in own)
    if not isinstance(independent, bool):
        raise InputError(f"predictor.py: ROWS_ARE_INDEPENDENT must be True or False; found {independent!r}")
    return Predictor(
        **functions, own=own, replies=replies and tuple(replies), rows_are_independent=independent
    )


def _check_names(names: list[str]) -> None:
    for name in names:
        meant = difflib.get_close_matches(name, FUNCTIONS.keys() - set(names), 1, 0.8)
        if meant:
            raise InputError(f"predictor.py defines {name}; did you mean {meant[0]}? Rename it")


def model(functions: Predictor, model_dir: Path):
    """What model_fn makes of the model folder. Raises InputError that names the line where it failed."""
    try:
        return functions.model_fn(model_dir)
    except InputError:
        raise
    except Exception as error:
        if not isinstance(error, OSError):
            traceback.print_exc()
        said = f"{type(error).__name__}: {error}"
        raise InputError(f"model_fn({str(model_dir)!r}) failed: {where(error)}{said}") from None


def reply_body(returned, accept: str) -> tuple[bytes, str]:
    """What output_fn returned as (body, media type): bytes, text, or a pair of one of them and its type.

    Raises BadAnswer for anything else.
    """
    body, media = returned, "" if "*" in accept else accept
    if isinstance(returned, tuple | list) and len(returned) == 2 and isinstance(returned[1], str):
        body, media = returned
    if isinstance(body, str):
        return body.encode(), media or "text/plain; charset=utf-8"
    if isinstance(body, bytes | bytearray | memoryview):
        return bytes(body), media or "application/octet-stream"
    raise BadAnswer(
        f"output_fn returned {type(returned).__name__}; expected bytes, text, or a pair of these and a media type"
    )


def check_rows(prediction, rows: int) -> None:
    """Raises BadAnswer where the stack's output_fn would not write a value for each row."""
    for column in prediction.values() if isinstance(prediction, dict) else [prediction]:
        column = getattr(column, "codes", column)
        if isinstance(column, str | bytes) or not hasattr(column, "__len__"):
            found = f"{type(column).__name__} for {rows} rows"
        elif len(column) != rows:
            found = f"{len(column)} value{'s' * (len(column) != 1)} for {rows} rows"
        else:
            continue
        raise BadAnswer(
            f"predict_fn returned {found}; expected an array or a list with a value for each row, or such columns by name"
        )


def payload() -> tuple[bytes, str] | None:
    """The algorithm's example of a request, payload.*, as (body, content type); None where it has none."""
    for file in sorted(FOLDER.glob("payload.*")):
        if file.suffix in PAYLOAD_TYPES:
            return file.read_bytes(), PAYLOAD_TYPES[file.suffix]
    return None


def where(error: Exception) -> str:
    """The last line of the algorithm's own that an error came through, as "training.py, line 3: "; nothing if none did."""
    if isinstance(error, SyntaxError) and error.filename:
        return f"{Path(error.filename).name}, line {error.lineno}: "
    lines = [f for f in traceback.extract_tb(error.__traceback__) if Path(f.filename).is_relative_to(FOLDER)]
    own = [line for line in lines if not Path(line.filename).is_relative_to(Path(__file__).parent)]
    return f"{Path(own[-1].filename).name}, line {own[-1].lineno}: " if own else ""


def _load(name: str) -> ModuleType:
    file = FOLDER / f"{name}.py"
    if not file.is_file():
        raise InputError(f"{file} is missing: an algorithm is training.py and predictor.py")
    # Last: no file of the algorithm's may stand in the way of what the stack imports. For the same reason none of
    # them may have a name that is taken: it would be passed over.
    if str(FOLDER) not in sys.path:
        sys.path.append(str(FOLDER))
    for path in sorted(FOLDER.iterdir()):
        taken = path.suffix == ".py" or (path / "__init__.py").is_file()
        if taken and path != Path(__file__).parent and _exists_elsewhere(path.stem):
            raise InputError(f"{path.name} has the name of a module that Python or a package has; rename it")
    try:
        return importlib.import_module(name)
    except InputError:
        raise
    except Exception as error:
        traceback.print_exc()
        said = f"{type(error).__name__}: {getattr(error, 'msg', error)}"
        raise InputError(f"{name}.py cannot be imported: {where(error)}{said}{mend(error, name)}") from None


def _exists_elsewhere(module: str) -> bool:
    if module in sys.stdlib_module_names or module == "stack":
        return True
    spec = importlib.machinery.PathFinder.find_spec(
        module, [path for path in sys.path if Path(path).resolve() != FOLDER]
    )
    return spec is not None and spec.origin is not None


def mend(error: Exception, name: str) -> str:
    """What is to be done about a package that `name`, training or predictor, lacks; nothing where that is not it."""
    if not isinstance(error, ModuleNotFoundError):
        return ""
    verb, package = "train" if name == "training" else "serve", (error.name or "").partition(".")[0]
    if package != error.name and package in sys.modules:
        return f"; the package {package} is there, and has no such module"
    return f"; a package is listed in requirements-{verb}.txt and pinned by container/lock.sh"


def _from_stack(module: ModuleType, name: str) -> bool:
    return getattr(getattr(module, name, None), "__module__", "").startswith("stack.")


def _function(module: ModuleType, name: str, parameters: tuple[str, ...]) -> Callable:
    file, call = f"{module.__name__}.py", f"{name}({', '.join(parameters)})"
    found = getattr(module, name, None)
    if found is None:
        near = difflib.get_close_matches(name, vars(module), 1, 0.6)
        raise InputError(f"{file} defines no {call}" + (f"; did you mean that by {near[0]}?" if near else ""))
    if not callable(found):
        raise InputError(f"{file}: {name} must be a function, {call}; found {type(found).__name__}")
    try:
        signature = inspect.signature(found)
    except ValueError:  # something compiled tells nothing of its parameters
        return found
    try:
        signature.bind(*parameters)
    except TypeError:
        raise InputError(f"{file}: {name}{signature} cannot be called as {call}") from None
    names = list(signature.parameters)[: len(parameters)]
    if set(names) == set(parameters) and names != list(parameters):
        raise InputError(
            f"{file}: {name}{signature} has its parameters in another order than {call}, as it is called"
        )
    return found
