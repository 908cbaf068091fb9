"""What the environment variables and the container's limits say, checked by name."""

import os
from pathlib import Path
from typing import NamedTuple

from stack.errors import InputError

MAX_BODY_MB = 25
MAX_WORKERS = 128
# A worker shares the model and the libraries with the others: this is what it has for itself, generously.
WORKER_MEMORY = 128 << 20
# What the container is told (the developer guide's words, and the API's) to what it answers.
STRATEGIES = {
    "MULTI_RECORD": "MULTI_RECORD",
    "MultiRecord": "MULTI_RECORD",
    "SINGLE_RECORD": "SINGLE_RECORD",
    "SingleRecord": "SINGLE_RECORD",
}


class Settings(NamedTuple):
    model_dir: Path
    address: str
    port: int
    workers: int
    timeout: int  # seconds a request may take
    max_body: int  # bytes
    execution_parameters: dict


def base_dir() -> Path:
    """The folder that SageMaker lays its contract out in; AWS's own toolkits use the same variable."""
    return Path(os.environ.get("SAGEMAKER_BASE_DIR") or "/opt/ml").resolve()


def read() -> Settings:
    """The settings of this container; raises InputError that names the variable and what it may be."""
    batch = _choice("SAGEMAKER_BATCH", "false", "true", "false") == "true"
    # 0 is batch transform's word for a payload without a bound; 100 is the most that it allows otherwise.
    payload = _integer("SAGEMAKER_MAX_PAYLOAD_IN_MB", 0, 100, 6 if not batch else MAX_BODY_MB) or 100
    workers = _integer("MODEL_SERVER_WORKERS", 1, MAX_WORKERS, default_workers())
    transforms = _integer("SAGEMAKER_MAX_CONCURRENT_TRANSFORMS", 0, 100, 0) or min(workers, 100 // payload)
    strategy = _choice("SAGEMAKER_BATCH_STRATEGY", "MULTI_RECORD", *STRATEGIES)
    return Settings(
        model_dir=base_dir() / "model",
        address=os.environ.get("MODEL_SERVER_ADDRESS") or "0.0.0.0",
        port=_integer("SAGEMAKER_BIND_TO_PORT", 1, 65535, 8080),
        workers=workers,
        timeout=_integer("MODEL_SERVER_TIMEOUT", 1, 3600, 60),
        max_body=(payload if batch else MAX_BODY_MB) << 20,
        execution_parameters={
            "MaxConcurrentTransforms": transforms,
            "BatchStrategy": STRATEGIES[strategy],
            "MaxPayloadInMB": payload,
        },
    )


def _integer(name: str, low: int, high: int, default: int) -> int:
    text = os.environ.get(name)
    if text is None:
        return default
    if not (text.isascii() and text.isdigit() and len(text) < 10 and low <= int(text) <= high):
        raise InputError(f"{name}={text!r} is not a whole number from {low} to {high}; mend or unset it")
    return int(text)


def _choice(name: str, default: str, *allowed: str) -> str:
    text = os.environ.get(name, default)
    if text not in allowed:
        raise InputError(f"{name}={text!r} is not one of {', '.join(allowed)}; mend or unset it")
    return text


def default_workers(root: Path = Path("/")) -> int:
    """A worker a CPU that this container may use, and no more than its memory holds."""
    affinity = getattr(os, "sched_getaffinity", None)
    cpus = len(affinity(0)) if affinity else os.cpu_count() or 1
    for quota, period in _limits(root, "cpu", "cpu.max", "cpu.cfs_quota_us", "cpu.cfs_period_us"):
        cpus = min(cpus, -(-quota // period))
    for (memory,) in _limits(root, "memory", "memory.max", "memory.limit_in_bytes"):
        cpus = min(cpus, memory // WORKER_MEMORY)
    return max(1, min(cpus, MAX_WORKERS))


def _limits(root: Path, controller: str, v2: str, *v1: str):
    """The limits set on this process's cgroup and on those above it, as tuples of whole numbers."""
    try:
        groups = (root / "proc/self/cgroup").read_text().splitlines()
    except OSError:  # not Linux
        return
    for group in groups:
        _, controllers, path = group.split(":", 2)
        if not controllers:
            base, names = root / "sys/fs/cgroup", (v2,)
        elif controller in controllers.split(","):
            base, names = root / "sys/fs/cgroup" / controller, v1
        else:
            continue
        # In a container the path may be the host's: then only the top, which is the container's, is there.
        for folder in [base / path.lstrip("/"), *(base / path.lstrip("/")).parents]:
            if folder.is_relative_to(base):
                try:
                    limit = tuple(int(word) for name in names for word in (folder / name).read_text().split())
                except (OSError, ValueError):  # no such file here, or "max"
                    continue
                if min(limit) > 0:  # -1: no quota
                    yield limit
