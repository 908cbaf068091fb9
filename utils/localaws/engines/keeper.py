"""Runs one program, and ends with it and with all that it started: `python -I keeper.py PROGRAM`, as process.py calls it.

On Linux whatever the program leaves behind, in whatever session, becomes a child of the keeper: a daemon can change its
title, its environment and its files, but not who adopts it. So the end of the program, like that of PID 1 in a
container, is the end of everything below; so is the end of standard input, a socket whose other end localaws holds: it
closes it to end the program, and the kernel closes it when localaws is killed. SIGTERM is passed on to the program.

It writes 0 and a blank to that socket once the program runs, or the errno of why it cannot and what that is about; in the
end, when the program ended (seconds of the monotonic clock). Its exit code is the program's, 128 + N for signal N, as a
shell and Docker tell it.
"""

import ctypes
import os
import select
import signal
import sys
import time
from collections.abc import Callable
from contextlib import suppress

PR_SET_CHILD_SUBREAPER = 36
helpers: list[int] = []  # children that work for the program, and have nothing left to do after it
BETWEEN_ROUNDS = 0.01  # seconds; each round ends what the one before has made the keeper's child


def main() -> None:
    """Run the program that the command line names."""
    keep(spawn)


def spawn() -> int:
    """Start the program that the command line names; its pid. Raises OSError."""
    return os.posix_spawn(
        sys.argv[1],
        sys.argv[1:],
        os.environ,
        setpgroup=0,  # a signal to its own group does not reach the keeper
        setsigdef=[signal.SIGPIPE, signal.SIGXFSZ],  # which Python ignores
    )


def keep(start: Callable[[], int]) -> None:
    """End with the program that `start` starts, whose pid it returns, and with the end of standard input."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
    link, wake = os.dup(0), os.pipe()
    nothing = os.open(os.devnull, os.O_RDWR)
    os.dup2(nothing, 0)
    for end in wake:
        os.set_blocking(end, False)
    signal.set_wakeup_fd(wake[1], warn_on_full_buffer=False)
    for number in (signal.SIGCHLD, signal.SIGTERM):
        signal.signal(number, lambda *_: None)
    try:
        program = start()
    except OSError as error:
        os.write(link, f"{error.errno} {error.filename or ''}".encode())
        return
    os.dup2(nothing, 1)  # the program's output ends with those who print it
    os.dup2(nothing, 2)
    with suppress(BrokenPipeError):  # localaws is gone: the link is at its end
        os.write(link, b"0 ")
    code, left = None, True
    while code is None and link not in (ready := select.select([link, wake[0]], [], [])[0]):
        if ready and signal.SIGTERM in os.read(wake[0], 4096):
            os.kill(program, signal.SIGTERM)
        code, left = reap(program)
    ended = time.monotonic()
    for helper in helpers:
        with suppress(ChildProcessError):
            if not os.waitpid(helper, os.WNOHANG)[0]:
                os.kill(helper, signal.SIGKILL)
                os.waitpid(helper, 0)
    if helpers:
        found, left = reap(program)
        code = found if code is None else code
    while left:
        import psutil  # late: most programs leave nothing behind

        for process in psutil.Process().children(recursive=True):
            # It has ended, or is root's: who waits for the keeper gives up at last.
            with suppress(psutil.Error):
                process.kill()
        time.sleep(BETWEEN_ROUNDS)
        found, left = reap(program)
        code = found if code is None else code
    with suppress(OSError):
        os.write(link, str(ended).encode())
    os._exit(code)


def reap(program: int) -> tuple[int | None, bool]:
    """Take leave of children that have ended: the program's exit code, if it is one of them; whether any are left."""
    code = None
    try:
        while (ended := os.waitpid(-1, os.WNOHANG))[0]:
            if ended[0] == program:
                code = os.waitstatus_to_exitcode(ended[1])
                code = code if code >= 0 else 128 - code
    except ChildProcessError:
        return code, False
    return code, True


if __name__ == "__main__":
    main()
