"""Stop this notebook instance when nothing has happened in its Jupyter for some minutes: idle ones cost as much as busy ones.

    stop_when_idle.py INSTANCE REGION MINUTES [JUPYTER [REMEMBERED]]

on_start.sh has cron run it. It needs Python's own library and the `aws` command, and works without the clone.
"""

import json
import ssl
import subprocess
import sys
import time
import urllib.request
from datetime import datetime
from pathlib import Path


def last_activity(jupyter: str, now: float) -> float:
    """Seconds since the epoch when a kernel or a terminal last did something; 0 where there is none."""
    latest = 0.0
    for what in ("kernels", "terminals"):
        # Its certificate is its own, on this machine's loopback.
        context = ssl._create_unverified_context() if jupyter.startswith("https:") else None
        with urllib.request.urlopen(f"{jupyter}/api/{what}", timeout=10, context=context) as answer:
            for one in json.load(answer):
                if one.get("execution_state") == "busy":
                    return now
                latest = max(latest, datetime.fromisoformat(one["last_activity"][:19] + "+00:00").timestamp())
    return latest


def main(
    instance: str,
    region: str,
    minutes: str,
    jupyter: str = "https://localhost:8443",
    remembered: str = "/run/sagemaker-byoa-active",
) -> None:
    now, memory = time.time(), Path(remembered)
    # The first time counts as activity: a machine that has just started is not idle.
    latest = float(memory.read_text()) if memory.exists() else now
    try:
        latest = max(latest, last_activity(jupyter, now))
    except (OSError, ValueError, KeyError) as error:
        print(f"Jupyter does not say what it does: {error}")  # and the time goes on
    memory.write_text(str(latest))
    idle = (now - latest) / 60
    print(f"idle for {idle:.0f} minutes of {minutes}")
    if idle >= float(minutes):
        stop = ["aws", "sagemaker", "stop-notebook-instance", "--notebook-instance-name", instance]
        subprocess.run([*stop, "--region", region], check=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
