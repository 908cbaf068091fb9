"""LitServe as its documentation shows it: a LitAPI with JSON in and out, a worker process a core; the port is argv[1]."""

import os
import sys

import litserve as ls
import numpy as np
from sklearn.tree import DecisionTreeClassifier


class IrisTree(ls.LitAPI):
    def setup(self, device):
        table = np.loadtxt(os.environ["BENCH_TRAINING"], delimiter=",", dtype=str)
        self.model = DecisionTreeClassifier(random_state=0).fit(table[:, 1:].astype(np.float32), table[:, 0])

    def decode_request(self, request):
        return np.asarray(request["input"], np.float32)

    def predict(self, rows):
        return self.model.predict(rows)

    def encode_response(self, labels):
        return {"output": labels.tolist()}


if __name__ == "__main__":
    workers = int(os.environ["MODEL_SERVER_WORKERS"])
    server = ls.LitServer(IrisTree(), accelerator="cpu", workers_per_device=workers)
    server.run(host="127.0.0.1", port=int(sys.argv[1]), log_level="warning", generate_client_file=False)
