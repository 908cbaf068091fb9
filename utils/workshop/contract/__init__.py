"""Does a container keep SageMaker's contract? Of any algorithm, in any language: it is trained, served, asked, stopped.

    python -m workshop.contract --train "PROGRAM train" --serve "PROGRAM serve" \\
        --training FOLDER --payload FILE --content-type text/csv
    python -m workshop.contract --algorithm NAME --hyperparameter alpha=0.1 beta=2
    python -m workshop.contract --url http://localhost:8080 --payload FILE --content-type text/csv

PROGRAM finds in its environment SAGEMAKER_BASE_DIR, the folder to use in place of /opt/ml, and SAGEMAKER_BIND_TO_PORT,
the port to listen on in place of 8080. What reads /opt/ml whatever it is told is an image's: it is run as
`tests/docker/in_image IMAGE train`, which makes the folder the image's /opt/ml. What listens on 8080 whatever it is
told, as AWS's samples do, needs `--port 8080`.

NAME is a folder of this clone's container/: its programs off Docker, its payload, and the data and hyperparameters that
its labs.json names ({"training": "data/iris.csv", "hyperparameters": {}}), where the command does not name others. There
may be {"training": {CHANNEL: PATH}}, and "made_by", a Python program with its words, which makes the data first.

A line each promise: `ok`, `broken` or `left out`; `must` is what SageMaker breaks without, `should` what a good
container does. Exit code 1 where a must is broken, 2 where there was nothing to check, 130 when interrupted.
"""

import contextlib
import functools
import shlex
import shutil
import socket
import tempfile
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from urllib.parse import urlsplit

from ..language import _
from . import serving
from .program import Program, changes, free_port, read_only, snapshot
from .promises import ContractError, Finding, Promise, folded
from .serving import Question, Server, Stop
from .training import PROMISES, Training

__all__ = ["ContractError", "Finding", "check"]


def check(
    *,
    train: str | None = None,
    serve: str | None = None,
    url: str | None = None,
    payload: str | Path | None = None,
    content_type: str | None = None,
    training: str | Path | Mapping[str, str | Path] | None = None,
    hyperparameters: Mapping[str, object] | None = None,
    accept: str | None = None,
    model: str | Path | None = None,
    port: int | None = None,
    patience: float = 60,
    say: Callable[[object], object] = print,
) -> list[Finding]:
    """Hold a container to SageMaker's contract, `say` each finding as it comes, and return them all.

    What is left out for one and the same reason, in a row, is said as one.

    `train` and `serve` are commands, `url` a server that runs already; `payload` is a file, the body of a request of
    `content_type` that must be answered, by an answer of the type `accept` where that is given. `training` is a file
    or folder for the channel `training`, or {channel: file or folder}; `model` a folder to serve where nothing is
    trained. `port` is for a container that cannot be told one; `patience` the seconds that it has to be ready.
    Raises ContractError where a file, a program or a port is not as it must be.
    """
    if not isinstance(training, Mapping):
        training = {"training": training} if training else {}
    sources = {channel: Path(source) for channel, source in training.items()}
    paths = {"payload": payload, "model": model} | {
        f"training {name}": path for name, path in sources.items()
    }
    for name, path in paths.items():
        if path and not Path(path).exists():
            raise ContractError(
                _("{name}: there is no {path}; name a file or folder that exists", name=name, path=path)
            )
    if bool(url) == bool(train or serve):
        raise ContractError(
            _("what shall be checked? Name the commands, train and serve, or the url of a running server")
        )
    if train and not sources:
        raise ContractError(_("train needs something to learn from: training=FOLDER"))
    if serve and not train and not model:
        raise ContractError(_("serve needs a model: name train as well, or model=FOLDER"))
    if (serve or url) and not (payload and content_type):
        raise ContractError(
            _("a server needs to be asked something: name the payload, a file, and its content type")
        )
    address = urlsplit(url or "")
    if url and (address.scheme != "http" or not address.hostname):
        raise ContractError(_("url: {url} is none; expected http://HOST:PORT", url=url))
    headers = {"Content-Type": content_type} | ({"Accept": accept} if accept else {})
    question = Question(Path(payload).read_bytes() if payload else b"", headers)
    findings: list[Finding] = []

    def hold(table: list[Promise], subject, because: str | None = None) -> str | None:
        """Looks at the promises of a table in turn; says because of what later ones cannot be looked at."""
        for each in table:
            finding = each.left_out(because) if because else each.hold(subject)
            if each.vital and not finding.ok:
                because = because or _("“{name}” is broken", name=finding.name)
            findings.append(finding)
            hear(finding)
        return because

    temporary = tempfile.TemporaryDirectory(prefix="contract-", ignore_cleanup_errors=True)
    with folded(say) as hear, temporary as name:
        folder = Path(name)
        folder.chmod(0o755)  # a server may read its model as another user
        because = None
        if train:
            runs = Training(_command("train", train), folder, sources, hyperparameters or {})
            because = hold(PROMISES, runs)
            model, because = (model, None) if model else (folder / "train/model", because)
        if url:
            server = Server((address.hostname, address.port or 80), question, patience=5)
            try:
                socket.create_connection(server.address, timeout=5).close()
            except OSError as error:
                raise ContractError(
                    _(
                        "url: nothing listens at {url} ({error}); start the container first",
                        url=url,
                        error=error,
                    )
                ) from None
            hold(serving.ASKED + serving.BATCH, server)
        if serve:
            life = functools.partial(_started, _command("serve", serve), folder, question, port)
            _serving(life, Path(model), patience, hold, because)
    return findings


def _command(verb: str, line: str) -> list[str]:
    words = shlex.split(line)
    if not words or not shutil.which(words[0]):
        raise ContractError(
            _(
                "{verb}: there is no program {program!r}. A path with a blank in it wants quotes of its "
                "own: \"'/my path/run' my_algorithm {verb}\"",
                verb=verb,
                program=words[0] if words else "",
            )
        )
    return words


@contextlib.contextmanager
def _started(
    command, folder, question, port, name: str, model: Path | None, patience: float, **variables: str
):
    """A server of one's own, with a copy of the model, which it may not write to."""
    base = folder / name
    (base / "model").mkdir(parents=True)
    if model:
        shutil.copytree(model, base / "model", dirs_exist_ok=True)
    port = port or free_port()
    with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=1):
        raise ContractError(_("port {port} is taken: stop what listens there", port=port))
    with read_only(base / "model"), Program(command, base, port, **variables) as program:
        yield Server(("127.0.0.1", port), question, program, patience)


def _serving(life: Callable, model: Path, patience: float, hold: Callable, because: str | None) -> None:
    """The life of a server, of one that is started for a batch transform, and of one that has no model."""
    first, later = serving.STARTING + serving.ASKED, serving.BATCH + serving.WITHOUT_MODEL
    if because:
        hold(first + serving.STOPPING + later, None, because)
        return
    with life("serve", model, patience) as server:
        program = server.program
        before = snapshot(program.base, ())
        because = hold(first, server)
        if not because:
            # Who answers no more may be on its way out: its sockets go a moment before its process does.
            by_itself = program.wait(0 if server.is_up() else serving.ENDING) is not None
            started = time.monotonic()
            program.terminate()
            left = "" if by_itself else program.left(serving.STOP)
            changed = changes(before, snapshot(program.base, ()))
            stop = Stop(by_itself, program.wait(0), time.monotonic() - started, left, changed)
            hold(serving.STOPPING, stop)
    if because:
        hold(serving.STOPPING + later, None, because)
        return
    with life("batch", model, patience, **serving.BATCH_VARIABLES) as server:
        hold(serving.BATCH, server)
    # Long enough for one that had a model, twice over.
    with life("modelless", None, 2 + 2 * server.ready) as server:
        hold(serving.WITHOUT_MODEL, server)
