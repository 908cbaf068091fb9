"""What every algorithm is trained and served by; its own two files, training.py and predictor.py, lie beside this package.

    train  serve        what SageMaker starts
    wsgi.py nginx.conf  what gunicorn and nginx start with
    channels.py         where the data of a training job lie
    algorithm.py        the algorithm's two files, and what they must hold
    errors.py           InputError: what a user can mend, in words
    tables/             rows of numbers: training files, requests and replies
    onnx_model/         a fitted estimator as model.onnx, and its answers
    server/             HTTP: flask, gunicorn's settings and worker, and the variables that set them

An algorithm takes what it wants: `from stack import onnx_model, tables`.
"""
