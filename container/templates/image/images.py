"""Images as arrays, for training and serving alike."""

import io

import numpy as np
from PIL import Image
from stack.errors import InputError

MAX_PIXELS = 16_000_000
Image.preinit()  # Pillow imports its formats late: a server's workers may not be able to


def read(content: bytes, name: str) -> np.ndarray:
    """A PNG or JPEG image as float32 (height, width, 3), 0 to 1. Raises InputError that calls it by name."""
    try:
        image = Image.open(io.BytesIO(content), formats=("PNG", "JPEG"))
        if image.width * image.height > MAX_PIXELS:
            raise InputError(
                f"{name} has {image.width} x {image.height} pixels; at most {MAX_PIXELS} are taken"
            )
        return np.asarray(image.convert("RGB"), np.float32) / 255
    except (OSError, SyntaxError, Image.DecompressionBombError):
        raise InputError(f"{name} is not a PNG or JPEG image, or is damaged", "bad_image") from None
