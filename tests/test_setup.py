"""utils/setup.sh as a program: in a clone of a few files, whose lock file pins packages that lie in a folder."""

import hashlib
import http.server
import json
import os
import shutil
import ssl
import subprocess
import sys
import threading
import zipfile
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from ipaddress import ip_address
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from workshop import ROOT

UV = Path(sys.executable).with_name("uv")
# The clone's own package, installed as the real one is, but by a backend that needs nothing.
PYPROJECT = """[build-system]
requires = []
build-backend = "backend"
backend-path = ["."]
"""
BACKEND = """import shutil
def build_editable(folder, config_settings=None, metadata_directory=None):
    return shutil.copy("skeleton-1.0-py3-none-any.whl", folder).rpartition("/")[2]
"""


def wheel(folder: Path, name: str, scripts: dict[str, str] | None = None) -> str:
    """Make a wheel of one module, and of scripts, and return its lines of a lock file."""
    folder.mkdir(exist_ok=True)
    path = folder / f"{name}-1.0-py3-none-any.whl"
    files = {
        f"{name}.py": "",
        **{f"{name}-1.0.data/scripts/{script}": text for script, text in (scripts or {}).items()},
        f"{name}-1.0.dist-info/METADATA": f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n",
        f"{name}-1.0.dist-info/WHEEL": "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
    }
    record = f"{name}-1.0.dist-info/RECORD"
    files[record] = "".join(f"{file},,\n" for file in [*files, record])
    with zipfile.ZipFile(path, "w") as archive:
        for file, text in files.items():
            entry = zipfile.ZipInfo(file)
            entry.external_attr = 0o100755 << 16  # scripts are installed as they are in the archive
            archive.writestr(entry, text)
    return (
        f"{name}==1.0 \\\n    --hash=sha256:{hashlib.sha256(path.read_bytes()).hexdigest()}\n    # via here\n"
    )


class Clone:
    """A folder with what set-up needs, and the environment that it runs in."""

    def __init__(self, folder: Path):
        self.folder = folder / "ein täller"
        self.wheels = folder / "wheels"
        self.bin = folder / "bin"
        self.env = {
            "PATH": f"{self.bin}:/usr/bin:/bin",
            "HOME": str(folder),
            "LANG": "C.UTF-8",
            "PYTHON": sys.executable,
            "PIP_CONFIG_FILE": os.devnull,  # pip then reads no other either
            "PIP_NO_INDEX": "1",
            "PIP_FIND_LINKS": self.wheels.as_uri(),
        }

    def program(self, name: str, text: str) -> None:
        """Put a program on the clone's PATH, and none of this machine's before it."""
        self.bin.mkdir(exist_ok=True)
        (self.bin / name).write_text(text)
        (self.bin / name).chmod(0o755)

    def lock(self, *entries: str) -> None:
        (self.folder / "requirements.lock").write_text("".join(entries))

    def run(self, *command: str, fails: bool = False) -> str:
        """What the command prints, run in the clone."""
        done = subprocess.run(
            command,
            cwd=self.folder,
            env=self.env,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        assert (done.returncode != 0) == fails, done.stdout
        return done.stdout

    def has(self, module: str) -> bool:
        command = [self.folder / ".venv/bin/python", "-c", f"import {module}"]
        return subprocess.run(command, stderr=subprocess.DEVNULL).returncode == 0


@pytest.fixture(scope="module")
def first(tmp_path_factory):
    """A clone where no uv is on PATH, set up for the first time, with what it printed."""
    clone = Clone(tmp_path_factory.mktemp("first"))
    for name in ("Makefile", "utils/setup.sh", "utils/uv_pip.py"):
        (clone.folder / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / name, clone.folder / name)
    (clone.folder / "pyproject.toml").write_text(PYPROJECT)
    (clone.folder / "backend.py").write_text(BACKEND)
    wheel(clone.folder, "skeleton")
    # What would be installed by apt-get where it is missing is none of these tests' business.
    clone.program("nginx", "#!/bin/sh\n")
    (clone.folder / "container/stack/tables").mkdir(parents=True)
    (clone.folder / "container/stack/tables/fast.c").touch()
    (clone.folder / "container/compile.sh").symlink_to(clone.bin / "nginx")
    # What an interrupted set-up leaves: a Python, and packages without a sign that they are complete.
    (clone.folder / ".venv/bin").mkdir(parents=True)
    (clone.folder / ".venv/bin/python").symlink_to(sys.executable)
    (clone.folder / ".venv/left-over").touch()
    uv = wheel(clone.wheels, "uv", {"uv": f"#!/bin/sh\nexec '{UV}' \"$@\"\n"})
    clone.lock(wheel(clone.wheels, "tiny"), uv, wheel(clone.wheels, "zebra"))
    return clone, clone.run("make", "setup")


@pytest.fixture
def clone(first, tmp_path):
    """A clone that was set up before and has uv on its PATH; what is new in its lock is the test's."""
    fresh = Clone(tmp_path)
    shutil.copytree(first[0].folder, fresh.folder, symlinks=True)
    fresh.program("nginx", "#!/bin/sh\n")
    (fresh.bin / "uv").symlink_to(UV)
    return fresh


def test_pip_fetches_uv_and_uv_installs_the_rest(first):
    clone, shown = first
    assert shown.index("Successfully installed uv-1.0") < shown.index("Installed 2 packages in"), shown
    assert "Successfully installed tiny" not in shown, "pip did it"
    assert clone.has("tiny") and clone.has("zebra") and clone.has("pip") and clone.has("skeleton")


def test_byte_code_is_there_since_make_lets_python_write_none(first):
    assert list(first[0].folder.glob(".venv/lib/*/site-packages/__pycache__/tiny.*.pyc"))


def test_what_an_interrupted_set_up_left_is_made_anew(first):
    assert not (first[0].folder / ".venv/left-over").exists()


def test_a_second_run_says_that_it_is_done_and_only_set_up_does(first):
    clone, shown = first
    version = ".".join(map(str, sys.version_info[:3]))
    assert shown.endswith(f"setup: done, .venv is ready: Python {version}\n")
    assert clone.run("make", "setup") == f"setup: done, .venv is ready: Python {version}\n"
    assert "setup" not in clone.run("make", "--dry-run", "labs", "test")


def test_a_venv_that_is_ready_is_kept(clone):
    (clone.folder / ".venv/mine").touch()
    clone.lock(wheel(clone.wheels, "more"))
    clone.run("make", "setup")
    assert clone.has("more") and (clone.folder / ".venv/mine").exists()


def test_pip_installs_where_uv_cannot(clone):
    clone.lock(wheel(clone.wheels, "other"))
    (clone.bin / "uv").unlink()
    clone.program("uv", "#!/bin/sh\necho no luck today\nexit 2\n")
    shown = clone.run("make", "setup")
    reason = shown.index("no luck today")
    said = shown.index("setup: uv cannot install them here, its reason is above. So pip does, which takes")
    assert reason < said < shown.index("Successfully installed other-1.0"), shown
    assert clone.has("other")


def test_a_package_that_is_nowhere_is_named_with_the_command_that_mends_it(clone):
    entry = wheel(clone.wheels, "nowhere")
    (clone.wheels / "nowhere-1.0-py3-none-any.whl").unlink()
    clone.lock(entry)
    shown = clone.run("make", "setup", fails=True)
    assert "No matching distribution found for nowhere==1.0" in shown
    assert "-m pip config set global.index-url https://…" in shown
    assert not (clone.folder / ".venv/ready").exists()


def test_a_file_that_the_lock_does_not_know_is_not_installed(clone):
    entry = wheel(clone.wheels, "known")
    wheel(clone.wheels, "known", {"another": "#!/bin/sh\n"})
    clone.lock(entry)
    assert "mismatch" in clone.run("make", "setup", fails=True).lower()
    assert not clone.has("known")


def test_a_python_that_does_not_fit_is_named(clone):
    clone.program("python3.9", "#!/bin/sh\necho 3.9\n")
    clone.env["PYTHON"] = "python3.9"
    shown = clone.run("utils/setup.sh", fails=True)
    assert "Python 3.11, 3.12 or 3.13 is needed; tried: python3.9 (3.9). Install one:" in shown
    clone.env["PYTHON"] = "/no/python"
    assert "tried: /no/python (does not run)" in clone.run("utils/setup.sh", fails=True)


def authority(folder: Path) -> tuple[Path, ssl.SSLContext]:
    """The certificate of an authority that nobody knows, and a server's side with one that it signed for loopback."""
    authority_key, server_key = (ec.generate_private_key(ec.SECP256R1()) for _ in range(2))
    issuer = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "a company")])
    now = datetime.now(UTC)

    def certificate(name: str, key, extension) -> bytes:
        subject = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, name)])
        built = (
            x509.CertificateBuilder(issuer, subject, key.public_key(), x509.random_serial_number())
            .not_valid_before(now - timedelta(days=1))
            .not_valid_after(now + timedelta(days=1))
            .add_extension(extension, critical=False)
            .sign(authority_key, hashes.SHA256())
        )
        return built.public_bytes(serialization.Encoding.PEM)

    bundle, server = folder / "a company.pem", folder / "server.pem"
    bundle.write_bytes(certificate("a company", authority_key, x509.BasicConstraints(True, None)))
    names = x509.SubjectAlternativeName([x509.IPAddress(ip_address("127.0.0.1"))])
    private = server_key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    server.write_bytes(private + certificate("index", server_key, names))
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(server)
    return bundle, context


@contextmanager
def package_index(folder: Path, context: ssl.SSLContext):
    """A package index over https that has the folder's wheels: its address, and who asked for what."""
    asked = []

    class Handler(http.server.SimpleHTTPRequestHandler):
        def __init__(self, *arguments):
            super().__init__(*arguments, directory=folder)

        def do_GET(self):
            asked.append((self.headers["User-Agent"].split("/")[0], self.path))
            super().do_GET()

        def log_message(self, *_):
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        server.socket = context.wrap_socket(server.socket, server_side=True)
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield f"https://127.0.0.1:{server.server_port}", asked
        finally:
            server.shutdown()
            thread.join()


def test_the_index_and_certificate_of_pips_file_and_the_wheels_of_its_variable_reach_uv(clone, tmp_path):
    bundle, context = authority(tmp_path)
    served = tmp_path / "served"
    (served / "simple").mkdir(parents=True)
    listed = wheel(served / "simple" / "listed", "listed")
    clone.lock(listed, wheel(clone.wheels, "linked"))
    with package_index(served, context) as (address, asked):
        configuration = tmp_path / "pip.conf"
        configuration.write_text(f"[global]\nindex-url = {address}/simple/\ncert = {bundle}\n")
        del clone.env["PIP_NO_INDEX"]
        clone.env["PIP_CONFIG_FILE"] = str(configuration)
        shown = clone.run("make", "setup")
    assert clone.has("listed") and clone.has("linked"), shown
    assert ("uv", "/simple/listed/listed-1.0-py3-none-any.whl") in asked
    assert {who for who, _ in asked} == {"uv"}, "pip asked, so uv had failed"


def test_what_else_pip_is_configured_to_reaches_uv(clone, tmp_path):
    (clone.bin / "uv").unlink()
    told = tmp_path / "told.json"
    recorder = f"import json, os, sys; json.dump([sys.argv[1:], dict(os.environ)], open({str(told)!r}, 'w'))"
    (tmp_path / "recorder.py").write_text(recorder)
    clone.program("uv", f"#!/bin/sh\nexec '{sys.executable}' '{tmp_path}/recorder.py' \"$@\"\n")
    configuration = tmp_path / "pip.conf"
    configuration.write_text(
        "[global]\nproxy = http://overruled:1\ntrusted-host =\n    one.example\n    two.example:8443\n"
        "[install]\nproxy = http://proxy.example:3128\nextra-index-url = https://more.example/simple\n"
        "[download]\nindex-url = https://not-for-install.example\n"
    )
    clone.env |= {
        "PIP_CONFIG_FILE": str(configuration),
        "PIP_CLIENT_CERT": "~/mine.pem",
        "PIP_TIMEOUT": "2.5",
    }
    clone.env |= {"PIP_PROXY": "", "PIP_CERT": "~/company.pem", "REQUESTS_CA_BUNDLE": "/etc/bundle.pem"}
    clone.run("make", "setup", "--always-make")
    arguments, environment = json.loads(told.read_text())
    text = " ".join(arguments)
    assert "--allow-insecure-host one.example --allow-insecure-host two.example:8443" in text
    assert "--index https://more.example/simple" in text
    assert f"--find-links {clone.wheels.as_uri()}" in text
    assert "--no-index" in arguments and "not-for-install" not in text
    assert environment["HTTPS_PROXY"] == environment["https_proxy"] == "http://proxy.example:3128"
    assert environment["SSL_CLIENT_CERT"] == f"{tmp_path}/mine.pem"
    assert environment["SSL_CERT_FILE"] == f"{tmp_path}/company.pem"
    assert environment["UV_HTTP_TIMEOUT"] == "3"

    clone.env |= {"PIP_CONFIG_FILE": os.devnull, "PIP_CERT": ""}
    clone.run("make", "setup", "--always-make")
    assert json.loads(told.read_text())[1]["SSL_CERT_FILE"] == "/etc/bundle.pem", "pip finds that by itself"
