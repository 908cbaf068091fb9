"""What tests wait with: a poll with a deadline."""

import time


def wait_until(condition, seconds: float = 30):
    """Poll until `condition()` is true and return what it answered."""
    deadline = time.monotonic() + seconds
    while not (answer := condition()):
        assert time.monotonic() < deadline, f"not within {seconds} s"
        time.sleep(0.01)
    return answer
