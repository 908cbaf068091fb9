"""The input channels of a training job: File, FastFile and Pipe mode look the same to an algorithm."""

import itertools
import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO, NamedTuple

from stack.errors import InputError


class Channel(NamedTuple):
    """One channel; `path` is its folder, or in Pipe mode the FIFO of its first epoch.

    share: (i, n): of its files every n-th alone, from the i-th on
    """

    name: str
    path: Path
    config: dict
    share: tuple[int, int] = (0, 1)

    def open_files(self) -> Iterator[tuple[str, BinaryIO]]:
        """Every data file, sorted, as (name to show, binary stream); each is closed after its turn.

        `_SUCCESS` and names that begin with a dot are what S3 tools leave behind: they are skipped.
        """
        for name, file in self.files():
            with open(file, "rb") as stream:
                yield name, stream

    def files(self) -> Iterator[tuple[str, Path]]:
        """The names to show, and the files, of its share."""
        first, step = self.share
        return itertools.islice(self._all_files(), first, None, step)

    def _all_files(self) -> Iterator[tuple[str, Path]]:
        if self.config.get("TrainingInputMode") == "Pipe":
            yield f"channel {self.name}", self.path
            return
        been = set()
        for folder, folders, names in os.walk(self.path, followlinks=True):
            if (real := os.path.realpath(folder)) in been:  # links that lead in a circle
                folders.clear()
                continue
            been.add(real)
            folders[:] = sorted(name for name in folders if not name.startswith("."))
            for name in sorted(names):
                if name != "_SUCCESS" and not name.startswith("."):
                    file = Path(folder, name)
                    yield f"{self.name}/{file.relative_to(self.path).as_posix()}", file


def read(base: Path) -> dict[str, Channel]:
    """The channels that input/config/inputdataconfig.json lists, or where it lists none, the folders."""
    data = base / "input/data"
    configs = json_object(base / "input/config/inputdataconfig.json")
    if not configs and data.is_dir():
        configs = {path.name: {} for path in sorted(data.iterdir()) if path.is_dir()}
    channels = {}
    for name, config in configs.items():
        config = config if isinstance(config, dict) else {}
        if config.get("RecordWrapperType", "None") not in ("None", ""):
            raise InputError(f"channel {name}: RecordWrapperType must be None, not RecordIO")
        pipe = config.get("TrainingInputMode") == "Pipe"
        path = data / (f"{name}_0" if pipe else name)
        if not path.exists():
            raise InputError(f"channel {name}: {path} does not exist; put the channel's data there")
        channels[name] = Channel(name, path, config)
    return channels


def json_object(path: Path) -> dict:
    """A JSON object from a file of input/config; a missing or empty file is an empty object."""
    try:
        text = path.read_text(encoding="utf-8").strip()
        document = json.loads(text) if text else {}
    except FileNotFoundError:
        return {}
    except ValueError as error:
        raise InputError(f"{path.name} is not JSON: {error}") from None
    if not isinstance(document, dict):
        raise InputError(f"{path.name} must hold a JSON object, not {type(document).__name__}")
    return document
