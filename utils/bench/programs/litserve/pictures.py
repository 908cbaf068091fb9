"""LitServe with a U-Net: a PNG as base64 in JSON in, ONNX Runtime as it comes, a PNG out; the port is argv[1]."""

import base64
import io
import os
import sys

import litserve as ls
import numpy as np
import onnxruntime
from fastapi import Response
from PIL import Image


class UNet(ls.LitAPI):
    def setup(self, device):
        self.model = onnxruntime.InferenceSession(
            os.path.join(os.environ["SAGEMAKER_BASE_DIR"], "model/model.onnx")
        )

    def decode_request(self, request):
        return np.asarray(Image.open(io.BytesIO(base64.b64decode(request["image"]))))

    def predict(self, picture):
        return self.model.run(None, {"pictures": picture[None]})[0][0]

    def encode_response(self, probabilities):
        stream = io.BytesIO()
        Image.fromarray(probabilities.argmax(axis=0).astype(np.uint8)).save(stream, "PNG")
        return Response(stream.getvalue(), media_type="image/png")


if __name__ == "__main__":
    workers = int(os.environ["MODEL_SERVER_WORKERS"])
    server = ls.LitServer(UNet(), accelerator="cpu", workers_per_device=workers)
    server.run(host="127.0.0.1", port=int(sys.argv[1]), log_level="warning", generate_client_file=False)
