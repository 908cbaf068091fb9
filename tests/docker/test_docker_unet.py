"""The U-Net's two images: one that trains, by PyTorch, and one that serves without it; and what CUDA needs, or not."""

import base64
import hashlib
import io
import json
import os
import re
import runpy
import shutil
import subprocess
import urllib.request
import zipfile

import numpy as np
import pytest
from docker_tools import NAME, ROOT, UNET_SERVE, UNET_TRAIN, lay_out, until
from PIL import Image

SITE = "/opt/venv/lib/python3.11/site-packages"


@pytest.fixture(scope="module")
def cells():
    """Six pictures, and their masks."""
    random = np.random.default_rng(1)
    picture = runpy.run_path(str(ROOT / "data/cells.py"))["picture"]
    return [picture(random) for _ in range(6)]


def png(array: np.ndarray) -> bytes:
    stream = io.BytesIO()
    Image.fromarray(array).save(stream, "PNG")
    return stream.getvalue()


def packages(engine, image: str) -> set[str]:
    code = (
        f"import importlib.metadata as m; print(*(d.name.lower() for d in m.distributions(path=['{SITE}'])))"
    )
    return set(engine("run", "--rm", "--network=none", image, "python3", "-c", code).stdout.split())


def test_one_image_trains_and_the_other_serves(engine, run, tmp_path, cells):
    base = lay_out(tmp_path / "ml", "", epochs="1", batch_size="2", depth="2")
    training = base / "input/data/training"
    (training / "data.csv").unlink()
    for kind, part in (("images", 0), ("masks", 1)):
        (training / kind).mkdir()
        for number, pair in enumerate(cells):
            (training / kind / f"{number}.png").write_bytes(png(pair[part]))
    options = ["--rm", "--read-only", "--network=none", "--tmpfs=/tmp", f"--volume={base}:/opt/ml"]
    said = engine("run", *options, UNET_TRAIN, "train").stdout
    assert "epoch=1 " in said and "agreement=" in said
    assert (base / "model/model.onnx").exists()

    mount = f"--volume={base}/model:/opt/ml/model:ro"
    options = ("--publish=127.0.0.1::8080", "--read-only", "--tmpfs=/tmp", mount)
    container = run(UNET_SERVE, "serve", options=options)
    address = engine("port", container, "8080/tcp").stdout.split()[0]

    def ask(path: str, body: bytes | None = None, **headers: str) -> bytes | None:
        request = urllib.request.Request(f"http://{address}{path}", body, headers)
        try:
            return urllib.request.build_opener(urllib.request.ProxyHandler({})).open(request).read()
        except OSError:
            return None

    until(lambda: ask("/ping") is not None, 30, "the first 200 on /ping")
    asked = {"Content-Type": "image/png", "Accept": "image/png"}
    mask = ask("/invocations", png(cells[0][0]), **asked)
    assert mask and np.asarray(Image.open(io.BytesIO(mask))).shape == cells[0][1].shape


@pytest.mark.parametrize(("image", "verb"), [(UNET_SERVE, "train"), (UNET_TRAIN, "serve")])
def test_the_other_verb_is_refused(engine, image, verb):
    done = engine("run", "--rm", image, verb, check=False)
    assert done.returncode == 2
    assert "build it with --target" in done.stderr


def test_each_has_its_own_packages_and_servers_are_a_third_in_size(engine):
    train, serve = packages(engine, UNET_TRAIN), packages(engine, UNET_SERVE)
    assert not train & {"flask", "gunicorn"}
    assert not serve & {"torch", "onnx", "scipy", "scikit-learn"}
    size = {
        image: json.loads(engine("inspect", image).stdout)[0]["Size"] for image in (UNET_TRAIN, UNET_SERVE)
    }
    print({image: f"{bytes / 1e6:.0f} MB" for image, bytes in size.items()})
    assert size[UNET_TRAIN] >= 3 * size[UNET_SERVE]
    # A build for CPUs alone brings nothing of CUDA; any other brings all of it.
    code = "import torch.version; print(torch.__version__.endswith('+cpu'))"
    cpu = engine("run", "--rm", "--network=none", UNET_TRAIN, "python3", "-c", code).stdout == "True\n"
    assert any(name.startswith("nvidia-") for name in train) != cpu


def wheel_for_cpus(name: str, version: str) -> tuple[str, bytes]:
    """A wheel of the local version +cpu in which there is nothing: its file name, and what is in it."""
    about = f"{name}-{version}+cpu.dist-info"
    files = {
        f"{about}/METADATA": f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}+cpu\n",
        f"{about}/WHEEL": "Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
    }
    digests = {
        file: base64.urlsafe_b64encode(hashlib.sha256(text.encode()).digest()).decode().rstrip("=")
        for file, text in files.items()
    }
    files[f"{about}/RECORD"] = "".join(f"{file},sha256={digest},\n" for file, digest in digests.items())
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w") as wheel:
        for file, text in files.items():
            wheel.writestr(file, text)
    return f"{name}-{version}+cpu-py3-none-any.whl", stream.getvalue()


@pytest.mark.timeout(600)
@pytest.mark.parametrize("offered", [False, True], ids=["no build for CPUs", "a build for CPUs"])
def test_what_cuda_needs_comes_unless_a_folder_of_wheels_offers_a_build_for_cpus(engine, tmp_path, offered):
    """itsdangerous in torch's place, and blinker in CUDA's: both as the index has them, the wheel as it is made here."""
    context = shutil.copytree(ROOT / "container", tmp_path / "container")
    lock = context / "decision_trees/requirements-serve.lock"
    text = lock.read_text()
    one, other = (
        re.search(rf"^{name}==.*?(?=^\S)", text, re.MULTILINE | re.DOTALL)[0]
        for name in ("itsdangerous", "blinker")
    )
    name, content = wheel_for_cpus("itsdangerous", re.match("itsdangerous==([0-9.]+)", one)[1])
    lock.write_text(f"{one.rstrip()} \\\n    --hash=sha256:{hashlib.sha256(content).hexdigest()}\n")
    (context / "decision_trees/requirements-serve.cuda.lock").write_text(other)
    # What the recipe has imported in the end needs more packages than these.
    (context / "stack/algorithm.py").write_text("def predictor():\n    pass\n")
    folder = tmp_path / "wheels"
    folder.mkdir()
    if offered:
        (folder / name).write_bytes(content)
    image = f"{NAME}-cuda"
    build = [str(context / "build_local.sh"), image, "--target", "serve", "--wheels", str(folder)]
    done = subprocess.run(build, capture_output=True, text=True, timeout=300, env=os.environ)
    assert done.returncode == 0, done.stderr
    try:
        assert packages(engine, image) == ({"itsdangerous"} if offered else {"itsdangerous", "blinker"})
        assert not engine("images", "--quiet", f"{image}-wheels").stdout
    finally:
        engine("rmi", "--force", image)
