"""What is measured of the U-Net: a picture of 256 x 256 answered with its mask, against what has to be done at least."""

import base64
import contextlib
import io
import json
import runpy
import shutil
import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from . import BUILD, PROGRAMS, ROOT, BenchError, training
from .contenders import Contender, Server, python, running
from .load import wrk

UNET = ROOT / "container" / "unet"
CELLS = ROOT / "data" / "cells.py"
SIZE = 256
AGREEMENT = 0.999  # of the pixels: what the training asks of ONNX Runtime and torch
PROCESS_SECONDS = 600  # one that hangs is ended
SERVED = Contender(
    "unet",
    "this container",
    lambda python, port: [python, ROOT / "container/stack/serve"],
    (UNET / "requirements-serve.lock",),
    content_type="image/png",
)
TRAINER = Contender(
    "unet-train",
    "this container's `train`",
    lambda python, port: [python, ROOT / "container/stack/train", "train"],
    (UNET / "requirements-train.lock",),
)
LITSERVE = Contender(
    "litserve-unet",
    "LitServe, ONNX Runtime as it comes",
    lambda python, port: [python, PROGRAMS / "litserve/pictures.py", str(port)],
    (PROGRAMS / "litserve/pictures.txt",),
    pinned=False,
    content_type="application/json",
    path="/predict",
    health="/health",
)
#: name -> (title, whose Python, program)
PROCESSES = {
    "session": ("in one process: the ONNX Runtime session alone, one thread", SERVED, "session.py"),
    "torch": ("in one process: torch eager, one thread", TRAINER, "eager.py"),
    "torch2": ("in one process: torch eager, its own choice of threads", TRAINER, "eager.py"),
}
TITLES = {
    "unet": SERVED.title,
    "functions": "in one process: input_fn, predict_fn and output_fn",
    **{name: title for name, (title, *_) in PROCESSES.items()},
    LITSERVE.name: LITSERVE.title,
}


def measure(rounds: int, quick: bool) -> dict:
    """{"ms": {who: [a round each]}, "parts": {part: [a round each]}}: p50 of one connection, in turn."""
    base, picture = model()
    times: dict[str, list[float]] = {}
    with contextlib.ExitStack() as stack:
        servers: list[Server] = []
        for contender in (SERVED,) if quick else (SERVED, LITSERVE):
            try:
                [server] = stack.enter_context(
                    running(contender, SAGEMAKER_BASE_DIR=base, ALGORITHM_DIR=UNET)
                )
                check(server.send(body(server, picture)), picture)
            except BenchError as error:
                if contender is SERVED:
                    raise
                print(f"a picture: {contender.title} is left out: {error}")
            else:
                servers.append(server)
        processes = [stack.enter_context(process(name, base, picture)) for name in PROCESSES]
        for _ in range(rounds):
            for server in servers:
                taken = wrk(server, body(server, picture), 1, 1 if quick else 2).p50
                times.setdefault(server.contender.name, []).append(taken)
            for ask in processes:
                for part, taken in ask(20 if quick else 40).items():
                    times.setdefault(part, []).append(taken)
    parts = {part: times.pop(part) for part in ("reading", "asking", "writing")}
    return {"ms": {name: times[name] for name in TITLES if name in times}, "parts": parts}


def model() -> tuple[Path, Path]:
    """SageMaker's folder of a U-Net that has learned cells, and a picture: made once, and again where a file has changed."""
    sources = [CELLS, *sorted(UNET.glob("*.py")), UNET / "requirements-train.lock"]
    base = BUILD / "ml" / "unet"
    made, picture = base / "made.json", base / "picture.png"
    about = {str(file.relative_to(ROOT)): file.read_text() for file in sources}
    if made.exists() and json.loads(made.read_text()) == about:
        return base, picture
    shutil.rmtree(base, ignore_errors=True)
    for part in ("input/data", "input/config", "model", "output"):
        (base / part).mkdir(parents=True)
    cells = runpy.run_path(str(CELLS))
    cells["make"](base / "input/data")
    (base / "input/config/hyperparameters.json").write_text(json.dumps({"epochs": "2"}))
    command = [str(word) for word in TRAINER.command(python(TRAINER), 0)]
    training.process(command, SAGEMAKER_BASE_DIR=base, ALGORITHM_DIR=UNET)
    draw(cells["picture"], picture)
    made.write_text(json.dumps(about))
    return base, picture


def draw(one, file: Path) -> None:
    """Nine of the pictures that are trained on, put together, and of those SIZE x SIZE pixels."""
    from PIL import Image

    random = np.random.default_rng(1)
    rows = [np.concatenate([one(random)[0] for _ in range(3)], axis=1) for _ in range(3)]
    Image.fromarray(np.concatenate(rows)[:SIZE, :SIZE]).save(file)


def body(server: Server, picture: Path) -> bytes:
    if server.contender is LITSERVE:
        return json.dumps({"image": base64.b64encode(picture.read_bytes()).decode()}).encode()
    return picture.read_bytes()


_expected: dict[Path, np.ndarray] = {}


def check(answer: bytes | list[int], picture: Path) -> None:
    """Nobody is measured for another mask than the first one who answered. Raises BenchError."""
    from PIL import Image

    mask = np.asarray(Image.open(io.BytesIO(answer)) if isinstance(answer, bytes) else answer).reshape(
        SIZE, SIZE
    )
    agreement = (mask == _expected.setdefault(picture, mask)).mean()
    if agreement < AGREEMENT or not 0 < mask.mean() < 1:
        raise BenchError(f"masks agree in {agreement:.2%} of the pixels; cells are {mask.mean():.0%} of them")


@contextlib.contextmanager
def process(name: str, base: Path, picture: Path) -> Iterator:
    """A program that runs, once its mask is checked: ask(times) gives what it measures. It waits in between."""
    _, contender, program = PROCESSES[name]
    command = [python(contender), PROGRAMS / "pictures" / program]
    if program == "session.py":
        command += [base / "model", picture]
    else:
        command += [max(base.glob("checkpoints/*.npz")), picture, name]
    env = contender.environment(PYTHONPATH=f"{UNET.parent}:{UNET}", ORT_DISABLE_TELEMETRY="1")
    log = BUILD / "run" / name / "log"
    log.parent.mkdir(parents=True, exist_ok=True)
    with (
        log.open("w") as errors,
        subprocess.Popen(
            list(map(str, command)),
            env=env,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=errors,
            text=True,
        ) as running_process,
    ):
        guard = threading.Timer(PROCESS_SECONDS, running_process.kill)
        guard.start()

        def line() -> str:
            if text := running_process.stdout.readline():
                return text
            raise BenchError(f"{program} has ended. The end of {log}:\n{log.read_text()[-600:]}")

        def ask(times: int) -> dict[str, float]:
            running_process.stdin.write(f"{times}\n")
            running_process.stdin.flush()
            return json.loads(line())

        try:
            check(json.loads(line()), picture)
            yield ask
        finally:
            guard.cancel()
            running_process.kill()
