"""container/environment: an algorithm's packages, all of them and no others, without Docker and without a network."""

import hashlib
import os
import re
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
LOCKS = sorted((ROOT / "container/decision_trees").glob("requirements-*.lock"))


def wheel(folder: Path, name: str, files: dict[str, str], version: str = "1.0") -> str:
    """Make a wheel of some files and return its entry of a lock file."""
    folder.mkdir(exist_ok=True)
    path, info = folder / f"{name}-{version}-py3-none-any.whl", f"{name}-{version}.dist-info"
    files = files | {
        f"{info}/METADATA": f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n",
        f"{info}/WHEEL": "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
    }
    files[f"{info}/RECORD"] = "".join(f"{file},,\n" for file in [*files, f"{info}/RECORD"])
    with zipfile.ZipFile(path, "w") as archive:
        for file, text in files.items():
            archive.writestr(file, text)
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    return f"{name}=={version} \\\n    --hash=sha256:{digest}\n"


class Clone:
    """A folder with the program in it and a package index that is a folder of wheels."""

    def __init__(self, folder: Path, python: Path = Path(sys.executable)):
        self.folder, self.wheels, self.python = folder / "ein täller", folder / "wheels", python
        self.wheels.mkdir()
        for name in ("container/environment", "utils/uv_pip.py"):
            (self.folder / name).parent.mkdir(parents=True)
            shutil.copy(ROOT / name, self.folder / name)
        kept = {name: value for name, value in os.environ.items() if not name.startswith(("PIP_", "UV_"))}
        self.env = kept | {
            "PIP_CONFIG_FILE": os.devnull,
            "PIP_NO_INDEX": "1",
            "PIP_FIND_LINKS": self.wheels.as_uri(),
        }

    def lock(self, *entries: str, name: str = "requirements-train.lock") -> Path:
        path = self.folder / "container/mine" / name
        path.parent.mkdir(exist_ok=True)
        path.write_text("".join(entries))
        return path

    def start(self, *locks: Path) -> subprocess.Popen:
        command = [self.python, "-I", self.folder / "container/environment", *locks]
        return subprocess.Popen(
            command, env=self.env, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )

    def make(self, *locks: Path) -> tuple[Path, str]:
        """The environment's Python, and what was told."""
        process = self.start(*locks)
        out, told = process.communicate()
        assert process.returncode == 0, told
        return Path(out.removesuffix("\n")), told

    def refused(self, *locks: Path) -> str:
        process = self.start(*locks)
        out, told = process.communicate()
        assert (process.returncode, out) == (1, ""), told
        assert "Traceback" not in told
        return told.splitlines()[-1]


@pytest.fixture
def clone(tmp_path):
    return Clone(tmp_path)


def run(python: Path, code: str) -> subprocess.CompletedProcess:
    return subprocess.run([python, "-I", "-c", code], capture_output=True, text=True)


def printed(python: Path, code: str) -> str:
    done = run(python, code)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def test_it_has_what_the_locks_name_and_nothing_else(clone):
    python, told = clone.make(*LOCKS)
    assert "making build/environments/" in told and "uv installs" not in told, "something was downloaded"
    listed = "import importlib.metadata as m; print(*(d.name for d in m.distributions()))"
    names = {re.sub(r"[-_.]+", "-", name).lower() for name in printed(python, listed).split()}
    locked = {name for lock in LOCKS for name in re.findall(r"(?m)^([a-z0-9-]+)==", lock.read_text())}
    assert names <= locked and {"numpy", "scikit-learn", "onnxruntime", "flask", "gunicorn"} <= names
    assert printed(python, "import sklearn.tree, onnx, onnxruntime, flask, gunicorn; print(1)") == "1"
    assert "No module named 'pandas'" in run(python, "import pandas").stderr
    assert clone.make(*reversed(LOCKS)) == (python, ""), (
        "the second time it is there, and there is nothing to tell"
    )


def test_a_package_that_is_not_listed_fails_as_it_would_in_an_image(tmp_path):
    shutil.copytree(ROOT / "container", tmp_path / "container", ignore=shutil.ignore_patterns("__pycache__"))
    training = tmp_path / "container/decision_trees/training.py"
    training.write_text("import pandas\n" + training.read_text())
    data = tmp_path / "ml/input/data/training"
    data.mkdir(parents=True)
    shutil.copy(ROOT / "data/iris.csv", data)
    env = {
        "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
        "SAGEMAKER_BASE_DIR": str(tmp_path / "ml"),
    }
    command = [tmp_path / "container/run", "decision_trees", "train"]
    done = subprocess.run(command, env=env, capture_output=True, text=True)
    assert done.returncode != 0
    assert "ModuleNotFoundError: No module named 'pandas'" in (tmp_path / "ml/output/failure").read_text()


def test_run_without_a_python_says_make_setup(tmp_path):
    shutil.copytree(ROOT / "container", tmp_path / "container", ignore=shutil.ignore_patterns("__pycache__"))
    (tmp_path / "bin").mkdir()
    for program in ("dirname", "sh"):
        (tmp_path / "bin" / program).symlink_to(shutil.which(program))
    command = [tmp_path / "container/run", "decision_trees", "train"]
    done = subprocess.run(command, env={"PATH": str(tmp_path / "bin")}, capture_output=True, text=True)
    assert done.returncode == 1 and "make setup" in done.stderr


def test_run_names_the_word_that_is_wrong():
    for words, said in (
        (["knn", "trian"], "'trian' is neither train nor serve"),
        (["nope", "train"], "there is no container/nope/"),
    ):
        done = subprocess.run([ROOT / "container/run", *words], capture_output=True, text=True)
        assert done.returncode == 2 and said in done.stderr


def test_uv_installs_what_is_not_there_compiled_and_with_its_programs(clone):
    entry = wheel(
        clone.wheels,
        "tiny",
        {
            "tiny.py": "def main(): print(__file__)\n",
            "tiny-1.0.dist-info/entry_points.txt": "[console_scripts]\ntiny=tiny:main\n",
        },
    )
    elsewhere = "only-there==9 ; sys_platform == 'nowhere' \\\n    --hash=sha256:" + "0" * 64 + "\n"
    threadpoolctl = next(
        text for text in re.split(r"\n(?=\S)", LOCKS[1].read_text()) if text.startswith("threadpoolctl==")
    )
    python, told = clone.make(clone.lock(threadpoolctl, "\n", entry, elsewhere))
    assert "2 packages, of which uv installs tiny==1.0" in told
    assert (python.parents[1] / "requirements.lock").read_text() == entry
    site = Path(printed(python, "import tiny, threadpoolctl; print(tiny.__file__)")).parent
    assert site.is_relative_to(python.parents[1])
    assert list(site.glob("__pycache__/tiny.*.pyc"))
    assert subprocess.check_output([python.with_name("tiny")], text=True).strip() == f"{site}/tiny.py"


def test_a_build_for_cpus_does_without_what_cuda_needs(clone):
    """By the hashes of the lock, which says the version without its local part; and where none is offered, with it."""
    default, library = (wheel(clone.wheels, name, {f"{name}.py": ""}) for name in ("net", "cuda_library"))
    clone.lock(library, name="requirements-train.cuda.lock")
    python, told = clone.make(clone.lock(default))
    assert "1 package, of which uv installs net==1.0, cuda_library==1.0" in told
    assert printed(python, "import net, cuda_library; print(1)") == "1"
    for_cpus = wheel(clone.wheels, "net", {"net.py": "cpu = True\n"}, "1.0+cpu")
    assert "the file is not the one that was locked" in clone.refused(clone.lock(default, "# changed\n"))
    lock = clone.lock(f"{default.rstrip()} \\\n{for_cpus.splitlines()[1]}\n")
    clone.env |= {"FORCE_COLOR": "1", "CLICOLOR_FORCE": "1"}  # as in a notebook
    python, told = clone.make(lock)
    assert "1 package, of which uv installs net==1.0+cpu\n" in told and "\033" not in told
    assert printed(python, "import net; print(net.cpu)") == "True"
    assert "No module named 'cuda_library'" in run(python, "import cuda_library").stderr
    assert clone.make(lock) == (python, "")


def test_it_is_made_once_however_many_ask(clone):
    lock = clone.lock(wheel(clone.wheels, "tiny", {"tiny.py": ""}))
    asking = [clone.start(lock) for _ in range(4)]
    answers = [(process.communicate(), process.returncode) for process in asking]
    assert [code for _, code in answers] == [0] * 4, answers
    assert len({out for (out, _), _ in answers}) == 1
    assert sum("making" in told for (_, told), _ in answers) == 1


def test_one_that_was_interrupted_is_made_anew(clone):
    lock = clone.lock(wheel(clone.wheels, "tiny", {"tiny.py": ""}))
    folder = clone.make(lock)[0].parents[1]
    (folder / "ready").unlink()
    (folder / "left-over").touch()
    assert "making" in clone.make(lock)[1]
    assert not (folder / "left-over").exists()


def test_no_package_at_all(clone):
    python, _ = clone.make(clone.lock("# nothing\n"))
    assert printed(python, "import importlib.metadata as m; print(*m.distributions())") == ""


def test_a_package_that_is_nowhere_is_named_with_the_mend(clone):
    entry = wheel(clone.wheels, "nowhere", {})
    (clone.wheels / "nowhere-1.0-py3-none-any.whl").unlink()
    said = clone.refused(clone.lock(entry))
    assert said.startswith("environment: uv cannot install nowhere==1.0: ")
    assert "container/lock.sh" in said


def test_without_a_network_it_says_so(clone):
    del clone.env["PIP_NO_INDEX"], clone.env["PIP_FIND_LINKS"]
    clone.env |= {"PIP_INDEX_URL": "http://127.0.0.1:1/simple", "UV_HTTP_RETRIES": "0"}
    said = clone.refused(clone.lock(wheel(clone.wheels, "tiny", {})))
    assert "uv cannot install tiny==1.0: connect this machine; behind a company's index: pip config" in said


def test_another_file_than_the_locked_one_is_refused(clone):
    entry = wheel(clone.wheels, "tiny", {"tiny.py": ""})
    wheel(clone.wheels, "tiny", {"tiny.py": "evil"})
    said = clone.refused(clone.lock(entry))
    assert "uv cannot install tiny==1.0: the file is not the one that was locked" in said


def test_two_versions_of_one_package_are_refused(clone):
    one, two = (wheel(clone.wheels, "tiny", {}, version) for version in ("1.0", "2.0"))
    said = clone.refused(clone.lock(one), clone.lock(two, name="requirements-serve.lock"))
    assert said.startswith("environment: tiny is locked as 1.0 and as 2.0")


def test_a_list_that_was_not_locked_again_is_seen(clone):
    lock = clone.lock(wheel(clone.wheels, "tiny", {}))
    lock.with_suffix(".txt").write_text("# why\ntiny\n")
    clone.make(lock)
    lock.with_suffix(".txt").write_text("tiny\nMore_Things>=2  # why\n")
    said = clone.refused(lock)
    assert "lists More_Things, which requirements-train.lock does not have: container/lock.sh mine" in said
    for fits in ("tiny==1.0", "Tiny>=0.5,<2", "tiny ; python_version > '3'", "tiny[more]~=1.0 # why"):
        lock.with_suffix(".txt").write_text(fits)
        clone.make(lock)
    lock.with_suffix(".txt").write_text("tiny<1.0\n")
    said = clone.refused(lock)
    assert "asks for tiny<1.0, and requirements-train.lock has 1.0: container/lock.sh mine" in said
    lock.with_suffix(".txt").write_text("tiny = 1.0\n")
    assert "requirements-train.txt: 'tiny = 1.0' is no requirement, such as" in clone.refused(lock)


def test_a_lock_that_is_not_there_is_named(clone):
    said = clone.refused(clone.folder / "container/mine/requirements-train.lock")
    assert said.endswith("No such file or directory; make it: container/lock.sh mine")


@pytest.fixture
def workshop(tmp_path):
    """A Python of its own in the place of .venv's, in which two packages share a folder."""
    subprocess.check_call([sys.executable, "-m", "venv", "--without-pip", tmp_path / "venv"])
    python = tmp_path / "venv/bin/python3"
    site = Path(printed(python, "import sysconfig; print(sysconfig.get_path('purelib'))"))

    def install(name: str, *files: str) -> str:
        info = f"{name.replace('-', '_')}-1.0.dist-info"
        files = [*files, f"{info}/METADATA", f"{info}/RECORD"]
        for file in files:
            (site / file).parent.mkdir(parents=True, exist_ok=True)
            (site / file).touch()
        (site / info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n")
        (site / info / "RECORD").write_text("".join(f"{file},,\n" for file in files))
        return f"{name}==1.0 \\\n    --hash=sha256:{'0' * 64}\n"

    return Clone(tmp_path, python), site, install


def test_a_folder_that_packages_share_is_shared_by_those_that_are_locked(workshop):
    clone, _, install = workshop
    one = install("one-part", "shared/one.py", "shared/deep/a/__init__.py", "shared/deep/a/data.txt")
    two = install("two-part", "shared/two.py", "shared/deep/b.py")
    alone, _ = clone.make(clone.lock(one))
    assert printed(alone, "import shared.one, shared.deep.a; print(1)") == "1"
    assert "No module named 'shared.two'" in run(alone, "import shared.two").stderr
    assert "No module named 'shared.deep.b'" in run(alone, "import shared.deep.b").stderr
    both, _ = clone.make(clone.lock(one, two))
    assert printed(both, "import shared.one, shared.two, shared.deep.b; print(1)") == "1"


def test_what_a_package_has_beside_its_modules(workshop):
    clone, site, install = workshop
    entry = install(
        "whole",
        "whole.py",
        "whole.libs/libx.so",
        "whole.pth",
        "../../../bin/whole",
        "../../../share/whole.txt",
    )
    prefix = site.parents[2]
    (site / "whole.pth").write_text("import sys; sys.whole = 1\n")
    (prefix / "bin/whole").write_text(f"#!{prefix}/bin/python3\nimport sys; print(sys.prefix)\n")
    subprocess.check_call([clone.python, "-I", "-m", "compileall", "-q", site / "whole.py"])
    python, _ = clone.make(clone.lock(entry))
    folder = python.parents[1]
    assert printed(python, "import sys; print(sys.whole)") == "1"
    assert (
        Path(printed(python, "import whole; print(whole.__cached__)")).resolve().parent
        == site / "__pycache__"
    )
    assert (folder / "share/whole.txt").exists()
    assert (folder / site.relative_to(prefix) / "whole.libs/libx.so").exists()
    script = (folder / "bin/whole").read_text()
    assert script.startswith(f"#!{folder}/bin/python3\n"), "it would run with the packages of .venv"


def test_an_upgrade_of_the_workshops_own_makes_another_environment(workshop):
    clone, site, install = workshop
    lock = clone.lock(install("tiny", "tiny.py"))
    first, _ = clone.make(lock)
    (site / "tiny-1.0.dist-info").rename(site / "tiny-2.0.dist-info")
    assert "no tiny==1.0, nor what would install it: make .venv first, by make setup" in clone.refused(lock)
    (site / "tiny-2.0.dist-info").rename(site / "tiny-1.0.dist-info")
    assert clone.make(lock) == (first, "")


def test_lock_pins_the_stacks_packages_and_the_algorithms(tmp_path):
    """In a folder of its own, with a package index that is a folder of wheels."""
    wheels, container = tmp_path / "wheels", tmp_path / "container"
    for name in ("stacked", "mine", "upgraded"):
        wheel(wheels, name, {})
    wheel(wheels, "upgraded", {}, "2.0")
    container.mkdir()
    shutil.copy(ROOT / "container/lock.sh", container)
    (tmp_path / "utils").mkdir()
    shutil.copy(ROOT / "utils/uv_pip.py", tmp_path / "utils")
    (tmp_path / "requirements.lock").write_text("upgraded==1.0\n")
    for path, text in {
        "stack/train": "stacked\n",
        "stack/serve": "# no\n",
        "a/train": "mine\n",
        "a/serve": "",
        "b/train": "",
        "b/serve": "upgraded\n",
    }.items():
        folder, verb = path.split("/")
        (container / folder).mkdir(exist_ok=True)
        (container / folder / f"requirements-{verb}.txt").write_text(text)
    env = {
        "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
        "PIP_CONFIG_FILE": os.devnull,
        "PIP_NO_INDEX": "1",
        "PIP_FIND_LINKS": str(wheels),
    }

    def lock(*names: str) -> str:
        return subprocess.check_output([container / "lock.sh", *names], env=env, text=True)

    def pinned(path: str) -> list[str]:
        return re.findall(r"(?m)^[a-z]+==[\d.]+", (container / path).read_text())

    assert lock("a") == "container/a/requirements-train.lock\ncontainer/a/requirements-serve.lock\n"
    assert pinned("a/requirements-train.lock") == ["mine==1.0", "stacked==1.0"]
    assert pinned("a/requirements-serve.lock") == []
    assert not (container / "b/requirements-serve.lock").exists()
    assert lock().count("container/") == 4, "all of them, and the stack is none"
    assert pinned("b/requirements-train.lock") == ["stacked==1.0"]
    assert pinned("b/requirements-serve.lock") == ["upgraded==1.0"], "as this machine has it"
    (container / "b/requirements-serve.txt").write_text("upgraded>1\n")
    lock("b")
    assert pinned("b/requirements-serve.lock") == ["upgraded==2.0"], (
        "as it asks for, and this machine has not"
    )
    # A build for CPUs is this machine's alone: its hash is the list's to say. What CUDA needs has a lock of its own.
    for_cpus = wheel(wheels, "mine", {}, "1.0+cpu").split()[-1]
    wheel(wheels, "nvidia", {})
    (container / "a/requirements-train.txt").write_text(f"mine==1.0 {for_cpus}  # Python 3.11\nnvidia\n")
    assert "container/a/requirements-train.cuda.lock\n" in lock("a")
    assert pinned("a/requirements-train.lock") == ["mine==1.0", "stacked==1.0"]
    assert pinned("a/requirements-train.cuda.lock") == ["nvidia==1.0"]
    text = (container / "a/requirements-train.lock").read_text()
    assert text.startswith(f"mine==1.0 \\\n    {for_cpus} \\\n    --hash=sha256:")
    (container / "a/requirements-train.txt").write_text("mine\n")
    lock("a")
    assert not (container / "a/requirements-train.cuda.lock").exists() and "nvidia" not in lock("a")
    (container / "b/requirements-serve.txt").write_text("misspelt\n")
    done = subprocess.run([container / "lock.sh", "b"], env=env, capture_output=True, text=True)
    assert done.returncode == 1
    assert "misspelt was not found" in done.stderr
    assert "container/b/requirements-serve.txt cannot be pinned" in done.stderr
    assert pinned("b/requirements-serve.lock") == ["upgraded==2.0"], "what was there stays"
    assert not [*container.glob("*/*.new"), *container.glob("*/*.exact")]
    for wrong in (["nothing"], ["stack"], ["a", "b"]):
        done = subprocess.run([container / "lock.sh", *wrong], env=env, capture_output=True, text=True)
        assert done.returncode == 2 and "usage: container/lock.sh [ALGORITHM]" in done.stderr
        assert ("there is no container/nothing" in done.stderr) == ("nothing" in wrong)
