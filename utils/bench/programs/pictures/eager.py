"""The same weights in torch, eager, in one process. argv: checkpoint, picture, torch (one thread) or torch2 (as many as torch takes).

For each line of input, a number: that many answers; it prints their median, milliseconds, as JSON.
"""

import json
import sys
import time
from statistics import median

import numpy as np
import torch
from network import Served, UNet
from PIL import Image

if sys.argv[3] == "torch":
    torch.set_num_threads(1)
with np.load(sys.argv[1], allow_pickle=False) as arrays:
    chosen = json.loads(str(arrays["about"]))["hyperparameters"]
    weights = {
        name.removeprefix("network/"): torch.from_numpy(arrays[name])
        for name in arrays.files
        if name.startswith("network/")
    }
network = UNet(3, chosen["classes"], chosen["width"], chosen["depth"])
network.load_state_dict(weights)
served = Served(network).eval()
picture = torch.from_numpy(np.array(Image.open(sys.argv[2])))[None]


@torch.inference_mode()
def ask():
    return served(picture)[0].numpy()


print(json.dumps(ask().argmax(axis=0).ravel().tolist()), flush=True)
for line in sys.stdin:
    taken = []
    for _ in range(int(line)):
        started = time.perf_counter()
        ask()
        taken.append((time.perf_counter() - started) * 1000)
    print(json.dumps({sys.argv[3]: median(taken)}), flush=True)
