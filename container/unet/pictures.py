"""Pictures and masks: PNG to arrays and back, for training and serving alike."""

import io
import struct
import zlib

import numpy as np
from PIL import Image, PngImagePlugin  # the plug-in now: a server's workers may not be able to read it later
from stack.errors import InputError

MAX_PIXELS = 1 << 22  # 2048 x 2048, for which a network of width 8 takes 650 MB, a wider one more
MAX_VALUES = 1 << 23  # pixels times classes: as many probabilities are in a worker's hands
MAX_CHUNKS = 1 << 16  # of a file; a chunk has 8 kB, or the whole picture, where an encoder does as most do
SIGNATURE = b"\x89PNG\r\n\x1a\n"
MODES = {1: "greyscale", 3: "colour"}
# A class a colour, for masks as pictures: black, then Okabe and Ito's, which a colour-blind reader tells apart.
COLOURS = ["000000", "e69f00", "56b4e9", "009e73", "f0e442", "0072b2", "d55e00", "cc79a7"]
assert PngImagePlugin
# What a PNG's header says: samples a pixel by colour type; where the first pixel of a pass is, and how far the next ones.
SAMPLES = {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}
PASSES = [(0, 0, 1, 1)]
INTERLACED = [
    (0, 0, 8, 8),
    (4, 0, 8, 8),
    (0, 4, 4, 8),
    (2, 0, 4, 4),
    (0, 2, 2, 4),
    (1, 0, 2, 2),
    (0, 1, 1, 2),
]


def read(content: bytes, name: str) -> np.ndarray:
    """A PNG as uint8 of (height, width, channels): 1 channel for greyscale, 3 for RGB and palettes.

    Raises InputError that calls it by `name` for what is no PNG, is damaged, too large, animated, transparent or of 16 bits a
    channel: nothing is guessed, and nothing left out.
    """
    image = _opened(content, name)
    grey = image.mode in ("1", "L", "LA")
    if image.mode == "P" and np.asarray(image).max() >= len(image.palette.palette) // 3:
        raise InputError(f"{name} has pixels of a colour that its palette lacks", "bad_image")
    if image.mode in ("LA", "PA", "RGBA") or "transparency" in image.info:
        image = image.convert("RGBA")
        if image.getchannel("A").getextrema()[0] < 255:
            raise InputError(f"{name} is transparent in places; put it on a ground first", "bad_image")
    return shaped(np.asarray(image.convert("L" if grey else "RGB")))


def shaped(array: np.ndarray) -> np.ndarray:
    """A greyscale array of (height, width) as (height, width, 1); others as they are."""
    return array[..., None] if array.ndim == 2 else array


def read_mask(content: bytes, name: str, classes: int) -> np.ndarray:
    """A mask as uint8 of (height, width), a class a pixel: from an indexed PNG, or a greyscale one of 8 bits or 1.

    Raises InputError that names a class which the model does not have, and where it is.
    """
    image = _opened(content, name)
    depth = content[24]  # of IHDR; the fewer bits of a greyscale picture are stretched when it is read
    if image.mode not in ("P", "L", "1") or (image.mode == "L" and depth < 8):
        raise InputError(
            f"{name} is a PNG of mode {image.mode}, {depth} bits: a mask says a class a pixel, 0 to {classes - 1}, as an "
            "indexed PNG or a greyscale one of 8 bits"
        )
    mask = np.asarray(image).astype(np.uint8)
    if mask.max() >= classes:
        row, column = (int(i) for i in np.argwhere(mask >= classes)[0])
        found = np.unique(mask)
        ask = f"; its only other value is {found[0]}: write 1 for {found[1]}" if len(found) == 2 else ""
        raise InputError(
            f"{name}, row {row + 1}, column {column + 1}: class {mask[row, column]}; with classes={classes} there are "
            f"0 to {classes - 1}{ask}"
        )
    return mask


def _opened(content: bytes, name: str) -> Image.Image:
    try:
        if not content.startswith(SIGNATURE):
            raise InputError(f"{name} is no PNG", "bad_image")
        _check(content, name)
        image = Image.open(io.BytesIO(content), formats=["PNG"])
        if content[24] == 16:
            raise InputError(
                f"{name} has 16 bits a channel; the model reads 8: convert it, and say how", "bad_image"
            )
        if getattr(image, "n_frames", 1) > 1:
            raise InputError(
                f"{name} is animated: {image.n_frames} pictures in one; send each alone", "bad_image"
            )
        image.load()
        return image
    except InputError:
        raise
    except Exception as error:  # each part of a decoder has its own
        raise InputError(f"{name} is damaged, or cut off ({type(error).__name__})", "bad_image") from None


def _check(content: bytes, name: str) -> None:
    """Raises ValueError where Pillow would fill in what a damaged PNG lacks, or pass over what it says twice.

    It looks at no checksum of the pixels, makes rows that are not there black, takes the second of two headers, and keeps
    each chunk that it does not know.
    """
    names, pixels, at = [], [], 8
    while not names or names[-1] != b"IEND":
        size, kind = struct.unpack_from(">I4s", content, at)
        end = at + 8 + size
        data = content[at + 8 : end]
        if struct.unpack_from(">I", content, end) != (zlib.crc32(data, zlib.crc32(kind)),):
            raise ValueError("a checksum")
        if kind == b"IDAT":
            pixels.append(data)
        names.append(kind)
        at = end + 4
        if len(names) > MAX_CHUNKS:
            raise ValueError("too many chunks")
    # What begins with a capital letter must be understood by whoever reads it.
    unknown = {kind for kind in names if kind[:1].isupper()} - {b"IHDR", b"PLTE", b"IDAT", b"IEND"}
    width, height, depth, colour, _, _, interlaced = struct.unpack(">IIBBBBB", content[16:29])
    headers, palettes = names.count(b"IHDR"), names.count(b"PLTE")
    lacks_palette = colour == 3 and b"PLTE" not in names[: names.index(b"IDAT")]
    if unknown or names[0] != b"IHDR" or headers > 1 or palettes > 1 or lacks_palette:
        raise ValueError("its chunks")
    check_size(width, height, name)
    bits, expected = depth * SAMPLES[colour], 0
    for x, y, right, down in INTERLACED if interlaced else PASSES:
        columns, rows = -((x - width) // right), -((y - height) // down)
        expected += rows * (1 + (columns * bits + 7) // 8) if columns > 0 else 0
    if len(zlib.decompressobj().decompress(b"".join(pixels), expected)) < expected:
        raise ValueError("rows are missing")


def check_size(width: int, height: int, name: str) -> None:
    """Raises InputError for a picture of more pixels than are taken."""
    if width * height > MAX_PIXELS:
        raise InputError(
            f"{name} has {width} x {height} pixels; at most {MAX_PIXELS} are taken: send it in parts",
            "too_many_pixels",
        )


def check_work(height: int, width: int, multiple: int, classes: int, name: str) -> None:
    """Raises InputError for a picture that is too large once it is padded: a line of a million pixels becomes many lines."""
    most = min(MAX_PIXELS, MAX_VALUES // classes)
    if -(-height // multiple) * -(-width // multiple) * multiple**2 > most:
        raise InputError(
            f"{name} has {width} x {height} pixels, each side counted to the next multiple of {multiple}; with {classes} "
            f"classes at most {most} are taken: send it in parts",
            "too_many_pixels",
        )


def padded(array: np.ndarray, multiple: int, **how) -> np.ndarray:
    """(height, width, …) made multiples, at the lower and the right edge: by repeating it, or as np.pad is told."""
    ends = [(0, -size % multiple) for size in array.shape[:2]]
    if not any(end for _, end in ends):
        return array
    return np.pad(array, ends + [(0, 0)] * (array.ndim - 2), **(how or {"mode": "edge"}))


def png(mask: np.ndarray, classes: int) -> bytes:
    """A mask, uint8 of (height, width), as an indexed PNG: the index is the class."""
    image = Image.fromarray(mask)
    image.putpalette(bytes.fromhex("".join(COLOURS[n % len(COLOURS)] for n in range(classes))))
    stream = io.BytesIO()
    image.save(stream, "PNG", compress_level=1)
    return stream.getvalue()
