"""The peers that install from the package index; each serves the iris tree as its own documentation shows.

Where a server has a format of its own, it is asked in that: `body` and `labels` go between it and CSV lines.
None may call out: BentoML and mlflow report their use to their makers unless they are told not to.
"""

import json

from . import BUILD, PROGRAMS
from .contenders import WORKERS, Contender


def lists(rows: list[str]) -> str:
    """CSV lines of numbers as JSON: a list of lists."""
    return f"[{','.join(f'[{row}]' for row in rows)}]"


def lines(labels: list[str]) -> bytes:
    """What a server of text/csv answers for these labels."""
    return "".join(f"{label}\n" for label in labels).encode()


def v2(rows: list[str]) -> bytes:
    """The V2 (Open Inference) protocol's tensor, its data flat."""
    shape = [len(rows), rows[0].count(",") + 1]
    head = json.dumps({"name": "rows", "shape": shape, "datatype": "FP32"})[:-1]
    return f'{{"inputs": [{head}, "data": [{",".join(rows)}]}}]}}'.encode()


PEERS = [
    Contender(
        "mlserver",
        "MLServer",
        lambda python, port: [
            *("env", f"MLSERVER_HTTP_PORT={port}", f"MLSERVER_PARALLEL_WORKERS={WORKERS}"),
            *(python.with_name("mlserver"), "start", PROGRAMS / "mlserver"),
        ],
        (PROGRAMS / "mlserver/requirements.txt",),
        pinned=False,
        content_type="application/json",
        path="/v2/models/iris/infer",
        health="/v2/models/iris/ready",
        body=v2,
        labels=lambda reply: lines(json.loads(reply)["outputs"][0]["data"]),
    ),
    Contender(
        "bentoml",
        "BentoML",
        lambda python, port: [
            *("env", "BENTOML_DO_NOT_TRACK=true", f"BENTOML_HOME={BUILD / 'bentoml'}"),
            *(python.with_name("bentoml"), "serve", "service:IrisTree"),
            *("--working-dir", PROGRAMS / "bentoml"),
            *("--host", "127.0.0.1", "--port", str(port)),
        ],
        (PROGRAMS / "bentoml/requirements.txt",),
        pinned=False,
        content_type="application/json",
        path="/predict",
        health="/readyz",
        body=lambda rows: lists(rows).encode(),
        labels=lambda reply: lines(json.loads(reply)),
    ),
    Contender(
        "mlflow",
        "mlflow models serve",
        lambda python, port: [
            *("env", "MLFLOW_DISABLE_TELEMETRY=true", "DO_NOT_TRACK=true", "UVICORN_ACCESS_LOG=false"),
            *(python, PROGRAMS / "mlflow/serve.py", str(port)),
        ],
        (PROGRAMS / "mlflow/requirements.txt",),
        pinned=False,
        # CSV with a header, as it takes no other
        body=lambda rows: "".join(f"{row}\n" for row in ["a,b,c,d", *rows]).encode(),
        labels=lambda reply: lines(json.loads(reply)["predictions"]),
    ),
    Contender(
        "litserve",
        "LitServe",
        lambda python, port: [python, PROGRAMS / "litserve/serve.py", str(port)],
        (PROGRAMS / "litserve/requirements.txt",),
        pinned=False,
        content_type="application/json",
        path="/predict",
        health="/health",
        body=lambda rows: f'{{"input": {lists(rows)}}}'.encode(),
        labels=lambda reply: lines(json.loads(reply)["output"]),
    ),
]
