"""The process engine honours what an image says of how it is run: its ENV, and the packages of its lock files."""

import json
import os
import shutil
import sys
from pathlib import Path

import pytest

from localaws import images
from localaws.engines.process import ExecError, ProcessEngine, Spec, StartError, Unpacked
from localaws.state import locate

TELL = """#!/usr/bin/env python3
import json, os, sys
print("told=" + json.dumps([sys.argv[0], sys.prefix, os.getcwd(), dict(os.environ)]))
"""
REPOSITORY = locate.ROOT
LOCKS = sorted((locate.ROOT / "container/decision_trees").glob("requirements-*.lock"))


@pytest.fixture
def image(tmp_path):
    """Make an unpacked image of files and an ENV."""

    def make(files: dict[str, str], *environment: str, **config) -> Unpacked:
        for path, text in files.items():
            file = tmp_path / "root" / path
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text(text)
            file.chmod(0o755)
        return Unpacked(tmp_path / "root", {"Env": list(environment), **config})

    return make


@pytest.fixture
def start(tmp_path):
    """Run an image's `train` to its end; the lines that it wrote."""
    engine = ProcessEngine(tmp_path / "home", {})

    def run(image: Unpacked, **variables: str) -> list[str]:
        lines = []
        (tmp_path / "ml").mkdir(exist_ok=True)
        container = engine.start(Spec("a test", image, "train", tmp_path / "ml", variables), lines.append)
        assert container.wait(60)
        return lines

    yield run
    engine.close()
    assert not list((tmp_path / "home/processes").glob("*"))


def told(lines: list[str]) -> tuple[Path, Path, Path, dict]:
    [line] = [line for line in lines if line.startswith("told=")]
    program, prefix, folder, variables = json.loads(line.removeprefix("told="))
    return Path(program), Path(prefix), Path(folder), variables


def test_a_program_is_found_along_the_images_path(image, start):
    made = image(
        {
            "opt/program/stack/train": TELL,
            "opt/program/later/train": "#!/bin/sh\n",
            "opt/program/train": "no",
        },
        "PATH=/opt/program:/opt/venv/bin:/opt/program/stack:/opt/program/later:/usr/bin",
        WorkingDir="/opt/program/later",
    )
    (made.root / "opt/program/train").chmod(0o644)  # Docker goes on to the next folder, too
    program, prefix, folder, variables = told(start(made))
    assert program == made.root / "opt/program/stack/train"
    assert folder == made.root / "opt/program/later"
    assert prefix == Path(sys.prefix), "an image without locks runs with this machine's Python"
    folders = [str(made.root / "opt/program" / name) for name in ("", "stack", "later")]
    expected = [*folders, str(Path(sys.executable).parent), *os.environ["PATH"].split(":")]
    assert [folder.rstrip("/") for folder in variables["PATH"].split(":")] == [
        folder.rstrip("/") for folder in expected
    ]


def test_the_images_variables_reach_the_program_unless_they_are_paths_that_are_not_here(image, start):
    made = image(
        {"opt/program/train": TELL},
        "PATH=/opt/program",
        "COLOUR=blue",
        "EMPTY=",
        "EQUATION=a=b",
        "ALGORITHM_DIR=/opt/program",
        "LD_LIBRARY_PATH=/opt/venv/lib:/usr/lib",
        "PYTHONPATH=/opt/nothing:/opt/program/../program",
        "OVERRULED=image",
    )
    variables = told(start(made, OVERRULED="job"))[3]
    program = str(made.root / "opt/program")
    asked = {name: variables.get(name) for name in ("COLOUR", "EMPTY", "EQUATION", "OVERRULED")}
    assert asked == {"COLOUR": "blue", "EMPTY": "", "EQUATION": "a=b", "OVERRULED": "job"}
    assert variables["ALGORITHM_DIR"] == variables["PYTHONPATH"] == program
    assert "LD_LIBRARY_PATH" not in variables


@pytest.mark.parametrize(
    ("path", "mode", "words"),
    [
        ("/opt/program", None, 'exec: "train": executable file not found in $PATH. None is in /opt/program of the image, whose PATH is /opt/program'),
        ("/opt/program:/opt/program/stack", 0o644, 'exec: "train": executable file not found in $PATH. There is one in /opt/program/stack of the image, which is not '
         "executable: chmod"),
        ("/usr/bin:/opt/program", 0o755, 'exec: "train": executable file not found in $PATH. None is in /opt/program of the image, whose PATH is /usr'),
    ],
    ids=["missing", "not executable", "not on PATH"],
)  # fmt: skip
def test_a_program_that_cannot_be_started_is_named(image, start, path, mode, words):
    made = image(
        {"opt/program/serve": TELL, **({"opt/program/stack/train": TELL} if mode else {})}, f"PATH={path}"
    )
    if mode:
        (made.root / "opt/program/stack/train").chmod(mode)
    with pytest.raises(StartError) as refused:
        start(made)
    assert words in str(refused.value)


@pytest.mark.parametrize(
    ("program", "line", "mend"),
    [
        ("#!/no/such/shell\n", "no such file or directory", "end with LF, not CRLF"),
        ("#!/bin/sh\r\necho 1\r\n", "no such file or directory", "end with LF, not CRLF"),
        ("\x7fELF\x02\x01\x01" + 9 * "\0" + "\x02\0\x3e\x01", "exec format error", "--platform linux/amd64"),
        ("no first line\n", "exec format error", "a script whose first line names an interpreter"),
    ],
    ids=["no interpreter", "CRLF", "another processor", "no script"],
)
def test_what_the_kernel_does_not_execute_is_told_in_its_words(image, start, program, line, mend):
    made = image({"opt/program/stack/train": program}, "PATH=/opt/program/stack")
    with pytest.raises(ExecError) as refused:
        start(made)
    assert refused.value.line == f"exec /opt/program/stack/train: {line}"
    assert mend in refused.value.mend and str(refused.value) == f"{refused.value.line}. {refused.value.mend}"


def test_an_image_runs_with_the_packages_of_its_locks_alone(image, start):
    code = "#!/usr/bin/env python3\nimport sklearn\nprint('here')\nimport pandas\n"
    locks = {f"opt/program/{lock.name}": lock.read_text() for lock in LOCKS}
    lines = start(image({"opt/program/train": code, **locks}, "PATH=/opt/program"))
    assert "here" in lines
    assert lines[-1] == "ModuleNotFoundError: No module named 'pandas'"


def test_packages_that_cannot_be_installed_are_the_reason_of_the_failure(image, start, monkeypatch):
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    lock = "nowhere==1.0 --hash=sha256:" + "0" * 64 + "\n"
    made = image(
        {"opt/program/train": TELL, "opt/program/requirements-train.lock": lock}, "PATH=/opt/program"
    )
    with pytest.raises(StartError, match=r"uv cannot install nowhere==1.0: .*container/lock\.sh"):
        start(made)


@pytest.fixture
def algorithm(tmp_path, monkeypatch):
    """Build an algorithm from the text of its training.py, with the packages of decision_trees."""
    monkeypatch.setattr(locate, "ROOT", tmp_path)
    monkeypatch.setenv("LOCALAWS_HOME", str(tmp_path / "home"))
    container = tmp_path / "container"
    for path in ("stack/train", "stack/serve", "mine/training.py", "mine/predictor.py"):
        (container / path).parent.mkdir(parents=True, exist_ok=True)
        (container / path).write_text("#!/bin/sh\n" if path.startswith("stack") else "")
    for lock in LOCKS:
        shutil.copy(lock, container / "mine")

    shutil.copy(REPOSITORY / "container/refuse.sh", container)

    def build(training: str, target: str = "both", **files: str) -> images.Image:
        (container / "mine/training.py").write_text(training)
        for name, text in files.items():
            (container / "mine" / f"{name}.py").write_text(text)
        return images.build("mine", "mine", target=target)

    return build


def test_a_build_imports_the_modules_as_the_image_will(algorithm):
    image = algorithm(
        "import helper, sklearn\n", helper="import os\nopen(os.environ['ALGORITHM_DIR'] + '/helper.py')\n"
    )
    assert "helper.py" in image.files and "requirements-train.lock" in image.files


def test_an_image_for_one_verb_has_its_packages_alone(algorithm, tmp_path):
    sklearn = "import sklearn\n"  # which only `train` lists
    trains = algorithm(sklearn, "train", predictor="import flask\n")
    assert {"requirements-train.lock", "stack/serve"} <= set(trains.files)
    assert "requirements-serve.lock" not in trains.files
    assert images.changed("mine") == []
    with pytest.raises(
        ValueError, match=r"container/mine/predictor\.py, line 1: .*No module named 'sklearn'"
    ):
        algorithm(sklearn, "serve", predictor=sklearn)
    serves = algorithm(sklearn, "serve", predictor="import flask\n")
    assert "requirements-train.lock" not in serves.files and serves.digest != trains.digest
    assert images.changed("mine") == []
    (tmp_path / "container/mine/predictor.py").write_text("# changed\n")
    assert images.changed("mine") == ["container/mine/predictor.py"]


@pytest.mark.parametrize(
    ("training", "files", "words"),
    [
        ("x = 1\ndef f(:\n", {}, "container/mine/training.py, line 2: invalid syntax: def f(:"),
        ("'''", {}, "container/mine/training.py, line 1: unterminated triple-quoted string"),
        ("a\0b", {}, "source code string cannot contain null bytes"),
        (
            "\nimport helper\n",
            {"helper": "\n\nimport pandas\n"},
            "container/mine/helper.py, line 3: ModuleNotFoundError: No module named 'pandas'. Its package stands in "
            "neither requirements-train.txt nor requirements-serve.txt of container/mine? Put it there, then: "
            "container/lock.sh mine",
        ),
        ("", {"predictor": "print('{}')\n1 / 0\n"}, "container/mine/predictor.py, line 2: ZeroDivisionError: division by zero"),
        ("import sys\nsys.exit(3)", {}, "container/mine/training.py, line 2: SystemExit: 3"),
        ("import json\njson.loads('x')", {}, "container/mine/training.py, line 2: json.decoder.JSONDecodeError"),
        ("import os\nos.abort()", {}, "container/mine: importing training and predictor ended with -6"),
    ],
    ids=["syntax", "unterminated", "nul", "missing package", "predictor", "exit", "inside a library", "abort"],
)  # fmt: skip
def test_a_build_names_file_line_and_cause(algorithm, training, files, words):
    with pytest.raises(ValueError) as refused:
        algorithm(training, **files)
    assert words in str(refused.value)
    assert not images.listed(), "what cannot be imported becomes no image"


def test_a_build_holds_the_modules_to_what_the_stack_calls(algorithm, tmp_path):
    shutil.rmtree(tmp_path / "container/stack")
    shutil.copytree(REPOSITORY / "container/stack", tmp_path / "container/stack")
    train = "def train(hyperparameters, channels, model_dir):\n    return {}\n"
    with pytest.raises(ValueError, match=r"container/mine: training\.py defines no train\("):
        algorithm("def trane(hyperparameters, channels, model_dir): pass\n")
    with pytest.raises(
        ValueError, match=r"container/mine: predictor\.py defines predct_fn; did you mean predict_fn\?"
    ):
        algorithm(train, predictor="def predct_fn(data, model): return data\n")
    assert algorithm(train, predictor="").files


def test_a_build_does_not_wait_for_ever(algorithm, monkeypatch):
    monkeypatch.setattr(images.environments, "IMPORT_SECONDS", 0.5)
    with pytest.raises(ValueError, match=r"takes more than 0\.5 s: what takes long belongs into a function"):
        algorithm("while True: pass\n")


def test_a_list_of_packages_without_its_lock_is_refused(algorithm, tmp_path):
    (tmp_path / "container/mine/requirements-serve.txt").write_text("numpy\n")
    (tmp_path / "container/mine/requirements-serve.lock").unlink()
    with pytest.raises(
        ValueError, match=r"requirements-serve\.lock is missing: make it with container/lock\.sh mine"
    ):
        algorithm("")
