"""Our U-Net in one process: the session alone, and all that an answer takes. argv: model folder, picture.

For each line of input, a number: that many of both, in turn; it prints the milliseconds of each, medians, as JSON.
"""

import json
import sys
import time
from pathlib import Path
from statistics import median

import numpy as np
import predictor

model = predictor.model_fn(sys.argv[1])
body = Path(sys.argv[2]).read_bytes()
picture = predictor.input_fn(body, "image/png")


def bare():
    return model.session.run(["probabilities"], {"pictures": picture[None]})[0][0]


def steps(clock=time.perf_counter):
    """Seconds of reading, asking and writing."""
    times = [clock()]
    data = predictor.input_fn(body, "image/png")
    times.append(clock())
    found = predictor.predict_fn(data, model)
    times.append(clock())
    predictor.output_fn(found, "image/png")
    times.append(clock())
    return np.diff(times)


print(json.dumps(bare().argmax(axis=0).astype(int).ravel().tolist()), flush=True)
for line in sys.stdin:
    alone, parts = [], []
    for _ in range(int(line)):
        started = time.perf_counter()
        bare()
        alone.append((time.perf_counter() - started) * 1000)
        parts.append(steps() * 1000)
    reading, asking, writing = (median(column) for column in zip(*parts, strict=True))
    whole = median(part.sum() for part in parts)
    found = {"session": median(alone), "functions": whole}
    print(json.dumps(found | {"reading": reading, "asking": asking, "writing": writing}), flush=True)
