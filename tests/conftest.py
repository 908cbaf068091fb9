"""What holds for every test."""

import os

# onnxruntime reports its use to its makers, over the network, unless this is set before it is imported.
os.environ["ORT_DISABLE_TELEMETRY"] = "1"
