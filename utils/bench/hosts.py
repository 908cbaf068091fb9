"""`make hosts` measures what a job costs each of its hosts, says what it would of 8 to 64, and writes HOSTS.md.

What is measured does not depend on whose the processors are: bytes, memory, seconds of CPU, tasks. Hosts here share this
machine's, so the time of a job says nothing of a job on machines of their own, and is not told.
"""

import contextlib
import io
import json
import resource
import sys
import tarfile
from collections.abc import Iterator
from datetime import date
from pathlib import Path
from statistics import mean

import numpy as np

from . import BUILD, ROOT, BenchError, report, training
from .overhead import ROLE, localaws_of_its_own, run, run_job

PAGE_FILE, JSON = (Path(__file__).with_name(name) for name in ("HOSTS.md", "hosts.json"))
BUCKET = "sagemaker-hosts"
SIZES, HOSTS, HELD_OUT = (500_000, 2_000_000), (2, 4), 8
COLUMNS, FILES, TREES, DEPTH = 10, 16, 20, 6
BINS, GRADIENT_AND_HESSIAN = 256, 16  # XGBoost's max_bin, and the bytes of the two sums of a bin
#: Of an ml.m5.large, and of what is documented or assumed of the rest.
CPUS, MEMORY, NETWORK = 2, 8e9, 0.75e9 / 8  # bytes a second: its baseline
TASK, LATENCY, GETS = 1e-3, 2e-4, 5500
ROW = 55  # bytes of a row of visits.py
FIGURES = {
    "memory": ("peak memory", 1e6, "MB"),
    "cpu": ("CPU", 1, "s"),
    "sent": ("sent", 1e6, "MB"),
    "tasks": ("tasks of the job", 1, ""),
}


def histograms() -> int:
    """Bytes of the histograms of a job: of two children one is built, the other is the parent's less that."""
    nodes = 1 + sum(2 ** (level - 1) for level in range(1, DEPTH))
    return TREES * nodes * COLUMNS * BINS * GRADIENT_AND_HESSIAN


def ring(hosts: int) -> float:
    """Bytes of histograms that a host sends in a job: XGBoost adds them up in n - 1 steps and hands them on in n.

    Each step is an nth of them (src/collective/allreduce.cc and allgather.cc of XGBoost).
    """
    return (2 - 1 / hosts) * histograms()


class Model:
    """What a host needs of each, by the rows of the job and its hosts, as fitted to measurements.

    Of jobs on one host only the CPU that they need however few the rows is taken: importing is not in dask.json.
    """

    def __init__(self, jobs: list[dict]):
        single, measured = ([one for one in jobs if (one["hosts"] == 1) is alone] for alone in (True, False))
        self.imports = float(np.polyfit(*([one[name] for one in single] for name in ("rows", "cpu")), 1)[1])
        share = [one["rows"] / one["hosts"] for one in measured]
        self.lines = {
            name: np.polyfit(share, [one[name] for one in measured], 1) for name in ("memory", "cpu")
        }
        self.lines["tasks"] = np.polyfit(
            [one["hosts"] for one in measured], [one["tasks"] for one in measured], 1
        )
        # What is left of the bytes grows with the hosts: before the first tree each gets the quantiles of all.
        self.quantiles = mean((one["sent"] - ring(one["hosts"])) / one["hosts"] for one in measured)

    def needs(self, rows: int, hosts: int) -> dict[str, float]:
        """Bytes of memory, seconds of CPU and bytes sent of each host, and the tasks of the job."""
        found = {name: float(np.polyval(line, rows / hosts)) for name, line in self.lines.items()}
        found["tasks"] = float(np.polyval(self.lines["tasks"], hosts))
        return found | {"sent": ring(hosts) + self.quantiles * hosts}

    def seconds(self, rows: int, hosts: int) -> dict[str, float]:
        """Of a job on machines of their own, by what they go to: without the start of the machines, which is minutes."""
        needs = self.needs(rows, hosts)
        fixed = float(self.lines["cpu"][1])
        return {
            # Importing keeps one processor busy.
            "fixed": self.imports + fixed / CPUS,
            "download": rows / hosts * ROW / NETWORK,
            "rows": (needs["cpu"] - fixed) / CPUS,
            "network": needs["sent"] / NETWORK,
            "ring": TREES * DEPTH * (2 * hosts - 1) * LATENCY,
            "scheduler": needs["tasks"] * TASK,
        }


def measure() -> Iterator[dict]:
    """A dict of each job: rows, hosts, and what each host needed on average. The first ones are of a single host."""
    import boto3

    # The environment of `train` is made when it is first asked for, which would count as work of the first job.
    lock = ROOT / "container" / "gradient_boosting" / "requirements-train.lock"
    run(sys.executable, "-I", ROOT / "container" / "environment", lock)
    for rows in SIZES:
        folder = BUILD / "visits" / str(rows)
        run(sys.executable, ROOT / "data" / "visits.py", folder, "--rows", rows, "--files", FILES)
        yield {"rows": rows, "hosts": 1} | alone(folder)
    with localaws_of_its_own("process"):
        s3, sagemaker = boto3.client("s3"), boto3.client("sagemaker")
        s3.create_bucket(Bucket=BUCKET, CreateBucketConfiguration={"LocationConstraint": "us-west-2"})
        uri = boto3.client("ecr").create_repository(repositoryName="hosts")["repository"]["repositoryUri"]
        localaws = (sys.executable, "-m", "localaws")
        run(*localaws, "build", "gradient_boosting", "-t", "hosts")
        run(*localaws, "push", "hosts", uri)
        role = boto3.client("iam").create_role(RoleName="hosts", AssumeRolePolicyDocument=ROLE)["Role"]["Arn"]
        policy = "arn:aws:iam::aws:policy/AmazonSageMakerFullAccess"
        boto3.client("iam").attach_role_policy(RoleName="hosts", PolicyArn=policy)
        for rows in SIZES:
            for file in sorted((BUILD / "visits" / str(rows) / "training").iterdir()):
                s3.upload_file(str(file), BUCKET, f"{rows}/{file.name}")
        for rows, hosts in [*((rows, hosts) for rows in SIZES for hosts in HOSTS), (SIZES[-1], HELD_OUT)]:
            print(f"{rows:,} rows on {hosts} hosts", flush=True)
            yield {"rows": rows, "hosts": hosts} | together(s3, sagemaker, role, uri, rows, hosts)


def alone(folder: Path) -> dict:
    """What `train` needs on one host, by the kernel's own count. There nobody is sent anything."""
    base = training.folder("hosts", next((folder / "training").iterdir()), n_estimators=str(TREES))
    place = base / "input/data/training"
    for file in (folder / "training").iterdir():
        with contextlib.suppress(FileExistsError):
            (place / file.name).hardlink_to(file)
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    program = ROOT / "container" / "run"
    done = training.process([str(program), "gradient_boosting", "train"], SAGEMAKER_BASE_DIR=base)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return {"memory": done.peak, "cpu": cpu, "sent": 0, "tasks": 0, "files": FILES}


def together(s3, sagemaker, role: str, image: str, rows: int, hosts: int) -> dict:
    """What dask.json of a job on several hosts says. Raises BenchError where the job has failed."""
    name = f"hosts-{rows}-{hosts}"
    source = {
        "S3DataType": "S3Prefix",
        "S3Uri": f"s3://{BUCKET}/{rows}/",
        "S3DataDistributionType": "ShardedByS3Key",
    }
    _seconds, job = run_job(
        sagemaker,
        name,
        image,
        role,
        BUCKET,
        HyperParameters={"n_estimators": str(TREES), "max_depth": str(DEPTH)},
        InputDataConfig=[{"ChannelName": "training", "DataSource": {"S3DataSource": source}}],
        ResourceConfig={"InstanceType": "ml.m5.large", "InstanceCount": hosts, "VolumeSizeInGB": 1},
    )
    if job["TrainingJobStatus"] != "Completed":
        raise BenchError(f"{name} is {job['TrainingJobStatus']}: {job.get('FailureReason')}")
    packed = s3.get_object(Bucket=BUCKET, Key=f"output/{name}/output/output.tar.gz")["Body"].read()
    with tarfile.open(fileobj=io.BytesIO(packed)) as archive:
        (place,) = (one for one in archive.getnames() if one.endswith("dask.json"))
        told = list(json.load(archive.extractfile(place))["hosts"].values())
    used = sum(host["channels"]["training"]["rows"] for host in told)
    if used != rows:
        raise BenchError(f"{name}: {used:,} rows were used, of {rows:,}")
    return {
        "memory": mean(host["peak_memory_bytes"] for host in told),
        "cpu": mean(host["cpu_seconds"] for host in told),
        "sent": mean(host["interface_sent_bytes"] for host in told),
        "tasks": sum(host["tasks"] for host in told),
        "files": sum(host["channels"]["training"]["files"] for host in told),
    }


def page(measured: list[dict], on: str) -> str:
    """HOSTS.md."""
    model = Model([one for one in measured if one["hosts"] != HELD_OUT])

    def told(one: dict) -> list[str]:
        return [
            f"{one[name] / unit:,.{0 if unit > 1 or name == 'tasks' else 1}f} {word}".strip()
            for name, (_, unit, word) in FIGURES.items()
        ]

    rows = [[f"{one['rows']:,}", one["hosts"], *told(one)] for one in measured]
    held = next(one for one in measured if one["hosts"] == HELD_OUT)
    foretold = model.needs(held["rows"], HELD_OUT)
    compared = [
        [
            FIGURES[name][0],
            *(told(each)[place] for each in (foretold, held)),
            f"{foretold[name] / held[name] - 1:+.0%}",
        ]
        for place, name in enumerate(FIGURES)
    ]
    ahead = []
    for count in (SIZES[-1], 200_000_000):
        for hosts in (8, 16, 32, 64):
            needs, seconds = model.needs(count, hosts), model.seconds(count, hosts)
            memory = f"{needs['memory'] / 1e6:,.0f} MB" + (
                " **too much**" if needs["memory"] > MEMORY else ""
            )
            parts = [f"{seconds[part]:.1f}" for part in seconds]
            ahead.append(
                [
                    f"{count:,}",
                    hosts,
                    memory,
                    f"{needs['sent'] / 1e6:,.0f} MB",
                    *parts,
                    f"**{sum(seconds.values()):.0f}**",
                ]
            )
    headers = {
        "measured": [
            "Rows",
            "Hosts",
            *(f"{what}{', each host' if name != 'tasks' else ''}" for name, (what, *_) in FIGURES.items()),
        ],
        "compared": ["Each of 8 hosts", "Foretold", "Measured", ""],
        "ahead": [
            "Rows",
            "Hosts",
            "Memory",
            "Sent",
            "Fixed s",
            "Download s",
            "Rows s",
            "Network s",
            "Ring s",
            "Scheduler s",
            "Together s",
        ],
    }
    tables = {"measured": rows, "compared": compared, "ahead": ahead}
    small, large = (best(model, count) for count in (SIZES[-1], 200_000_000))
    return PAGE.format(
        on=on,
        machine=report.machine(),
        **{name: _table(headers[name], tables[name]) for name in tables},
        sizes=" and ".join(f"{size:,}" for size in SIZES),
        trees=TREES,
        histograms=histograms() / 1e6,
        quantiles=model.quantiles / 1e6,
        imports=model.imports,
        read=max(one["files"] for one in measured),
        even=model.needs(SIZES[-1], 64)["sent"] / NETWORK * CPUS / model.lines["cpu"][0],
        each={
            "ring": 2000 * TREES * DEPTH * LATENCY,
            "scheduler": 1000 * model.lines["tasks"][0] * TASK,
            "network": 1000 * model.quantiles / NETWORK,
        },
        requests=GETS * model.seconds(200_000_000, 64)["download"],
        memory_fixed=model.lines["memory"][1] / 1e6,
        memory_row=model.lines["memory"][0],
        cpu_fixed=model.lines["cpu"][1],
        cpu_row=model.lines["cpu"][0] * 1e6,
        tasks_fixed=model.lines["tasks"][1],
        tasks_host=model.lines["tasks"][0],
        small=small,
        large=large,
        enough=next(n for n in range(1, 10_000) if model.needs(200_000_000, n)["memory"] < MEMORY),
        last=model.seconds(SIZES[-1], 64),
        gets=GETS,
    )


def best(model: Model, rows: int) -> int:
    """The number of hosts from which on one more makes a job no faster."""
    return min(range(2, 513), key=lambda hosts: sum(model.seconds(rows, hosts).values()))


def _table(header: list, rows: list[list]) -> str:
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join(f"| {' | '.join(map(str, line))} |" for line in lines)


PAGE = """# What several hosts cost

Measured on {on} by `make hosts`: {machine}. All hosts share these processors, so nothing here is a job's time: bytes, memory, seconds of CPU and tasks are the same on machines of their own. The table is [visits.py](../../data/visits.py)'s, in 16 files; {trees} trees of depth 6 by XGBoost's defaults.

{measured}

Of several hosts the figures are those of `dask.json` (the kernel's count of Dask's worker and of the network interface, Dask's of its tasks), on average of the hosts; the import of XGBoost and Dask comes before, 1 to 2 s of CPU for each host. Of one host they are the kernel's for all of `train`. `make hosts` fails unless the hosts have read as many rows as the table has.

## What grows with what

| | Of each host | How it was obtained |
|---|---|---|
| memory | {memory_fixed:.0f} MB + {memory_row:.0f} bytes a row of its own | a line through 2 and 4 hosts with {sizes} rows |
| CPU | {cpu_fixed:.1f} s + {cpu_row:.1f} s a million rows of its own | likewise |
| bytes sent | (2 - 1/n) x {histograms:.0f} MB + {quantiles:.2f} MB n, whatever the rows | computed: 32 nodes a tree have a histogram of 10 columns, 256 bins, 16 bytes, added up in a ring (read in XGBoost's source); the rest, measured, is what each sends of all hosts' quantiles |
| messages | 2 n - 1 for each level of each tree | read: n - 1 to add up, n to hand on |
| tasks of the job | {tasks_fixed:.0f} + {tasks_host:.0f} n | a line, as above |
| importing | {imports:.1f} s of CPU, before `dask.json` counts | the line through one host's two jobs, at no rows |
| S3 | a GET for each file, {read} here however many hosts, and a list for each host and channel | files: counted in `dask.json`; lists: computed, as no request is counted |

The line through 2 and 4 hosts, held against a job of 8 that it has not seen:

{compared}

## 8 to 64 hosts

Computed from the lines above, on ml.m5.large, as if nothing went on at the same time. **Documented:** 2 processors, 8 GB, 0.75 Gbit/s of network as a baseline (in bursts up to 10); a task of Dask's takes 0.2 to 1 ms, here 1; S3 answers 5,500 GETs a second and prefix. **Assumed:** 0.2 ms for a step of the ring; a processor as fast as one here. The start of the machines, some minutes, is the same for all and left out.

{ahead}

**What becomes the limit first.** Of 200 million rows the memory of too few hosts: it takes {enough} to hold them. Then what each further host adds: {each[ring]:.0f} ms of steps in the ring (of the assumed 0.2 ms; with 0.1 ms half of that), {each[scheduler]:.0f} ms of Dask's scheduler, {each[network]:.0f} ms of network for its quantiles. So the ring's latency comes first, then the scheduler, then the network, and S3 last: 64 hosts would have to read {requests:,.0f} files of those rows before its 5,500 GETs a second took longer than the bytes. One host more does not pay any more from {small} hosts on for two million rows, from {large} on for 200 million. The histograms are the same however few rows a host has: with 64 hosts, below {even:,.0f} rows each, sending takes longer than computing. That number stays about the same with more columns, as both grow with them, and grows with bins and depth.
"""


def main() -> int:
    try:
        measured = list(measure())
    except BenchError as error:
        print(f"bench: {error}", file=sys.stderr)
        return 2
    JSON.write_text(json.dumps({"on": str(date.today()), "jobs": measured}, indent=1) + "\n")
    PAGE_FILE.write_text(page(measured, str(date.today())))
    print(PAGE_FILE.read_text())
    return 0


if __name__ == "__main__":
    sys.exit(main())
