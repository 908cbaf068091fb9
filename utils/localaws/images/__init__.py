"""Images: built and listed in a folder of this machine, pushed to the registry, unpacked, and the Python they run with."""

from .builder import (
    MANIFEST,
    PROGRAM,
    Image,
    blob,
    build,
    changed,
    derive,
    inspect,
    listed,
    push,
    size,
    sources,
)

__all__ = [
    "MANIFEST",
    "PROGRAM",
    "Image",
    "blob",
    "build",
    "changed",
    "derive",
    "inspect",
    "listed",
    "push",
    "size",
    "sources",
]
