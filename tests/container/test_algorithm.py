"""An algorithm's own two files: what is wrong with them is said by name, before the data are read or a client asks."""

import sys
from pathlib import Path

import pytest
from conftest import STACK, lay_out, run_training, until
from stack import algorithm
from stack.errors import InputError

TRAIN = [sys.executable, str(STACK / "train")]
SERVE = [sys.executable, str(STACK / "serve")]
LEARNS = "def train(hyperparameters, channels, model_dir):\n    (model_dir / 'model.json').write_text('{}')\n"
ECHO = """
def model_fn(model_dir): return None
def input_fn(body, content_type): return body
def predict_fn(data, model): return data
"""


@pytest.fixture
def files(tmp_path, monkeypatch):
    """A function that makes an algorithm's folder of files, {name: text}, and the one that is loaded."""
    folder = tmp_path / "mine"
    elsewhere = [
        path for path in sys.path if Path(path) == STACK.parent or STACK.parent not in Path(path).parents
    ]
    monkeypatch.setattr(sys, "path", elsewhere)  # pytest has put the folders of other algorithms on it
    monkeypatch.setattr(algorithm, "FOLDER", folder)
    before = set(sys.modules)

    def make(**named) -> Path:
        folder.mkdir(exist_ok=True)
        for name, text in named.items():
            (folder / f"{name}.py").write_text(text)
        return folder

    yield make
    for name in set(sys.modules) - before:
        if str(getattr(sys.modules[name], "__file__", None) or "").startswith(str(folder)):
            del sys.modules[name]


TRAINING = {
    "misspelt": ("def trian(hyperparameters, channels, model_dir): pass", "did you mean that by trian"),
    "nothing like it": ("x = 1", r"training.py defines no train\(hyperparameters, channels, model_dir\)"),
    "no function": ("train = 3", "train must be a function, .* found int"),
    "too few parameters": ("def train(hyperparameters): pass", r"train\(hyperparameters\) cannot be called as train"),
    "in another order": ("def train(channels, hyperparameters, model_dir): pass", "parameters in another order than train"),
    "too many parameters": ("def train(a, b, c, d): pass", "cannot be called as train"),
    "a package that is not there": ("\nimport no_such_package", "line 2: ModuleNotFoundError: .*requirements-train.txt"),
    "a module that a package has not": ("import json.no_such", "the package json is there, and has no such module"),
    "an error of its own": ("x = 1\n\ny = x / 0", "training.py, line 3: ZeroDivisionError"),
    "not Python": ("x = 1\ndef f(:\n", "training.py, line 2: SyntaxError: invalid syntax"),
}  # fmt: skip


def test_names_in_predictor_are_looked_at_before_a_training(files):
    files(training=LEARNS, predictor="import no_such_package\ndef predit_fn(data, model): pass\n")
    with pytest.raises(InputError, match=r"predictor\.py defines predit_fn; did you mean predict_fn\?"):
        algorithm.trainer()
    files(predictor="def f(:\n")
    with pytest.raises(InputError, match=r"predictor\.py, line 1: SyntaxError: invalid syntax"):
        algorithm.trainer()


def test_a_training_that_writes_no_model_fails(files, tmp_path):
    folder = files(training=LEARNS.partition("\n")[0] + "\n    return {'accuracy': 1}\n")
    ended = run_training(TRAIN, lay_out(tmp_path / "ml", {}), ALGORITHM_DIR=folder)
    assert (ended.code, ended.model) == (1, {})
    assert ended.failure.startswith("train() wrote nothing into model_dir; write the model there")


@pytest.mark.parametrize(("text", "words"), TRAINING.values(), ids=TRAINING)
def test_what_is_wrong_with_training_is_named(files, text, words):
    files(training=text)
    with pytest.raises(InputError, match=words):
        algorithm.trainer()


PREDICTOR = {
    "misspelt": ("def predictfn(data, model): pass", "defines predictfn; did you mean predict_fn"),
    "no function": ("output_fn = 'text'", "output_fn must be a function"),
    "wrong parameters": ("def input_fn(body): pass", r"input_fn\(body\) cannot be called as input_fn\(body, content"),
    "a model that nobody asks": ("def model_fn(model_dir): pass", "a model_fn of its own and no predict_fn"),
    "REPLIES is a word": ("REPLIES = 'text/csv'", "REPLIES must list media types"),
    "REPLIES is empty": ("REPLIES = ()", "REPLIES must list media types"),
    "REPLIES are no media types": ("REPLIES = ['json']", r"found \['json'\]"),
    "REPLIES with a parameter": ("REPLIES = ['text/csv; charset=utf-8']", "media types without parameters"),
    "in another order": ("def predict_fn(model, data): pass", "parameters in another order than predict_fn"),
    "rows are maybe independent": ("ROWS_ARE_INDEPENDENT = 'yes'", "must be True or False; found 'yes'"),
    "a package that is not there": ("import no_such_package", "line 1: ModuleNotFoundError: .*requirements-serve.txt"),
}  # fmt: skip


@pytest.mark.parametrize(("text", "words"), PREDICTOR.values(), ids=PREDICTOR)
def test_what_is_wrong_with_the_predictor_is_named(files, text, words):
    files(predictor=text)
    with pytest.raises(InputError, match=words):
        algorithm.predictor()


def test_a_file_that_is_missing_is_named(files):
    files()
    with pytest.raises(InputError, match=r"mine/training.py is missing: an algorithm is training.py and"):
        algorithm.trainer()


def test_what_a_predictor_lacks_is_the_stacks(files):
    files(predictor='"""Nothing."""')
    found = algorithm.predictor()
    assert (found.own, found.rows_are_independent, found.replies[0]) == (frozenset(), True, "text/csv")


def test_a_prediction_of_its_own_may_look_at_all_rows(files):
    files(predictor="def predict_fn(data, model): return data")
    assert not algorithm.predictor().rows_are_independent


def test_functions_of_the_stack_are_none_of_its_own(files):
    files(predictor="from stack.onnx_model import model_fn\nfrom stack.tables import input_fn, output_fn")
    found = algorithm.predictor()
    assert (found.own, found.replies[0]) == (frozenset(), "text/csv")


@pytest.mark.parametrize("name", ["json", "numpy", "stack", "flask", "onnxruntime"])
def test_a_file_with_a_name_that_is_taken_is_refused_by_name(files, name):
    files(training=LEARNS, **{name: ""})
    with pytest.raises(InputError, match=rf"{name}\.py has the name of a module"):
        algorithm.trainer()


def test_names_of_the_stacks_own_modules_are_free(run_mine, mine_server):
    own = {name: f"SAYS = {name!r}" for name in ("settings", "errors", "tables", "fast", "channels", "check")}
    imports = f"import {', '.join(own)}\n"
    answer = "def output_fn(prediction, accept): return ' '.join(m.SAYS for m in (settings, errors, tables, fast))\n"
    text = {"training": imports + LEARNS, "predictor": imports + ECHO + answer, **own}
    ended = run_mine(text)
    assert ended.code == 0
    assert mine_server(text).predict("x").text == "settings errors tables fast"


BODIES = {
    "text": ("é", "*/*", ("é".encode(), "text/plain; charset=utf-8")),
    "text as wished": ("1\n", "text/csv", (b"1\n", "text/csv")),
    "bytes": (b"\x00", "*/*", (b"\x00", "application/octet-stream")),
    "a bytearray": (bytearray(b"\x00"), "image/*", (b"\x00", "application/octet-stream")),
    "a pair": (("<p>", "text/html"), "text/csv", (b"<p>", "text/html")),
    "a pair of bytes": ([b"\x89", "image/png"], "*/*", (b"\x89", "image/png")),
}


@pytest.mark.parametrize(("returned", "accept", "expected"), BODIES.values(), ids=BODIES)
def test_what_output_fn_may_return(returned, accept, expected):
    assert algorithm.reply_body(returned, accept) == expected


@pytest.mark.parametrize("returned", [{"a": 1}, None, 3, (b"", b"x"), ("a", "b", "c"), ({}, "text/csv")])
def test_what_it_may_not_return_is_named(returned):
    with pytest.raises(
        algorithm.BadAnswer, match=f"output_fn returned {type(returned).__name__}; expected bytes"
    ):
        algorithm.reply_body(returned, "*/*")


# -- in the real programs


@pytest.fixture
def write(tmp_path):
    """A function that makes an algorithm's folder of {name: text or bytes}; a name without an ending is a .py."""

    def make(named: dict) -> Path:
        folder = tmp_path / "own"
        folder.mkdir(exist_ok=True)
        for name, content in named.items():
            file = folder / (name if "." in name else f"{name}.py")
            file.write_bytes(content.encode() if isinstance(content, str) else content)
        return folder

    return make


@pytest.fixture
def run_mine(write, tmp_path):
    def run(named: dict, channels: dict | None = None):
        base = lay_out(tmp_path / "trained", channels or {"training": {"d.csv": "a,1\n"}})
        return run_training(TRAIN, base, ALGORITHM_DIR=write(named))

    return run


@pytest.fixture
def mine_server(write, start, tmp_path):
    def serve(named: dict, ready=True):
        (tmp_path / "served/model").mkdir(parents=True, exist_ok=True)
        return start(base=tmp_path / "served", args=SERVE, ready=ready, ALGORITHM_DIR=write(named))

    return serve


def test_train_says_what_is_wrong_before_it_reads_the_data(run_mine):
    ended = run_mine({"training": "def trian(): pass"}, {"training": {"d.csv": b"\x00not read"}})
    assert ended.code == 1
    assert "did you mean that by trian?" in ended.failure
    assert "Traceback" not in ended.output


def test_what_is_no_file_costs_no_model(run_mine):
    lines = ["import os, socket", LEARNS.rstrip(), "    os.chdir(model_dir)", "    os.mkfifo('fifo')"]
    lines += ["    os.symlink('nowhere', 'dangling')", "    socket.socket(socket.AF_UNIX).bind('socket')"]
    ended = run_mine({"training": "\n".join(lines)})
    assert ended.code == 0, ended.failure
    assert ended.model == {"model.json": b"{}"}


def test_an_error_while_it_trains_is_named_by_its_line(run_mine):
    ended = run_mine({"training": LEARNS + "    return channels['nowhere']\n"})
    assert (ended.code, ended.model) == (1, {})
    assert ended.failure == "training.py, line 3: KeyError: 'nowhere'"


@pytest.mark.parametrize(("code", "said"), [("", ""), ("0", "0"), ("'no rows'", "'no rows'")])
def test_a_training_that_exits_by_itself_has_failed(run_mine, code, said):
    ended = run_mine({"training": f"import sys\n{LEARNS}    sys.exit({code})\n"})
    assert (ended.code, ended.model) == (1, {})
    assert ended.failure.startswith(
        f"training.py, line 4: sys.exit({said}) before train() returned; return the metrics"
    )


def test_what_an_algorithm_leaves_for_its_end_is_done(run_mine):
    lines = ["import atexit, threading, time", LEARNS.rstrip()]
    lines += ["    atexit.register(print, 'at the exit', end='')"]
    lines += ["    threading.Thread(target=lambda: (time.sleep(0.2), (model_dir / 'late').touch())).start()"]
    ended = run_mine({"training": "\n".join(lines)})
    assert (ended.code, sorted(ended.model)) == (0, ["late", "model.json"])
    assert ended.output.endswith("at the exit")


METRICS = {
    "none": ("None", "", []),
    "some": ("{'a': 1, 'b': '0.5', 'c': True}", "a=1\nb=0.5\nc=1\n", []),
    "one that is none": ("{'a': None, 'b': 2}", "b=2\n", ["metric a='None' is no number; it is left out"]),
    "no dict": ("[1]", "", ["train() returned list; expected a dict of metrics: none is printed"]),
}


@pytest.mark.parametrize(("returned", "printed", "words"), METRICS.values(), ids=METRICS)
def test_metrics_that_are_none_cost_no_model(run_mine, returned, printed, words):
    ended = run_mine({"training": LEARNS + f"    return {returned}\n"})
    assert (ended.code, list(ended.model)) == (0, ["model.json"])
    assert printed in ended.output
    assert all(word in ended.output for word in words)


def refused_start(server) -> str:
    assert server.process.wait(30) != 0
    return server.log


def test_serve_says_what_is_wrong_before_the_first_request(mine_server):
    log = refused_start(mine_server({"predictor": "def predict_fun(data, model): pass"}, ready=False))
    assert "serve: predictor.py defines predict_fun; did you mean predict_fn? Rename it" in log
    assert "Traceback" not in log


def test_a_body_that_is_none_ends_serve_before_the_first_request(mine_server):
    own = ECHO + "def output_fn(prediction, accept): return {'answer': 1}\n"
    log = refused_start(mine_server({"predictor": own, "payload.txt": "x"}, ready=False))
    assert "serve: predictor.py: output_fn returned dict; expected bytes, text, or a pair" in log


def test_a_model_that_is_missing_is_named(mine_server):
    own = ECHO.replace("return None", "return open(f'{model_dir}/model.json')")
    log = refused_start(mine_server({"predictor": own}, ready=False))
    assert "failed: predictor.py, line 2: FileNotFoundError: " in log
    assert "served/model/model.json" in log
    assert "Traceback" not in log


def test_a_payload_that_fails_ends_serve_before_the_first_request(mine_server):
    own = ECHO.replace("def predict_fn(data, model): return data", "def predict_fn(d, m): return m.upper()")
    log = refused_start(mine_server({"predictor": own, "payload.txt": "x"}, ready=False))
    assert "the algorithm's own payload, tried before the first request, fails: predictor.py, line " in log


ANSWERS = {
    "a word": ("'setosa'", "predict_fn returned str for 2 rows; expected an array or a list"),
    "nothing": ("None", "predict_fn returned NoneType for 2 rows"),
    "a column that is a word": ("{'label': 'setosa'}", "predict_fn returned str for 2 rows"),
    "a number": ("data[0, 0]", "predict_fn returned float32 for 2 rows"),
    "too few": ("{'label': ['a', 'b'], 'share': [1]}", "predict_fn returned 1 value for 2 rows"),
}


@pytest.mark.parametrize(("answer", "words"), ANSWERS.values(), ids=ANSWERS)
def test_an_answer_without_a_value_for_each_row_ends_serve_before_the_first_request(
    mine_server, answer, words
):
    own = f"def model_fn(model_dir): return None\ndef predict_fn(data, model): return {answer}\n"
    log = refused_start(mine_server({"predictor": own, "payload.csv": "1,2\n3,4\n"}, ready=False))
    assert f"serve: predictor.py: {words}" in log


def test_a_payload_that_is_refused_is_said(mine_server):
    server = mine_server({"predictor": MEAN, "payload.csv": "a,b\n"})
    assert "serve: the algorithm's own payload is refused: row 1, column 1: 'a' is not a number" in server.log
    until(lambda: f"serve: ready on port {server.port}" in server.log, 5, "a word that it is ready")


MEAN = """
def model_fn(model_dir): return None
def predict_fn(data, model): return data[:, 0] - data[:, 0].astype("float64").mean()
"""


def test_rows_that_depend_on_each_other_are_never_cut(mine_server):
    numbers = range(300_000)
    body = "".join(f"{number}\n" for number in numbers)
    assert len(body) > 1 << 20
    answers = mine_server({"predictor": MEAN}).predict(body).text.split()
    assert (float(answers[0]), float(answers[-1]), len(answers)) == (-149_999.5, 149_999.5, len(numbers))


WRITER = ECHO + "def output_fn(prediction, accept): return accept\n"


def test_replies_are_what_accept_is_held_against(mine_server):
    server = mine_server({"predictor": WRITER + "REPLIES = ('text/html', 'image/png')\n"})
    for accept, expected in {"": "text/html", "*/*": "text/html", "image/*": "image/png"}.items():
        reply = server.predict("x", "any/thing", Accept=accept)
        assert (reply.text, reply.headers["content-type"].split(";")[0]) == (expected, expected)
    reply = server.predict("x", "any/thing", Accept="text/csv")
    assert reply.status == 406
    assert "text/html, image/png" in reply.error["message"]


def test_an_output_fn_without_replies_gets_the_clients_wish(mine_server):
    server = mine_server({"predictor": WRITER})
    reply = server.predict("x", "any/thing", Accept="model/gltf+json, */*;q=0.1")
    assert (reply.text, reply.headers["content-type"]) == ("model/gltf+json", "model/gltf+json")
    assert server.predict("x", "any/thing").text == "*/*"


def test_an_output_fn_that_calls_the_stacks_may_leave_the_choice_to_it(mine_server):
    calls = "from stack import tables\ndef output_fn(prediction, accept): return tables.output_fn([len(prediction)], accept)\n"
    server = mine_server({"predictor": ECHO + calls})
    for accept, media in {"": "text/csv", "*/*": "text/csv", "application/json": "application/json"}.items():
        assert server.predict("x", "any/thing", Accept=accept).headers["content-type"] == media
    reply = server.predict("x", "any/thing", Accept="image/png")
    assert (reply.status, reply.error["code"]) == (406, "not_acceptable")


def test_an_input_error_of_its_own_is_the_clients(mine_server):
    own = "from stack.errors import InputError\n" + WRITER.replace(
        "return body", "raise InputError('a picture is expected', 'no_picture', 415)"
    )
    reply = mine_server({"predictor": own}).predict("x")
    assert (reply.status, reply.error) == (415, {"code": "no_picture", "message": "a picture is expected"})
