"""container/unet: what it learns, what it refuses by name, and what comes back for every kind of picture.

Most is tried with bright squares of 16 x 16 pixels, which a network of two levels learns in a second.
"""

import importlib
import io
import itertools
import json
import os
import random
import re
import shutil
import signal
import struct
import subprocess
import sys
import zlib

import numpy as np
import onnx
import onnxruntime
import psutil
import pytest
from algorithms import UNET, chunk, png, square
from conftest import ROOT, Server, environment, lay_out, run_training, until
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image
from stack.errors import InputError
from test_life import linux, peak

TRAIN, SERVE = ([str(ROOT / "container/run"), "unet", verb] for verb in ("train", "serve"))
PALETTE = [0, 0, 0, 230, 159, 0]
END = chunk(b"IEND", b"")
NPY, JSON = "application/x-npy", "application/json"
MOST = 1 << 22


@pytest.fixture(scope="module")
def python() -> str:
    """The Python in which it trains."""
    lock = ROOT / "container/unet/requirements-train.lock"
    command = [sys.executable, "-I", ROOT / "container/environment", lock]
    made = subprocess.run(command, capture_output=True, text=True)
    if made.returncode and "connect this machine" in made.stderr and "CI" not in os.environ:
        pytest.skip("torch cannot be had without a network")
    assert made.returncode == 0, made.stderr
    return made.stdout.strip()


@pytest.fixture(scope="module")
def predictor():
    """container/unet/predictor.py, and `pictures` with it, in this process: others have modules of these names, too."""
    names = ("predictor", "pictures")
    before = {name: sys.modules.pop(name) for name in names if name in sys.modules}
    sys.path.insert(0, str(ROOT / "container/unet"))
    yield importlib.import_module("predictor")
    sys.path.remove(str(ROOT / "container/unet"))
    for name in names:
        sys.modules.pop(name, None)
    sys.modules.update(before)


# -- training


def colour(size=16) -> bytes:
    return png(square(0, size)[0])


def grey(size=16) -> bytes:
    return png(square(0, size)[0][..., 0])


def mask(size=16) -> bytes:
    return png(square(0, size)[1], PALETTE)


def packed(depth: int, colour_type: int, width: int, height: int, data: bytes, *more: bytes) -> bytes:
    """A PNG of any kind, of rows as they are stored, each with its filter in front."""
    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, depth, colour_type, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + header + b"".join(more) + chunk(b"IDAT", zlib.compress(data)) + END


GREY_OF_4_BITS = packed(4, 0, 16, 16, (b"\0" + bytes([1] * 8)) * 16)
GREY_OF_2_BITS = packed(2, 0, 16, 16, (b"\0" + bytes([1] * 4)) * 16)
GOOD = {f"{folder}/{i}.png": make() for i in "ab" for folder, make in (("images", colour), ("masks", mask))}


def without(*names: str, **files: bytes) -> dict:
    """The good data without these files, and with others: images_c is images/c.png."""
    more = {f"{name.replace('_', '/')}.png": content for name, content in files.items()}
    return {name: content for name, content in GOOD.items() if name not in names} | more


# The files of a channel, or {channel: files}; hyperparameters; words of the refusal.
REFUSED = {
    "a picture without a mask": (without("masks/a.png"), {}, ["images/a.png has no training/masks/a.png"]),
    "a mask without a picture": (without("images/b.png"), {}, ["masks/b.png has no training/images/b.png"]),
    "sizes that differ": (without(masks_a=mask(18)), {}, ["images/a.png has 16 x 16", "masks/a.png 18 x 18"]),
    "pictures of two sizes": (
        without(images_b=colour(18), masks_b=mask(18)),
        {},
        ["images/b.png has 18 x 18 pixels", "images/a.png 16 x 16", "to one size"],
    ),
    "a class too many": (
        without(masks_b=png(square(0)[1] + square(1)[1] * np.uint8(2))),
        {},
        ["masks/b.png, row ", "with classes=2 there are 0 to 1"],
    ),
    "0 and 255": (
        without(masks_b=png(square(0)[1] * np.uint8(255))),
        {},
        ["masks/b.png", "class 255", "write 1 for 255"],
    ),
    "no PNG": (without(images_a=b"hello"), {}, ["training/images/a.png is no PNG"]),
    "no PNG for a mask": (without(masks_a=b"hello"), {}, ["training/masks/a.png is no PNG"]),
    "half a PNG": (without(images_a=colour()[:200]), {}, ["training/images/a.png is damaged"]),
    "an empty file": (without(images_a=b""), {}, ["training/images/a.png is no PNG"]),
    "a stray file": (GOOD | {"notes.txt": b"x"}, {}, ["training/notes.txt is not expected"]),
    "a stray folder": (GOOD | {"labels/a.png": mask()}, {}, ["labels/a.png is not expected", "images/NAME"]),
    "a stray kind": (GOOD | {"images/a.jpg": b"x"}, {}, ["training/images/a.jpg is not expected"]),
    "grey among colour": (
        without(images_b=grey()),
        {},
        ["images/b.png is a greyscale picture", "images/a.png a colour"],
    ),
    "a mask in colour": (without(masks_b=colour()), {}, ["masks/b.png is a PNG of mode RGB", "indexed PNG"]),
    "a mask of 4 bits": (without(masks_a=GREY_OF_4_BITS), {}, ["masks/a.png", "mode L, 4 bits"]),
    "a mask of 2 bits": (without(masks_a=GREY_OF_2_BITS), {}, ["masks/a.png", "mode L, 2 bits"]),
    "a mask of 16 bits": (
        without(masks_a=packed(16, 0, 2, 1, b"\0" + bytes(4))),
        {},
        ["masks/a.png has 16 bits"],
    ),
    "an empty channel": ({}, {}, ["channel training is empty", "images/ and masks/"]),
    "an empty second channel": (
        {"training": GOOD, "validation": {}},
        {},
        ["channel validation is empty"],
    ),
    "no channel": ({"validation": GOOD}, {}, ["channel 'training'", "found: validation"]),
    "an unknown channel": ({"training": GOOD, "test": GOOD}, {}, ["channel 'test'", "'validation'"]),
    "grey to validate with": (
        {"training": GOOD, "validation": {"images/a.png": grey(), "masks/a.png": mask()}},
        {},
        ["training and validation", "greyscale"],
    ),
    "a picture of one pixel": (
        {f"{folder}/a.png": content for folder, content in (("images", colour(4)), ("masks", mask(4)))},
        {"depth": 2},
        ["depth=2", "too little to learn"],
    ),
}
REFUSED |= {
    f"hyperparameter {name}={value}": (GOOD, {name: value}, [f"hyperparameter {name}={json.dumps(value)}"])
    for name, values in {
        "depth": (0, 7, 1.5, "three", True, None, [1]),
        "width": (0, 129, -8),
        "classes": (1, 256, 2.5),
        "learning_rate": (0, 1.1, "fast", float("nan"), float("inf")),
        "epochs": (0, 10_001, "12 "),
        "batch_size": (0, 1025),
        "seed": (-1, 2**31),
    }.items()
    for value in values
}
REFUSED["an unknown hyperparameter"] = (GOOD, {"lr": 1}, ["hyperparameter 'lr' is unknown", "learning_rate"])
LITTLE = {"epochs": 1, "width": 1, "depth": 1, "batch_size": 2}
TAKEN = {
    "as it is": (GOOD, {}),
    "no validation, odd sizes": ({"images/x/a.png": colour(17), "masks/x/a.png": mask(17)}, {}),
    "one pixel of each, many": (
        {
            f"{folder}/{i}.png": content
            for i in range(2)
            for folder, content in (("images", colour(4)), ("masks", mask(4)))
        },
        {"depth": 2},
    ),
    "masks of 8 bits and of 1": (
        without(masks_a=png(square(0)[1]), masks_b=packed(1, 0, 16, 16, (b"\0" + b"\x0f\0") * 16)),
        {},
    ),
    "greyscale": ({"images/a.PNG": grey(), "masks/a.PNG": mask()}, {}),
    "more classes than there are": (GOOD, {"classes": 255}),
    "what S3 tools leave": (GOOD | {"_SUCCESS": b"", ".x": b"x"}, {}),
}


@pytest.fixture(scope="module")
def said(python, tmp_path_factory) -> dict:
    """By name of a case: what train said of it. All in one process, from files in FastFile mode that are only read."""
    cases, folders, before = [], tmp_path_factory.mktemp("cases"), {}
    named = {name: case[:2] for name, case in (REFUSED | TAKEN).items()}
    for number, (data, hyperparameters) in enumerate(named.values()):
        channels = data if data.keys() & {"training", "validation"} else {"training": data}
        fast = {name: {"TrainingInputMode": "FastFile"} for name in channels}
        base = lay_out(folders / str(number), channels, config={"inputdataconfig.json": fast})
        for path in (base / "input/data").rglob("*"):
            path.chmod(0o555 if path.is_dir() else 0o444)
            before[path] = path.stat().st_mtime_ns
        cases.append([str(base), LITTLE | hyperparameters])
    ended = subprocess.run(
        [python, ROOT / "tests/container/unet_edges.py", "refusals"],
        input=json.dumps(cases),
        env=environment(),
        stdout=subprocess.PIPE,
        text=True,
        check=True,
    )
    found = {path: path.stat().st_mtime_ns for path in folders.glob("*/input/data/**/*")}
    for path in found:
        path.chmod(0o755)
    assert found == before
    return dict(zip(named, map(json.loads, ended.stdout.splitlines()), strict=True))


@pytest.mark.parametrize("name", REFUSED)
def test_a_mistake_in_the_data_is_named(said, name):
    words = REFUSED[name][2]
    assert said[name] and all(word in said[name] for word in words), said[name]
    assert len(said[name]) <= 1024


@pytest.mark.parametrize("name", TAKEN)
def test_what_is_right_is_taken(said, name):
    assert said[name] is None


def test_a_pipe_is_refused_by_name(python, tmp_path):
    pipe = {"inputdataconfig.json": {"training": {"TrainingInputMode": "Pipe"}}}
    base = lay_out(tmp_path / "ml", {"training": {}}, config=pipe)
    os.mkfifo(base / "input/data/training_0")
    ended = run_training(TRAIN, base)
    assert ended.code == 1
    assert "channel training: a pipe has no names of files" in ended.failure


# -- checkpoints

EPOCHS = 20
LONG = UNET.quick | {"epochs": str(EPOCHS), "learning_rate": "0.01"}


@pytest.fixture(scope="module")
def uninterrupted(python, tmp_path_factory):
    base = lay_out(tmp_path_factory.mktemp("long") / "ml", UNET.channels, LONG)
    ended = run_training(TRAIN, base)
    assert ended.code == 0
    return ended


def newest(base):
    return max((base / "checkpoints").glob("epoch-*.npz"), default=None)


@pytest.mark.parametrize("how", [signal.SIGTERM, signal.SIGKILL])
def test_an_interrupted_training_goes_on_where_it_was(uninterrupted, tmp_path, how):
    """As after a spot interruption: SIGTERM, or nothing of it is left at once."""
    base = lay_out(tmp_path / "ml", UNET.channels, LONG)
    env = environment(SAGEMAKER_BASE_DIR=base)
    process = subprocess.Popen(TRAIN, env=env, stdout=subprocess.DEVNULL, start_new_session=True)
    try:
        until(lambda: newest(base), 60, "a checkpoint")
        (child,) = psutil.Process(process.pid).children()
    finally:
        if how == signal.SIGKILL:
            child.kill()
        process.send_signal(how)
        process.wait(30)
    assert not list((base / "model").glob("*.onnx"))
    last = int(newest(base).stem[-5:])
    assert last < EPOCHS
    ended = run_training(TRAIN, base)
    assert ended.code == 0
    assert f"goes on from epoch-{last:05}.npz, after epoch {last} of {EPOCHS}" in ended.output
    assert re.search(r"^epoch=(\d+) ", ended.output, re.M)[1] == str(last + 1)
    assert ended.model == uninterrupted.model


@pytest.fixture
def again(uninterrupted, tmp_path):
    """again(change, hyperparameters): a training that finds the checkpoints of the one before, changed."""

    def run(change=lambda folder: None, hyperparameters=None, channels=None):
        base = lay_out(tmp_path / "ml", channels or UNET.channels, LONG | (hyperparameters or {}))
        shutil.copytree(uninterrupted.base / "checkpoints", base / "checkpoints")
        change(base / "checkpoints")
        return run_training(TRAIN, base)

    return run


def damage_newest(folder):
    file = max(folder.glob("epoch-*.npz"))
    file.write_bytes(file.read_bytes()[:-1000])


def flip_in_newest(folder):
    file = max(folder.glob("epoch-*.npz"))
    content = bytearray(file.read_bytes())
    content[content.index(b"NUMPY", content.index(b"network/first.0.weight")) + 200] ^= 255
    file.write_bytes(content)


@pytest.mark.parametrize("change", [damage_newest, flip_in_newest])
def test_a_damaged_checkpoint_is_passed_over(again, uninterrupted, change):
    ended = again(change)
    assert ended.code == 0
    assert f"checkpoint epoch-{EPOCHS:05}.npz cannot be read" in ended.output
    assert f"goes on from epoch-{EPOCHS - 1:05}.npz" in ended.output
    assert ended.model == uninterrupted.model


def test_a_checkpoint_of_another_training_is_refused_by_name(again, tmp_path):
    ended = again(hyperparameters={"width": "2"})
    assert (ended.code, ended.model) == (1, {})
    assert f"checkpoint epoch-{EPOCHS:05}.npz is of a training with width=4, and this one has width=2" in (
        ended.failure
    )
    shutil.rmtree(tmp_path / "ml")
    ended = again(channels={"training": {"images/a.png": grey(), "masks/a.png": mask()}})
    assert "is of a training with pictures=colour, and this one has pictures=greyscale" in ended.failure


def test_two_checkpoints_are_kept_and_none_is_half(uninterrupted):
    names = sorted(path.name for path in (uninterrupted.base / "checkpoints").iterdir())
    assert names == [f"epoch-{EPOCHS - 1:05}.npz", f"epoch-{EPOCHS:05}.npz"]


def test_the_metrics_of_an_epoch_are_found(uninterrupted):
    """By metric definitions as a training job has them."""
    for channel, name in itertools.product(("training", "validation"), ("loss", "iou", "dice")):
        found = re.findall(rf"^epoch=.* {channel}_{name}=([0-9.]+)", uninterrupted.output, re.M)
        assert len(found) == EPOCHS
        (last,) = re.findall(rf"^{channel}_{name}=([0-9.e-]+)$", uninterrupted.output, re.M)
        assert float(last) == pytest.approx(float(found[-1]), abs=6e-5)


# -- real pictures


@pytest.fixture(scope="module")
def cells(tmp_path_factory):
    folder = tmp_path_factory.mktemp("cells")
    subprocess.run([sys.executable, ROOT / "data/cells.py", folder], check=True, stdout=subprocess.DEVNULL)
    return folder


def otsu(values: np.ndarray) -> int:
    """The threshold between two groups of grey values that differ most from each other."""
    counts = np.bincount(values.ravel(), minlength=256).astype(float)
    below, sums = counts.cumsum(), (counts * np.arange(256)).cumsum()
    with np.errstate(invalid="ignore", divide="ignore"):
        between = (sums[-1] * below / below[-1] - sums) ** 2 / (below * (below[-1] - below))
    return int(np.nanargmax(between))


def iou(found: np.ndarray, right: np.ndarray) -> float:
    return (found & right).sum() / (found | right).sum()


@pytest.mark.parametrize(
    ("seed", "hyperparameters"),
    [(0, {"epochs": "3"})] + [pytest.param(seed, {}, marks=pytest.mark.slow) for seed in range(3)],
)
def test_cells_are_found_better_than_by_a_threshold(
    python, predictor, cells, tmp_path, seed, hyperparameters
):
    base = lay_out(tmp_path / "ml", {}, hyperparameters | {"seed": str(seed)}, {"inputdataconfig.json": {}})
    shutil.copytree(cells, base / "input/data")
    ended = run_training(TRAIN, base)
    assert ended.code == 0
    scored = dict(re.findall(r"^(\w+)=(\S+)$", ended.output, re.M))
    assert float(scored["agreement"]) >= 0.999
    assert float(scored["probability_difference"]) <= 1e-4

    model, found, right, grounds = predictor.model_fn(base / "model"), [], [], []
    for file in sorted((cells / "validation/images").iterdir()):
        picture = predictor.input_fn(file.read_bytes(), "image/png")
        found.append(predictor.predict_fn(picture, model).argmax(0) == 1)
        grounds.append(np.asarray(Image.open(file).convert("L")))
        right.append(np.asarray(Image.open(cells / "validation/masks" / file.name)) == 1)
    found, right, grounds = map(np.array, (found, right, grounds))
    assert iou(found, right) == pytest.approx(float(scored["validation_iou"]), abs=1e-3)
    assert iou(found, right) >= 0.85
    dark = grounds <= otsu(grounds)
    each = np.array([ground <= otsu(ground) for ground in grounds])
    assert max(iou(one, right) for one in (dark, ~dark, each, ~each)) <= iou(found, right) - 0.15

    command = [python, ROOT / "tests/container/unet_edges.py", "agreement", base]
    same, difference = json.loads(subprocess.run(command, capture_output=True, check=True).stdout)
    assert same >= 0.999
    assert difference <= 1e-4


# -- serving


@pytest.fixture(scope="module")
def base(python, tmp_path_factory):
    """A base folder with a model of squares."""
    ended = run_training(TRAIN, lay_out(tmp_path_factory.mktemp("unet") / "ml", UNET.channels, UNET.quick))
    assert ended.code == 0
    return ended.base


@pytest.fixture(scope="module")
def shared(base):
    server = Server(SERVE, base, base.parent / "serve.log", MODEL_SERVER_WORKERS=1)
    yield server
    server.close()


@pytest.fixture
def unet(shared):
    yield shared
    print(shared.log[-2000:])
    assert "status=5" not in shared.log


@pytest.fixture(scope="module")
def expected(base):
    """A function that gives a picture's probabilities by ONNX Runtime and numpy alone."""
    session = onnxruntime.InferenceSession(base / "model/model.onnx")

    def of(picture: np.ndarray) -> np.ndarray:
        height, width, _ = picture.shape
        filled = np.pad(picture, ((0, height % 2), (0, width % 2), (0, 0)), mode="edge")
        return session.run(None, {"pictures": filled[None]})[0][0, :, :height, :width]

    return of


def npy(array) -> bytes:
    stream = io.BytesIO()
    np.save(stream, array)
    return stream.getvalue()


def noise(width: int, height: int, channels=3) -> np.ndarray:
    return np.random.default_rng(width * height).integers(0, 256, (height, width, channels), np.uint8)


@pytest.mark.parametrize(
    ("width", "height"), [(1, 1), (2, 1), (7, 130), (130, 7), (96, 96), (333, 251), (1, 2001), (2048, 2048)]
)
def test_a_picture_of_any_size_gets_a_mask_of_its_size(unet, expected, width, height):
    picture = noise(width, height)
    body, right = png(picture), expected(picture)
    reply = unet.predict(body, "image/png")
    assert (reply.status, reply.headers["content-type"]) == (200, "image/png")
    answer = Image.open(io.BytesIO(reply.body), formats=["PNG"])
    assert (answer.mode, answer.size) == ("P", (width, height))
    classes = np.asarray(answer)
    clear = np.abs(right[0] - right[1]) > 1e-4
    assert (classes == right.argmax(0))[clear].all()
    document = json.loads(unet.predict(body, "image/png", Accept=JSON).body)
    assert (document["width"], document["height"], document["classes"]) == (width, height, 2)
    assert document["shares"] == pytest.approx([(classes == n).mean() for n in range(2)], abs=2e-6)
    if width * height < 1 << 20:
        sent = unet.predict(npy(picture), NPY, Accept=NPY)
        assert (sent.status, sent.headers["content-type"]) == (200, NPY)
        found = np.load(io.BytesIO(sent.body), allow_pickle=False)
        assert (found.dtype, found.shape) == (np.float32, (2, height, width))
        np.testing.assert_allclose(found, right, atol=1e-5)


@pytest.mark.parametrize(("width", "height"), [(2048, 2049), (MOST, 1), (1, MOST), (MOST + 1, 1)])
def test_a_picture_that_is_too_large_is_refused(unet, width, height):
    """Also one that is so only when it is padded."""
    blank = np.zeros((height, width, 3), np.uint8)
    for body, media in ((png(blank), "image/png"), (npy(blank), NPY)):
        reply = unet.predict(body, media)
        assert (reply.status, reply.error["code"]) == (400, "too_many_pixels")
        assert f"{width} x {height}" in reply.error["message"]


ACCEPTS = {
    "": "image/png",
    "*/*": "image/png",
    "image/*": "image/png",
    "application/*": NPY,
    "application/json": JSON,
    "image/png;q=0.1, application/json;q=0.2": JSON,
    "text/csv, application/x-npy;q=0.1": NPY,
}


@pytest.mark.parametrize(("accept", "media"), ACCEPTS.items())
def test_accept_chooses_the_answer(unet, accept, media):
    reply = unet.predict(UNET.sample(0), "image/png", Accept=accept)
    assert (reply.status, reply.headers["content-type"]) == (200, media)


def test_the_squares_are_found(unet):
    for i in range(UNET.samples):
        assert UNET.right(i, unet.predict(UNET.sample(i), "image/png").body) > 0.9


# -- kinds of PNG

RGB = noise(13, 11)
GREY = RGB[..., :1]
FEW = RGB // 64  # of each channel four values


def of_mode(array: np.ndarray, mode: str, **options) -> bytes:
    stream = io.BytesIO()
    Image.fromarray(array.squeeze()).convert(mode).save(stream, "PNG", **options)
    return stream.getvalue()


def bits(rows: np.ndarray, depth: int) -> bytes:
    """Numbers of so many bits, the rows padded to bytes, each with filter 0."""
    wide = np.unpackbits(rows[..., None].astype(np.uint8), axis=-1)[..., 8 - depth :]
    return b"".join(b"\0" + row.tobytes() for row in np.packbits(wide.reshape(len(rows), -1), axis=1))


def interlaced(array: np.ndarray) -> bytes:
    passes = [
        (0, 0, 8, 8),
        (4, 0, 8, 8),
        (0, 4, 4, 8),
        (2, 0, 4, 4),
        (0, 2, 2, 4),
        (1, 0, 2, 2),
        (0, 1, 1, 2),
    ]
    parts = [array[y::down, x::right] for x, y, right, down in passes]
    data = b"".join(b"\0" + row.tobytes() for part in parts if part.size for row in part)
    height, width, channels = array.shape
    header = struct.pack(">IIBBBBB", width, height, 8, {1: 0, 3: 2}[channels], 0, 0, 1)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(data)) + END


def opaque(array: np.ndarray, alpha=255) -> np.ndarray:
    return np.concatenate([array, np.full_like(array[..., :1], alpha)], axis=-1)


def palette_of(index: np.ndarray, colours: np.ndarray, *more: bytes) -> bytes:
    data = b"".join(b"\0" + row.tobytes() for row in index)
    height, width = index.shape
    return packed(8, 3, width, height, data, chunk(b"PLTE", colours.tobytes()), *more)


INDEX, COLOURS = GREY[..., 0] % 8, noise(8, 1)[0]
with_text = chunk(b"tEXt", b"Comment\0" + b"x" * 1000)
# A PNG, and the array that it is.
KINDS = {
    "RGB": (png(RGB), RGB),
    "grey": (png(GREY[..., 0]), GREY),
    "RGBA, opaque": (png(opaque(RGB)), RGB),
    "LA, opaque": (of_mode(opaque(GREY), "LA"), GREY),
    "palette": (palette_of(INDEX, COLOURS), COLOURS[INDEX]),
    "palette, opaque": (palette_of(INDEX, COLOURS, chunk(b"tRNS", b"\xff" * 8)), COLOURS[INDEX]),
    "palette of 2 bits": (
        packed(2, 3, 13, 11, bits(INDEX % 4, 2), chunk(b"PLTE", COLOURS[:4].tobytes())),
        COLOURS[INDEX % 4],
    ),
    "1 bit": (packed(1, 0, 13, 11, bits(FEW[..., 0] % 2, 1)), FEW[..., :1] % 2 * np.uint8(255)),
    "2 bits": (packed(2, 0, 13, 11, bits(FEW[..., 0], 2)), FEW[..., :1] * np.uint8(85)),
    "4 bits": (packed(4, 0, 13, 11, bits(GREY[..., 0] // 16, 4)), GREY // 16 * np.uint8(17)),
    "RGB, interlaced": (interlaced(RGB), RGB),
    "grey, interlaced": (interlaced(GREY), GREY),
    "one pixel, interlaced": (interlaced(RGB[:1, :1]), RGB[:1, :1]),
    "a colour that is transparent and not there": (
        of_mode(RGB // 2, "RGB", transparency=(255, 255, 255)),
        RGB // 2,
    ),
    "text": (png(RGB)[:-12] + with_text + END, RGB),
    "bytes after its end": (png(RGB) + b"more", RGB),
}


@pytest.mark.parametrize("name", KINDS)
def test_a_kind_of_png_is_read_as_what_it_is(predictor, unet, name):
    body, right = KINDS[name]
    found = predictor.input_fn(body, "image/png")
    assert found.dtype == np.uint8
    np.testing.assert_array_equal(found, right)
    reply = unet.predict(body, "image/png")
    if right.shape[2] == 3:
        assert (reply.status, reply.body) == (200, unet.predict(png(right), "image/png").body)
    else:
        assert reply.status == 400
        assert "greyscale; the model was trained on colour" in reply.error["message"]


def animated() -> bytes:
    stream = io.BytesIO()
    first, second = (Image.fromarray(noise(9, n)[:9]) for n in (9, 10))
    first.save(stream, "PNG", save_all=True, append_images=[second])
    return stream.getvalue()


def as_file(kind: str, mode="RGB") -> bytes:
    stream = io.BytesIO()
    Image.fromarray(RGB).convert(mode).save(stream, kind)
    return stream.getvalue()


def with_chunk(body: bytes, *chunks: bytes) -> bytes:
    """With more chunks behind the header."""
    return body[:33] + b"".join(chunks) + body[33:]


def pieces(body: bytes) -> list[tuple[bytes, bytes]]:
    """A PNG's chunks, by name."""
    found, at = [], 8
    while at < len(body):
        size, name = struct.unpack_from(">I4s", body, at)
        found.append((name, body[at + 8 : at + 8 + size]))
        at += 12 + size
    return found


def claims(width: int, height: int) -> bytes:
    return packed(8, 2, width, height, b"\0" * 100)


SHORT = b"\0" + bytes(8)
HOSTILE = {
    "16 bits, grey": packed(16, 0, 2, 2, (b"\0" + bytes(4)) * 2),
    "16 bits, RGB": packed(16, 2, 2, 2, (b"\0" + bytes(12)) * 2),
    "16 bits, RGBA": packed(16, 6, 2, 2, (b"\0" + bytes(16)) * 2),
    "16 bits by a second header": with_chunk(
        packed(16, 0, 2, 2, (b"\0" + bytes(4)) * 2),
        chunk(b"IHDR", struct.pack(">IIBBBBB", 2, 2, 8, 0, 0, 0, 0)),
    ),
    "16 bits, the header second": b"\x89PNG\r\n\x1a\n"
    + with_text
    + packed(16, 0, 2, 2, b"\0" + bytes(8))[8:],
    "RGBA, transparent": png(opaque(RGB, 254)),
    "LA, transparent": of_mode(opaque(GREY, 3), "LA"),
    "palette, transparent": palette_of(INDEX, COLOURS, chunk(b"tRNS", b"\xff\xff\0")),
    "a colour that is transparent": of_mode(RGB, "RGB", transparency=tuple(map(int, RGB[0, 0]))),
    "a grey that is transparent": of_mode(GREY, "L", transparency=int(GREY[0, 0, 0])),
    "palette, a colour that is not there": palette_of(INDEX, COLOURS[:7]),
    "no palette": packed(8, 3, 4, 2, (b"\0" + bytes(4)) * 2),
    "its palette after its pixels": packed(8, 3, 4, 2, (b"\0" + bytes(4)) * 2)[:-12]
    + chunk(b"PLTE", bytes(6))
    + END,
    "animated": animated(),
    "JPEG": as_file("JPEG"),
    "JPEG, CMYK": as_file("JPEG", "CMYK"),
    "TIFF, CMYK": as_file("TIFF", "CMYK"),
    "GIF": as_file("GIF", "P"),
    "BMP": as_file("BMP"),
    "a row too few": packed(8, 0, 8, 2, SHORT),
    "no rows": packed(8, 0, 8, 2, b""),
    "no pixels": b"".join([png(RGB)[:33], END]),
    "no width": claims(0, 8),
    "an unknown colour type": packed(8, 5, 8, 1, SHORT),
    "3 bits": packed(3, 0, 8, 1, SHORT),
    "an unknown chunk that matters": with_chunk(png(RGB), chunk(b"CgBI", b"\0\0\0\0")),
    "pixels apart": b"".join(
        [png(RGB)[:33], *(chunk(b"IDAT", zlib.compress(bytes(440))[i::2]) for i in range(2)), END]
    ),
    "50000 x 50000": claims(50_000, 50_000),
    "2048 x 2049": claims(2048, 2049),
    "2**31 - 1 squared": claims(2**31 - 1, 2**31 - 1),
    "2**32 - 1 squared": claims(2**32 - 1, 2**32 - 1),
    "a bomb of text": with_chunk(
        png(RGB), *[chunk(b"zTXt", b"a\0\0" + zlib.compress(bytes(200 << 20), 9))] * 3
    ),
    "a bomb of other text": with_chunk(
        png(RGB), chunk(b"iTXt", b"a\0\1\0\0\0" + zlib.compress(bytes(200 << 20), 9))
    ),
    "a bomb of a profile": with_chunk(
        png(RGB), chunk(b"iCCP", b"a\0\0" + zlib.compress(bytes(200 << 20), 9))
    ),
    "text without an end": with_chunk(png(RGB), *[chunk(b"tEXt", b"a\0" + b"x" * (1 << 20))] * 24),
    "a million chunks": with_chunk(png(RGB), chunk(b"prVt", b"") * 1_000_000),
    "a chunk longer than the file": png(RGB)[:33] + b"\x7f\xff\xff\xffIDATx",
}
MAY_BE_TAKEN = ("bomb", "text without", "million")  # where the picture beside it is right


@linux
@pytest.mark.nginx
def test_what_is_hostile_is_refused_and_takes_little_memory(unet):
    """Compared with what a worker has had in its hands for a picture that is answered."""
    large = png(noise(512, 512))
    right = unet.predict(png(RGB), "image/png").body
    assert unet.predict(large, "image/png").status == 200
    before = peak(unet)
    for name, body in HOSTILE.items():
        reply = unet.predict(body, "image/png")
        if reply.status == 200 and any(word in name for word in MAY_BE_TAKEN):
            assert reply.body == right, name
        else:
            assert 400 <= reply.status < 500, (name, reply)
            assert reply.error["message"], name
    assert peak(unet) < before + 150


@pytest.mark.parametrize("name", [name for name in HOSTILE if not any(w in name for w in MAY_BE_TAKEN)])
def test_what_is_hostile_is_refused_in_words(predictor, name):
    with pytest.raises(InputError) as refusal:
        predictor.input_fn(HOSTILE[name], "image/png")
    assert str(refusal.value).startswith("the picture ")
    assert refusal.value.code in ("bad_image", "too_many_pixels")


@pytest.mark.parametrize("body", [png(RGB), palette_of(INDEX, COLOURS), interlaced(GREY), animated()])
def test_a_damaged_png_is_never_read_as_another_picture(predictor, body):
    """Cut at every place, and each of its checksums wrong."""
    ends = [
        len(body[:8]) + sum(len(data) + 12 for _, data in pieces(body)[:n])
        for n in range(len(pieces(body)) + 1)
    ]
    assert ends[-1] == len(body)
    cut = [body[:end] for end in {*range(0, len(body), 7), *ends[:-1], *range(60), len(body) - 1}]
    wrong = [body[: end - 1] + bytes([body[end - 1] ^ 1]) + body[end:] for end in ends[1:]]
    flipped = []
    generator = random.Random(0)
    for _ in range(100):
        at = generator.randrange(8, len(body))
        flipped.append(body[:at] + bytes([body[at] ^ 1 << generator.randrange(8)]) + body[at + 1 :])
    for damaged in cut + wrong + flipped:
        with pytest.raises(InputError):
            predictor.input_fn(damaged, "image/png")


SEEDS = [*(body for body, _ in KINDS.values()), *(HOSTILE[name] for name in ("animated", "16 bits, RGB"))]


@st.composite
def mutated(draw) -> bytes:
    """A PNG whose chunks are changed, doubled, left out or in another order, and whose checksums are right."""
    found = pieces(draw(st.sampled_from([body for body in SEEDS if not body.endswith(b"more")])))
    for _ in range(draw(st.integers(1, 3))):
        at = draw(st.integers(0, len(found) - 1))
        name, data = found[at]
        how = draw(st.sampled_from(["change", "change", "change", "cut", "double", "drop", "rename", "swap"]))
        if how == "change" and data:
            byte = draw(st.integers(0, len(data) - 1))
            found[at] = name, data[:byte] + draw(st.binary(min_size=1, max_size=1)) + data[byte + 1 :]
        elif how == "cut":
            found[at] = name, data[: draw(st.integers(0, len(data)))]
        elif how == "double":
            found.insert(at, found[draw(st.integers(0, len(found) - 1))])
        elif how == "drop" and len(found) > 1:
            del found[at]
        elif how == "rename":
            found[at] = (
                draw(
                    st.sampled_from([b"tRNS", b"PLTE", b"fdAT", b"acTL", b"fcTL", b"gAMA", b"iCCP", b"eXIf"])
                ),
                data,
            )
        elif how == "swap":
            other = draw(st.integers(0, len(found) - 1))
            found[at], found[other] = found[other], found[at]
    return b"\x89PNG\r\n\x1a\n" + b"".join(chunk(name, data) for name, data in found)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("examples", [300, pytest.param(20_000, marks=pytest.mark.slow)])
def test_any_png_is_read_or_refused(predictor, examples):
    @settings(
        max_examples=examples,
        deadline=None,
        database=None,
        suppress_health_check=list(HealthCheck),
        derandomize=True,
    )
    @given(mutated())
    def check(body):
        try:
            found = predictor.input_fn(body, "image/png")
        except InputError:
            return
        width, height = struct.unpack_from(">II", body, 16)
        assert found.dtype == np.uint8
        assert found.shape in ((height, width, 1), (height, width, 3))
        assert width * height <= MOST

    check()


# -- npy

NOT_PICTURES = {
    "float": RGB.astype(np.float32),
    "16 bits": RGB.astype(np.uint16),
    "signed": RGB.astype(np.int8),
    "booleans": RGB > 3,
    "text": np.array([["a"]]),
    "times": np.zeros((2, 2), "M8[s]"),
    "a row": RGB[0, 0],
    "a number": np.uint8(1),
    "two pictures": RGB[None],
    "two channels": RGB[..., :2],
    "four channels": opaque(RGB),
    "no rows": RGB[:0],
    "channels first": np.ascontiguousarray(RGB.transpose(2, 0, 1)),
    "fields": np.zeros((2, 2), [("a", "u1"), ("b", "u1")]),
}
BAD_NPY = {name: npy(array) for name, array in NOT_PICTURES.items()}
BAD_NPY |= {
    "cut": npy(RGB)[:-1],
    "too long": npy(RGB) + b"x",
    "only a header": npy(RGB)[:128],
    "half a header": npy(RGB)[:40],
    "version 9": b"\x93NUMPY\x09" + npy(RGB)[7:],
    "no npy": png(RGB),
    "larger than it is": npy(np.zeros((2, 2, 3), np.uint8)).replace(
        b"(2, 2, 3), }      ", b"(9999999, 2, 3), }"
    ),
    "huge": npy(np.zeros((2, 2, 3), np.uint8)).replace(
        b"(2, 2, 3), }            ", b"(2, 99999999999999, 3)}"[:24].ljust(24)
    ),
}


def pickled() -> bytes:
    stream = io.BytesIO()
    np.save(stream, np.array([[[1, {}, 3]]], object), allow_pickle=True)
    return stream.getvalue()


@pytest.mark.parametrize("body", [*BAD_NPY.values(), pickled()], ids=[*BAD_NPY, "objects, that is a pickle"])
def test_npy_that_is_no_picture_is_refused(unet, body):
    reply = unet.predict(body, NPY)
    assert (reply.status, reply.error["code"]) == (400, "bad_npy")


def test_npy_in_any_order_is_the_same_picture(unet):
    answers = [unet.predict(npy(array), NPY).body for array in (RGB, np.asfortranarray(RGB))]
    assert answers == [unet.predict(png(RGB), "image/png").body] * 2
    for array in (GREY, GREY[..., 0]):
        reply = unet.predict(npy(array), NPY)
        assert reply.status == 400
        assert "greyscale" in reply.error["message"]


# -- the model


def changed(**words: str):
    """The model with other words in its metadata."""

    def change(content: bytes) -> bytes:
        model = onnx.load_from_string(content)
        for entry in model.metadata_props:
            entry.value = words.get(entry.key, entry.value)
        return model.SerializeToString()

    return change


def foreign(content: bytes) -> bytes:
    value = [onnx.helper.make_tensor_value_info(name, 1, [1]) for name in ("features", "label")]
    node = onnx.helper.make_node("Identity", ["features"], ["label"])
    graph = onnx.helper.make_graph([node], "other", value[:1], value[1:])
    return onnx.helper.make_model(
        graph, ir_version=8, opset_imports=[onnx.helper.make_opsetid("", 17)]
    ).SerializeToString()


def loop(content: bytes) -> bytes:
    model = onnx.load_from_string(content)
    model.graph.node[0].op_type = "Loop"
    return model.SerializeToString()


MODELS = {
    "empty": (lambda content: b"", "it has 0 bytes"),
    "cut": (lambda content: content[: len(content) // 2], "cut off"),
    "other bytes": (lambda content: b"hello, world" * 100, "not an ONNX file"),
    "pickle": (lambda content: b"\x80\x04K\x01.", ""),
    "of another algorithm": (foreign, "its format is None; expected 'unet 1'"),
    "of another version": (changed(format="unet 0"), "its format is 'unet 0'"),
    "with a loop": (loop, "'Loop'"),
    "other classes": (changed(classes="3"), "for 3 classes"),
    "other channels": (changed(channels="1"), ""),
    "no such channels": (changed(channels="2"), "channels=2"),
    "no number": (changed(classes="two"), "'two'"),
    "a huge multiple": (changed(multiple="1000000000"), "multiple=1000000000"),
    "no multiple": (changed(multiple="0"), "multiple=0"),
}


@pytest.mark.parametrize("name", MODELS)
def test_a_model_that_is_none_is_refused_by_name(predictor, base, tmp_path, name):
    change, words = MODELS[name]
    (tmp_path / "model.onnx").write_bytes(change((base / "model/model.onnx").read_bytes()))
    with pytest.raises(
        InputError, match=re.escape(f"{tmp_path / 'model.onnx'} is not a model that can be ser")
    ) as refusal:
        predictor.model_fn(tmp_path)
    assert words in str(refusal.value)
    assert "\n" not in str(refusal.value)


def test_serve_ends_with_a_model_that_is_none(base, tmp_path):
    ml = lay_out(tmp_path / "ml", {})
    (ml / "model/model.onnx").write_bytes((base / "model/model.onnx").read_bytes()[:-100])
    server = Server(SERVE, ml, tmp_path / "serve.log", ready=False)
    try:
        assert server.process.wait(30) != 0
        assert "model/model.onnx is not a model that can be served: " in server.log
        assert "Traceback" not in server.log
    finally:
        server.close()
