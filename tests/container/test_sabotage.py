"""The contract suite must see a broken promise: each is broken alone, and the test that names it must fail."""

import shutil
import subprocess
import sys
import threading
from functools import partial
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
import test_contract_serving as serving
import test_contract_training as training
from conftest import ROOT, Server, environment, lay_out, run_training

# What is broken: a file of container/, its text, what stands there instead, the test that must fail.
SERVING = {
    "ping has a body": (
        "stack/server/app.py",
        "return Response(status=200, ",
        'return Response("fine", status=200, ',
        serving.test_ping_is_200_with_an_empty_body,
    ),
    "every path is there": (
        "stack/nginx.conf",
        "location / { return 404; }",
        "location / { return 200; }",
        partial(serving.test_other_paths_are_404, method="GET", path="/pingfoo"),
    ),
    "numbers are what Python takes": (
        "stack/tables/numeric.py",
        'b"0123456789+-.eE \\t"',
        'b"0123456789+-.eE \\t_naif"',
        partial(serving.test_csv_is_refused, body=serving.REFUSED["underscore"]),
    ),
    "infinity is a number": (
        "stack/tables/numeric.py",
        "matrix if np.isfinite(matrix).all() else None",
        "matrix",
        partial(serving.test_csv_is_refused, body=serving.REFUSED["beyond float32"]),
    ),
    "rows of any length": (
        "stack/tables/numeric.py",
        'wide = separators.index(b"\\n") + 1\n'
        "    rows = len(separators) // wide\n"
        '    if separators != (b"," * (wide - 1) + b"\\n") * rows or',
        'rows = separators.count(b"\\n")\n'
        "    wide = len(separators) // rows\n"
        '    if separators.strip(b",\\n") or',
        partial(serving.test_csv_is_refused, body=serving.REFUSED["ragged, then right in sum"]),
    ),
    "errors in HTML": (
        "stack/server/app.py",
        "@app.errorhandler(HTTPException)",
        "",
        partial(serving.test_other_methods_are_405, method="GET", path="/invocations"),
    ),
    "nginx answers in HTML": (
        "stack/nginx.conf",
        "        error_page ",
        "        # error_page ",
        partial(serving.test_other_paths_are_404, method="GET", path="/"),
    ),
    "gzip without a bound": (
        "stack/server/app.py",
        ".read(SETTINGS.max_body + 1)",
        ".read()[: SETTINGS.max_body]",
        serving.test_a_bomb_is_413,
    ),
    "any charset": (
        "stack/tables/formats.py",
        'if charset not in ("utf-8", "utf8", "us-ascii"):',
        "if not charset:",
        partial(serving.test_an_unsupported_content_type_is_415, content_type="text/csv; charset=latin-1"),
    ),
    "a version in each reply": (
        "stack/nginx.conf",
        "server_tokens off;",
        "server_tokens on;",
        serving.test_no_reply_names_a_version,
    ),
}
BAD_FILES, WORDS = training.BAD["text"]
TRAINING = {
    "exit 0 after a failure": ("stack/train", "    return min(abs(code), 1)", "    return 0"),
    "no failure file": ("stack/train", "        failure.write_text(", "        str("),
    "no file name": ("stack/tables/files.py", '(f"{name}: {error}")', '(f"{error}")'),
}


def broken(folder: Path, file: str, text: str, instead: str) -> str:
    """A copy of container/ with one change; returns its `run`."""
    shutil.copytree(ROOT / "container", folder / "container", ignore=shutil.ignore_patterns("__pycache__"))
    source = (folder / "container" / file).read_text()
    assert source.count(text) == 1, f"{file} has changed: break it in another place"
    (folder / "container" / file).write_text(source.replace(text, instead))
    return str(folder / "container/run")


@pytest.mark.parametrize(
    ("file", "text", "instead", "test"),
    [
        pytest.param(*change, id=name, marks=[pytest.mark.nginx] if "nginx" in change[0] else [])
        for name, change in SERVING.items()
    ],
)
def test_a_broken_server_is_seen(iris, tmp_path, file, text, instead, test):
    run = broken(tmp_path, file, text, instead)
    server = Server([run, "decision_trees", "serve"], iris, tmp_path / "serve.log")
    try:
        with pytest.raises(AssertionError):
            test(server)
    finally:
        server.close()


@pytest.mark.parametrize(("file", "text", "instead"), TRAINING.values(), ids=TRAINING)
def test_a_broken_train_is_seen(tmp_path, file, text, instead):
    run = broken(tmp_path, file, text, instead)

    def train(channels):
        return run_training([run, "decision_trees", "train"], lay_out(tmp_path / "ml", channels))

    with pytest.raises((AssertionError, FileNotFoundError)):
        training.test_bad_data_is_refused_by_file_row_and_column(train, BAD_FILES, WORDS)


def run_suite(*args) -> tuple[int, str]:
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", *args]
    ended = subprocess.run(
        command,
        env=environment(),
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=60,
    )
    print(ended.stdout)
    return ended.returncode, ended.stdout


def test_the_suite_can_be_pointed_at_any_command():
    test = f"{training.__file__}::test_bad_data_is_refused_by_file_row_and_column[text]"
    code, output = run_suite("--train-command", "sh -c 'exit 0'", test)
    assert code == 1
    assert "FAILED tests/container/test_contract_training.py" in output


def test_a_command_that_is_none_is_said_once():
    code, output = run_suite("--serve-command", "/a path/run trees serve", serving.__file__)
    assert code == 4
    assert "there is no program '/a'. A path with a blank in it wants quotes of its own" in output


def test_the_suite_can_be_pointed_at_any_address():
    """Here one at which nothing is."""

    class Nothing(BaseHTTPRequestHandler):
        def do_GET(self):
            self.send_error(404)

        def log_message(self, *args):
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Nothing) as server:
        threading.Thread(target=server.serve_forever).start()
        url = f"http://127.0.0.1:{server.server_port}"
        code, output = run_suite("--base-url", url, serving.__file__, "-k", "ping_is_200 or version")
        server.shutdown()
    assert code == 1
    assert "FAILED tests/container/test_contract_serving.py::test_ping_is_200" in output
    assert "2 failed" in output
