"""What train promises, as a table: any container can be held to it (see conftest.py)."""

import gzip
import io
import json
import os
import re
import signal
import subprocess
import threading

import pytest
from conftest import ALGORITHM, IRIS, LABELS, ROWS, command, environment, lay_out, until

SMALL = "a,1,2\nb,3,4\na,1,3\nb,4,4\n"
TARGETS = [ALGORITHM.written(label) for label in LABELS]
trees = pytest.mark.trees
tables = pytest.mark.tables


def metrics(training) -> dict[str, float]:
    """What train printed as name=value."""
    lines = re.findall(r"^(\w+)=(\S+)$", training.output, re.MULTILINE)
    return {name: float(value) for name, value in lines}


@tables
def test_iris(learned):
    assert learned.code == 0
    assert learned.model
    scored = metrics(learned)
    assert scored["training_r2" if ALGORITHM.numbers else "training_accuracy"] > 0.95
    assert (scored["training_rows"], scored["features"], scored["agreement"]) == (150, 4, 1)


def test_it_learns_and_says_how_well(learned):
    """By lines that the metric definition of a training job finds, `name=([0-9.e+-]+)`."""
    assert learned.code == 0
    assert learned.model
    found = re.findall(r"^(\w+)=([0-9.e+-]+)$", learned.output, re.MULTILINE)
    assert {name: float(value) for name, value in found} == metrics(learned) != {}


@trees
def test_a_tree_learns_iris_by_heart(learned):
    assert metrics(learned)["training_accuracy"] == 1


def test_the_same_input_gives_the_same_bytes(learned, train):
    assert train().model == learned.model


def test_no_pickle_is_written(trained):
    for file in (trained / "model").rglob("*"):
        assert not file.read_bytes().startswith((b"\x80\x03", b"\x80\x04", b"\x80\x05", b"PK"))


GOOD = {
    "training": {"all liberties.csv": '\ufeff a , 1,\t2\r\n"b","3", 4 \r\n"a",+1e0,.3\nb,3.,4\n \r\n\n'},
    "validation": {
        "1.csv": "\ufeffa,1,2\n",
        "2.csv": "\ufeffb,3,4",
        "x/y/no suffix": "b,3,4\n",
        "été.TXT": "a,1,2\n",
        "_SUCCESS": "",
        ".DS_Store": b"\0",
        "._1.csv": b"\0",
        ".git/x": "x",
    },
}


@trees
def test_a_linked_folder_is_read_and_a_circle_once(run_train, tmp_path):
    base = lay_out(tmp_path / "ml", {"training": {"d.csv": SMALL, "x/e.csv": SMALL}})
    (base / "input/data/training/x").rename(base / "elsewhere")
    (base / "input/data/training/link").symlink_to("../../../elsewhere")
    (base / "elsewhere/circle").symlink_to("../input/data/training")
    ended = run_train(base)
    assert ended.code == 0
    assert "training_rows=8" in ended.output


@trees
def test_good_channels_are_read(train):
    ended = train(GOOD)
    assert ended.code == 0
    assert {"training_accuracy=1", "validation_accuracy=1", "validation_rows=4"} <= set(ended.output.split())


BAD = {
    "empty file": ({"d.csv": ""}, ["d.csv", "empty"]),
    "blank file": ({"d.csv": "\n\n"}, ["d.csv", "empty"]),
    "one empty file of two": ({"a.csv": SMALL, "b.csv": ""}, ["b.csv", "empty"]),
    "header row": ({"d.csv": "species,x,y\n" + SMALL}, ["d.csv", "row 1", "column 2", "'x'", "header"]),
    "header with an index": ({"d.csv": ",x,y\n" + SMALL}, ["row 1", "column 2", "if row 1 is a header"]),
    "header in the second file": ({"a.csv": SMALL, "b.csv": "s,x,y\n" + SMALL}, ["b.csv", "row 1", "header"]),
    "text": ({"d.csv": SMALL + "a,1,two\n"}, ["d.csv", "row 5", "column 3", "'two'"]),
    "the target last": (
        {"d.csv": "1,2,a\n3,4,b\n"},
        ["d.csv", "row 1", "column 3", "'a'", "target is the first column"],
    ),
    "text in a sub-folder": ({"x/d.csv": SMALL + "a,1,two\n"}, ["x/d.csv", "row 5", "column 3", "'two'"]),
    "lone CR": ({"d.csv": SMALL.replace("\n", "\r")}, ["d.csv", "row 1", "CR alone"]),
    "decimal commas": ({"d.csv": "a;1,5;2,5\nb;2,5;3,5\n"}, ["row 1", "column 2", "delimiter", "';'"]),
    "NaN": ({"d.csv": SMALL + "a,NaN,2\n"}, ["row 5", "column 2", "'NaN'"]),
    "inf": ({"d.csv": SMALL + "a,inf,2\n"}, ["row 5", "column 2", "'inf'"]),
    "too large": ({"d.csv": SMALL + "a,1e39,2\n"}, ["row 5", "column 2", "'1e39'"]),
    "empty feature": ({"d.csv": SMALL + "a,,2\n"}, ["row 5", "column 2"]),
    "underscore": ({"d.csv": SMALL + "a,1_0,2\n"}, ["row 5", "column 2", "'1_0'"]),
    "missing label": ({"d.csv": SMALL + ",1,2\n"}, ["row 5", "column 1", "label"]),
    "quoted empty label": ({"d.csv": SMALL + '"",1,2\n'}, ["row 5", "column 1", "label"]),
    "label with a control character": ({"d.csv": SMALL + "a\x01,1,2\n"}, ["row 5", "column 1", "label"]),
    "label only": ({"d.csv": "a\nb\n"}, ["row 1", "1 column"]),
    "short row": ({"d.csv": SMALL + "a,1\n"}, ["row 5", "2 columns", "3"]),
    "long row": ({"d.csv": SMALL + "a,1,2,3\n"}, ["row 5", "4 columns", "3"]),
    "other width in the second file": (
        {"a.csv": SMALL, "b.csv": "a,1,2,3\n"},
        ["b.csv", "row 1", "4 columns", "3"],
    ),
    "blank line between": ({"d.csv": "a,1,2\n\nb,3,4\n"}, ["row 2", "empty"]),
    "semicolons": ({"d.csv": SMALL.replace(",", ";")}, ["row 1", "';'"]),
    "tabs": ({"d.csv": SMALL.replace(",", "\t")}, ["row 1", "delimiter"]),
    "not UTF-8 label": ({"d.csv": SMALL.encode() + b"\xe9t\xe9,1,2\n"}, ["row 5", "column 1", "UTF-8"]),
    "not UTF-8 feature": ({"d.csv": SMALL.encode() + b"a,\xe9,2\n"}, ["row 5", "column 2", "UTF-8"]),
    "UTF-16": ({"d.csv": SMALL.encode("utf-16")}, ["d.csv", "row 1", "UTF-16"]),
    "binary": ({"d.csv": bytes(range(256)) * 10}, ["d.csv", "row 1"]),
    "gzip": ({"d.csv": gzip.compress(SMALL.encode())}, ["d.csv", "gzip"]),
    "unclosed quote": ({"d.csv": SMALL + '"a,1,2\n'}, ["row 5", "quote"]),
    "comment": ({"d.csv": "# iris\n" + SMALL}, ["row 1"]),
    "one row": ({"d.csv": "a,1,2\n"}, ["1 row", "at least 2"]),
    "one class": ({"d.csv": "a,1,2\na,3,4\n"}, ["1 different label", "at least 2"]),
    "continuous label": ({"d.csv": "1.5,1,2\n2.25,3,4\n3,1,1\n"}, ["continuous", "1.5"]),
    "continuous integers": ({"d.csv": "".join(f"{i},1,2\n" for i in range(100))}, ["continuous"]),
    "names for labels": (
        {"d.csv": "".join(f"id-{i},1,2\n" for i in range(100))},
        ["100 different labels", "'id-0'"],
    ),
    "a line without an end": ({"d.csv": "a,1,2\r" * 3_000_000}, ["d.csv", "longer than 16 MB", "CR alone"]),
    "a name that is no UTF-8": (
        {os.fsdecode(b"\xe9.csv"): "a,x,2\n"},
        [r"\udce9.csv", "row 1, column 2: 'x'"],
    ),
    "no files": ({}, ["training", "no data"]),
    "only files to be skipped": ({"_SUCCESS": "", ".x": "a,1,2\n"}, ["training", "no data"]),
}


@trees
@pytest.mark.parametrize(("files", "words"), BAD.values(), ids=BAD)
def test_bad_data_is_refused_by_file_row_and_column(train, files, words):
    ended = train({"training": files})
    assert ended.code != 0
    assert not ended.model
    assert all(word in ended.failure for word in words), ended.failure
    assert len(ended.failure) <= 1024
    assert "Traceback" not in ended.failure


BAD_ROW = {
    "a feature": (f"{TARGETS[0]},5.1,3.5,abc,0.2", ["row 151", "column 4", "'abc'"]),
    "no target": (",5.1,3.5,1.4,0.2", ["row 151", "column 1", "missing"]),
    "a number too few": (f"{TARGETS[0]},5.1,3.5,1.4", ["row 151", "4 columns", "5"]),
}
if ALGORITHM.numbers:
    BAD_ROW["a word for a number"] = ("setosa,5.1,3.5,1.4,0.2", ["row 151", "column 1", "'setosa'"])


@tables
@pytest.mark.parametrize(("row", "words"), BAD_ROW.values(), ids=BAD_ROW)
def test_a_bad_row_is_refused_by_file_row_and_column(train, row, words):
    ended = train({"training": {"x/iris.csv": f"{IRIS}{row}\n"}})
    assert ended.code != 0
    assert not ended.model
    assert all(word in ended.failure for word in ["x/iris.csv", *words]), ended.failure
    assert len(ended.failure) <= 1024
    assert "Traceback" not in ended.output


def test_data_that_cannot_be_read_are_named(train):
    ended = train({"training": {"images/garbage.png": bytes(range(256)) * 10}})
    assert ended.code == 1
    assert not ended.model
    assert "training/images/garbage.png" in ended.failure
    assert "Traceback" not in ended.output


def test_a_model_is_replaced_only_by_a_better_end(run_train, learned, tmp_path):
    """What is there stays when a later training fails, and nothing of that is left beside it."""
    base = lay_out(tmp_path / "ml", {"training": {"images/garbage.png": "x"}}, ALGORITHM.quick)
    for name, content in learned.model.items():
        (base / "model" / name).write_bytes(content)
    assert run_train(base).code == 1
    assert [path for path in (base / "model").rglob("*") if path.is_dir()] == []
    assert {path.name: path.read_bytes() for path in (base / "model").iterdir()} == learned.model


@trees
def test_a_bad_row_far_down_is_found(train):
    ended = train(SMALL * 200_000 + "a,1,x\n")
    assert "row 800001, column 3: 'x'" in ended.failure


@pytest.mark.parametrize(
    ("hyperparameters", "words"), (ALGORITHM.bad or {}).values(), ids=ALGORITHM.bad or {}
)
def test_a_bad_hyperparameter_is_refused_by_name_and_value(train, hyperparameters, words):
    ended = train(None, hyperparameters)
    assert ended.code != 0
    assert not ended.model
    assert all(word in ended.failure for word in words), ended.failure
    assert len(ended.failure) <= 1024
    assert "Traceback" not in ended.output


def test_hyperparameters_make_another_model(train, learned):
    ended = train(None, ALGORITHM.good)
    assert ended.code == 0
    assert ALGORITHM.good is None or ended.model != learned.model


@trees
def test_hyperparameters_come_plain_or_as_json(train):
    words = {
        "criterion": "log_loss",
        "splitter": '"random"',
        "class_weight": "balanced",
        "max_features": "null",
        "monotonic_cst": "None",
        "max_leaf_nodes": "1e1",
    }
    numbers = {"ccp_alpha": 0.001, "max_depth": '"2"', "min_impurity_decrease": "1e-4"}
    numbers |= {"min_samples_leaf": 2, "min_samples_split": "0.02", "min_weight_fraction_leaf": "0.01"}
    job = {"TRAINING_JOB_NAME": "job", "TRAINING_JOB_ARN": "arn:aws:sagemaker:eu-west-1:1:training-job/job"}
    ended = train(IRIS, words | numbers | {"random_state": "7", "_tuning_objective_metric": "x"}, **job)
    assert ended.code == 0
    assert "tree_depth=2" in ended.output


CONFIG_FILES = {
    "not JSON": ({"hyperparameters.json": "{"}, ["hyperparameters.json"]),
    "not an object": ({"hyperparameters.json": "[1]"}, ["hyperparameters.json", "object"]),
    "channels not JSON": ({"inputdataconfig.json": "x"}, ["inputdataconfig.json"]),
    "channel that is not there": (
        {"inputdataconfig.json": {"training": {}, "validation": {}}},
        ["validation"],
    ),
    "RecordIO": (
        {"inputdataconfig.json": {"training": {"RecordWrapperType": "RecordIO"}}},
        ["RecordWrapperType"],
    ),
}


@trees
@pytest.mark.parametrize(("config", "words"), CONFIG_FILES.values(), ids=CONFIG_FILES)
def test_a_bad_configuration_file_is_named(train, config, words):
    ended = train(SMALL, config=config)
    assert ended.code != 0
    assert all(word in ended.failure for word in words), ended.failure


@trees
def test_configuration_files_may_be_empty_or_missing(train, tmp_path):
    base = lay_out(tmp_path / "ml", {"training": {"d.csv": SMALL}}, config={"resourceconfig.json": ""})
    (base / "input/config/hyperparameters.json").unlink()
    (base / "input/config/inputdataconfig.json").unlink()
    assert train({}, config={"resourceconfig.json": "", "inputdataconfig.json": ""}).code == 0


def test_no_channel(train):
    ended = train({})
    assert ended.code != 0
    assert "training" in ended.failure


def test_another_channel_is_named(train):
    ended = train({"train": {"d.csv": SMALL}})
    assert ended.code != 0
    assert "train" in ended.failure
    assert "'training'" in ended.failure


@trees
def test_validation_is_scored(train):
    ended = train({"training": {"d.csv": SMALL}, "validation": {"v.csv": "a,1,2\na,3,4\nb,3,4\nc,3,4\n"}})
    assert ended.code == 0
    assert "validation_accuracy=0.5\n" in ended.output


@tables
def test_validation_has_metrics_of_its_own(train):
    ended = train({"training": {"iris.csv": IRIS}, "validation": {"v.csv": IRIS}})
    scored = metrics(ended)
    for name in ("rmse", "r2", "rows") if ALGORITHM.numbers else ("accuracy", "rows"):
        assert scored[f"validation_{name}"] == scored[f"training_{name}"]


@trees
def test_validation_has_the_columns_of_training(train):
    ended = train({"training": {"d.csv": SMALL}, "validation": {"v.csv": "a,1\n"}})
    assert "validation/v.csv: row 1 has 2 columns" in ended.failure


@trees
def test_only_the_first_of_several_hosts_trains(train, tmp_path):
    (tmp_path / "ml/output").mkdir(parents=True)
    (tmp_path / "ml/output/failure").write_text("of another run")
    config = {"current_host": "algo-2", "hosts": ["algo-1", "algo-2"]}
    ended = train(SMALL, config={"resourceconfig.json": config})
    assert (ended.code, ended.model) == (0, {})
    assert not (ended.base / "output/failure").exists()


@trees
def test_a_share_of_the_data_is_not_trained_on_in_silence(train):
    inputs = {"training": {"TrainingInputMode": "File", "S3DistributionType": "ShardedByS3Key"}}
    hosts = {"current_host": "algo-1", "hosts": ["algo-1", "algo-2"]}
    ended = train(SMALL, config={"inputdataconfig.json": inputs, "resourceconfig.json": hosts})
    assert ended.code != 0
    assert "ShardedByS3Key" in ended.failure


@trees
def test_a_model_folder_that_cannot_be_written(run_train, tmp_path):
    base = lay_out(tmp_path / "ml", {"training": {"d.csv": SMALL}})
    (base / "model").rmdir()
    (base / "model").write_text("in the way")
    ended = run_train(base)
    assert ended.code != 0
    assert str(base / "model") in ended.failure


@trees
def test_no_output_folder(run_train, tmp_path):
    base = lay_out(tmp_path / "ml", {"training": {"d.csv": "a,1,x\n"}})
    (base / "output").rmdir()
    ended = run_train(base)
    assert ended.code != 0
    assert "'x'" in ended.failure
    (base / "output/failure").unlink()
    (base / "output").rmdir()
    (base / "output").write_text("in the way")
    ended = run_train(base)
    assert ended.code != 0
    assert "'x'" in ended.output


@trees
def test_a_long_cause_is_cut(train):
    ended = train(SMALL + "a,1," + "é" * 5000 + "\n")
    assert "row 5, column 3" in ended.failure
    assert len(ended.failure) <= 1024


@trees
def test_fast_file_mode_is_only_read(run_train, tmp_path):
    fast = {"training": {"TrainingInputMode": "FastFile"}}
    files = {"part-0": SMALL, "x/part-1": SMALL, "_SUCCESS": ""}
    base = lay_out(tmp_path / "ml", {"training": files}, config={"inputdataconfig.json": fast})
    inside = [base / "input/data", *(base / "input/data").rglob("*")]
    for path in inside:  # root may write all the same: so the folder is compared, too
        path.chmod(0o555 if path.is_dir() else 0o444)
    before = {path: path.stat().st_mtime_ns for path in inside}
    ended = run_train(base)
    assert ended.code == 0
    assert "training_rows=8\n" in ended.output
    found = [base / "input/data", *(base / "input/data").rglob("*")]
    assert {path: path.stat().st_mtime_ns for path in found} == before
    for path in inside:
        path.chmod(0o755)


# -- Pipe mode, stopping

PIPE = {"training": {"TrainingInputMode": "Pipe"}}


def begin(config, base, **options) -> subprocess.Popen:
    env = environment(SAGEMAKER_BASE_DIR=base)
    return subprocess.Popen(
        command(config, "train"),
        env=env,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        cwd=base,
        **options,
    )


def writable(fifo) -> int | None:
    """A file descriptor to write to, as soon as somebody reads at the other end."""
    try:
        return os.open(fifo, os.O_WRONLY | os.O_NONBLOCK)
    except OSError:
        return None


@trees
@pytest.mark.parametrize("data", [SMALL * 100_000, "a,1,x\n", ""], ids=["many", "bad", "none"])
def test_pipe_mode(request, tmp_path, data):
    base = lay_out(tmp_path / "ml", {"training": {}}, config={"inputdataconfig.json": PIPE})
    fifo = base / "input/data/training_0"
    os.mkfifo(fifo)
    process = begin(request.config, base)
    writer = threading.Thread(target=lambda: fifo.write_text(data))
    writer.start()
    output = process.communicate(timeout=60)[0].decode()
    writer.join()
    if data.startswith(SMALL):
        assert process.returncode == 0
        assert "training_accuracy=1" in output
        assert f"training_rows={len(data.splitlines()):.6g}\n" in output
    else:
        assert process.returncode != 0
        assert "training" in (base / "output/failure").read_text()


@trees
def test_sigterm_stops_training_at_once(request, tmp_path):
    base = lay_out(tmp_path / "ml", {"training": {}}, config={"inputdataconfig.json": PIPE})
    fifo = base / "input/data/training_0"
    os.mkfifo(fifo)
    process = begin(request.config, base)
    with open(
        until(lambda: writable(fifo), 30, "train, opening its channel"), "wb"
    ):  # and nothing ever comes
        process.send_signal(signal.SIGTERM)
        output = process.communicate(timeout=20)[0].decode()
    assert process.returncode != 0
    assert "SIGTERM" in output
    assert not list((base / "model").iterdir())


# -- labels

STRANGE = [
    "007",
    "NA",
    "a,b",
    "True",
    "été",
    'say "hi"',
    "1e3",
    "null",
    "a b",
    "日本",
    "1.0",
    "0x1",
    "-",
    "'q'",
]


@trees
def test_labels_come_back_as_written(run_train, start, tmp_path):
    import csv

    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows(
        [label, i, 0] for i, label in enumerate(STRANGE) for _ in "ab"
    )
    base = lay_out(tmp_path / "ml", {"training": {"d.csv": text.getvalue()}})
    assert run_train(base).code == 0
    server = start(base)
    body = "".join(f"{i},0\n" for i in range(len(STRANGE)))
    assert [row for (row,) in csv.reader(io.StringIO(server.predict(body).text))] == STRANGE
    document = json.loads(server.predict(body, Accept="application/json").body)
    assert [row["predicted_label"] for row in document["predictions"]] == STRANGE


@tables
def test_the_server_answers_as_training_saw_the_data(shared_server, learned):
    """It is wrong as often, or as far, as train said."""
    answers, scored = shared_server.predict("\n".join(ROWS)).text.splitlines(), metrics(learned)
    if ALGORITHM.numbers:
        squares = [(float(a) - float(b)) ** 2 for a, b in zip(answers, TARGETS, strict=True)]
        assert sum(squares) / len(squares) == pytest.approx(scored["training_rmse"] ** 2, rel=1e-3)
    else:
        right = sum(a == b for a, b in zip(answers, LABELS, strict=True))
        assert right / 150 == pytest.approx(scored["training_accuracy"], abs=1e-6)
