"""The baseline's `serve`, in the manner of AWS's sample: starts nginx and gunicorn, and goes when either goes.

Its habits are kept, the bad ones too: it loads nothing itself, it does not await who still works, and it exits 0
whatever happened. Written anew for this bench; only the port and folder are variables here.
"""

import contextlib
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent
RUN = Path(os.environ["BENCH_RUN"])
NGINX = shutil.which("nginx", path=os.environ.get("PATH", "") + ":/usr/sbin:/usr/local/sbin")


def main() -> None:
    conf = (HERE / "nginx.conf").read_text()
    for name, value in {"@RUN@": RUN, "@PORT@": os.environ["SAGEMAKER_BIND_TO_PORT"]}.items():
        conf = conf.replace(name, str(value))
    (RUN / "nginx.conf").write_text(conf)
    nginx = subprocess.Popen([NGINX, "-e", RUN / "error.log", "-p", RUN, "-c", RUN / "nginx.conf"])
    workers = os.environ.get("MODEL_SERVER_WORKERS", str(os.cpu_count()))
    command = [sys.executable, "-m", "gunicorn", "--chdir", HERE, "--timeout", "60", "--worker-class", "sync"]
    command += ["--no-control-socket", "--bind", f"unix:{RUN}/gunicorn.sock", "--workers", workers]
    gunicorn = subprocess.Popen([*command, "predictor:app"])

    def stop(*_):
        for part, how in ((nginx, signal.SIGQUIT), (gunicorn, signal.SIGTERM)):
            with contextlib.suppress(OSError):
                os.kill(part.pid, how)
        sys.exit(0)

    signal.signal(signal.SIGTERM, stop)
    ended = None
    while ended not in (nginx.pid, gunicorn.pid):
        ended, _ = os.wait()
    stop()


main()
