"""What can be looked at only beside torch: run by the Python in which container/unet trains, once for many cases.

unet_edges.py refusals   stdin: [[folder, hyperparameters], …]; a line each: what train says, or nothing
unet_edges.py agreement FOLDER   stdin: none; the model of the last checkpoint against model.onnx, as train does it not
"""

import contextlib
import io
import json
import os
import sys
from pathlib import Path

import numpy as np
import onnxruntime
import torch
from PIL import Image

CONTAINER = Path(__file__).resolve().parents[2] / "container"
sys.path += [str(CONTAINER), str(CONTAINER / "unet")]

import network  # noqa: E402
import training  # noqa: E402
from stack import channels  # noqa: E402
from stack.errors import InputError  # noqa: E402


def refusals() -> None:
    for folder, hyperparameters in json.load(sys.stdin):
        os.environ["SAGEMAKER_BASE_DIR"] = folder
        said = None
        with contextlib.redirect_stdout(io.StringIO()):
            try:
                training.train(hyperparameters, channels.read(Path(folder)), Path(folder, "model"))
            except InputError as error:
                said = str(error)
            except Exception as error:
                said = f"BUG {type(error).__name__}: {error}"
        print(json.dumps(said))


def agreement(base: Path) -> None:
    """Pixels of the same class, and the largest difference between probabilities, over all validation pictures."""
    with np.load(max((base / "checkpoints").glob("epoch-*.npz"))) as arrays:
        chosen = json.loads(str(arrays["about"]))["hyperparameters"]
        weights = {
            n.partition("/")[2]: torch.from_numpy(arrays[n]) for n in arrays if n.startswith("network/")
        }
    net = network.UNet(3, chosen["classes"], chosen["width"], chosen["depth"])
    net.load_state_dict(weights)
    net.eval()
    session = onnxruntime.InferenceSession(base / "model/model.onnx")
    same, difference, pixels = 0, 0.0, 0
    for file in sorted((base / "input/data/validation/images").iterdir()):
        picture = np.asarray(Image.open(file))[None]
        scaled = torch.from_numpy(picture.astype(np.float32).transpose(0, 3, 1, 2) / np.float32(127.5) - 1)
        with torch.no_grad():
            expected = torch.softmax(net(scaled), 1).numpy()
        (found,) = session.run(None, {"pictures": picture})
        same += (found.argmax(1) == expected.argmax(1)).sum()
        difference = max(difference, np.abs(found - expected).max())
        pixels += found[0, 0].size
    print(json.dumps([float(same / pixels), float(difference)]))


if __name__ == "__main__":
    if sys.argv[1] == "refusals":
        refusals()
    else:
        agreement(Path(sys.argv[2]))
