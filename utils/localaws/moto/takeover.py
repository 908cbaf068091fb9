"""The home of an earlier version, which kept a journal of requests and a file for each record, taken over once."""

import base64
import contextlib
import datetime
import hashlib
import io
import json
import shutil
import sys
from pathlib import Path
from types import SimpleNamespace
from unittest import mock

import moto.s3.models
from moto.moto_api._internal import mock_random
from werkzeug import Request
from werkzeug.test import EnvironBuilder

from localaws.state.database import Database
from localaws.state.store import KIND

from . import gaps
from .backend import Backend


class _Clock(datetime.datetime):
    """The time that moto sees: that of the request that is done again."""

    at = 0.0

    @classmethod
    def now(cls, tz=None):
        return datetime.datetime.fromtimestamp(cls.at, tz)


def take_over(home: Path, database: Database, backend: Backend) -> None:
    """Bring what an earlier version left in `home` into the database, then delete its files; tell what cannot be brought."""
    for file in sorted(home.glob("sagemaker/*/*.json")):
        kind, content = KIND + file.parent.name, file.read_bytes()
        try:
            if "CreationTime" not in json.loads(content):
                raise ValueError("it has no CreationTime")
            database.put(kind, file.stem, content)
        except (ValueError, TypeError) as error:
            database.put_aside(kind, file.stem, content, str(error))
    journal = home / "moto" / "journal.jsonl"
    if journal.exists():
        _do_again(journal, database, backend)
    for folder in ("sagemaker", "moto"):
        shutil.rmtree(home / folder, ignore_errors=True)


def _do_again(journal: Path, database: Database, backend: Backend) -> None:
    """Let moto do the journal's requests, each at its time and with its seed, which give it its identifiers."""
    s3 = moto.s3.models
    patches = [
        mock.patch.object(module, "utcnow", lambda: _Clock.now(datetime.UTC).replace(tzinfo=None))
        for name, module in list(sys.modules.items())
        if name.startswith("moto.") and hasattr(module, "utcnow")
    ]
    patches.append(mock.patch.object(s3, "os", SimpleNamespace(urandom=mock_random.randbytes)))
    # Which images there are the registry's own files tell, as they are now.
    patches.append(mock.patch.object(gaps, "registry", mock.Mock(images=lambda name: [])))
    patches.append(
        mock.patch.object(s3, "datetime", SimpleNamespace(**{**vars(datetime), "datetime": _Clock}))
    )
    with contextlib.ExitStack() as stack:
        for patch in patches:
            stack.enter_context(patch)
        # The last line has no end where nobody was answered.
        for number, line in enumerate(journal.read_bytes().split(b"\n")[:-1], 1):
            name = str(number)
            try:
                entry = json.loads(line)
                environ = EnvironBuilder().get_environ() | entry["environ"]
                name += f" {environ['REQUEST_METHOD']} {environ['RAW_URI']}"
                body = _body(entry, journal.parent / "bodies")
                environ |= {"REQUEST_URI": environ["RAW_URI"], "CONTENT_LENGTH": str(len(body))}
                environ["wsgi.input"] = io.BytesIO(body)
                _Clock.at = entry["at"]
                mock_random.seed(entry["seed"])
                answer = backend(Request(environ), entry["region"], entry["service"] or "s3")
                if answer.status_code >= 400:
                    raise ValueError(f"{answer.status_code} {answer.get_data(as_text=True)[:200]}")
            except Exception as error:  # whatever moto raises: the rest must come all the same
                database.put_aside("journal line", name, line, f"{type(error).__name__}: {error}")


def _body(entry: dict, folder: Path) -> bytes:
    if "body" in entry:
        return base64.b64decode(entry["body"])
    body = (folder / entry["file"]).read_bytes()
    if hashlib.sha256(body).hexdigest() != entry["file"]:
        raise ValueError(f"the bytes of its body {entry['file']} have changed")
    return body
