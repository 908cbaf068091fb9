"""FastAPI as a good engineer would write it: the model at import, numpy in, scikit-learn, one string out."""

import io
import os

import numpy as np
from fastapi import FastAPI, Request, Response
from sklearn.tree import DecisionTreeClassifier

table = np.loadtxt(os.environ["BENCH_TRAINING"], delimiter=",", dtype=str)
model = DecisionTreeClassifier(random_state=0).fit(table[:, 1:].astype(np.float32), table[:, 0])
app = FastAPI()


@app.get("/ping")
async def ping():
    return Response()


@app.post("/invocations")
async def invocations(request: Request):
    rows = np.loadtxt(io.BytesIO(await request.body()), delimiter=",", ndmin=2, dtype=np.float32)
    return Response("\n".join(model.predict(rows)) + "\n", media_type="text/csv")
