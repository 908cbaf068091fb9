"""What every algorithm is trained and served by; its own two files, training.py and predictor.py, lie beside this package.

    train  serve        what SageMaker starts
    wsgi.py nginx.conf  what gunicorn and nginx start with
    channels.py         where the data of a training job lie
    algorithm.py        the algorithm's two files, and what they must hold
    cluster.py          several hosts of a training job, by Dask
    processes.py        a host's processes end together
    errors.py           InputError: what a user can mend, in words
    tables/             rows of numbers: training files, requests and replies
    onnx_model/         a fitted estimator as model.onnx, and its answers
    server/             HTTP: flask, gunicorn's settings and worker, and the variables that set them

An algorithm takes what it wants: `from stack import onnx_model, tables`.
"""

import os

# onnxruntime reads this when it is imported, be it by an algorithm's own file. Without it, it reports its use to its
# makers over the network, from a thread that does not survive the fork of a server's workers.
os.environ["ORT_DISABLE_TELEMETRY"] = "1"
