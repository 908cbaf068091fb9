"""`python -m bench` measures everything and writes RESULTS.md; `--quick` is short and writes nothing in the repository."""

import argparse
import json
import subprocess
import sys
import time
from datetime import date

from . import BUILD, IRIS, ROOT, BenchError, growth, load, overhead, pictures, report, serving, training
from .contenders import BASELINE, CONSTANT_FLASK, CONSTANT_WSGI, FASTAPI, OURS, PARTS, Contender, running
from .peers import PEERS

#: What can be measured alone.
ALONE = {
    "pictures": lambda rounds, quick: pictures.measure(rounds, quick),
    "images": lambda rounds, quick: overhead.image_sizes(),
}
KNOWN = [OURS, BASELINE, FASTAPI, CONSTANT_WSGI, CONSTANT_FLASK]


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m bench", description=__doc__)
    parser.add_argument(
        "--quick",
        action="store_true",
        help="under two minutes: no peers but FastAPI, one limit, no growth, no large training",
    )
    parser.add_argument(
        "--docker", action="store_true", help="only what localaws adds when it runs images on a Docker engine"
    )
    parser.add_argument(
        "--only",
        choices=ALONE,
        help="measure that part alone, and put it in the place of what RESULTS.md has of it",
    )
    parser.add_argument(
        "--check",
        action="store_true",
        help="exit 1 where a figure falls below three quarters of its goal, or of what report.py says is within reach",
    )
    parser.add_argument("--rounds", type=int, help="turns of each contender (default: 5, quick 3)")
    arguments = parser.parse_args()
    rounds = arguments.rounds or (3 if arguments.quick else 5)
    try:
        if arguments.only:
            results = {arguments.only: ALONE[arguments.only](rounds, arguments.quick)}
            if not arguments.quick:
                report.merge(arguments.only, results[arguments.only])
        elif arguments.docker:
            results = {"docker": overhead.measure(rounds, 200, "docker")}
        else:
            results, titles = measure(arguments.quick, rounds)
    except BenchError as error:
        print(f"bench: {error}", file=sys.stderr)
        return 2
    if "serving" in results:
        print(report.rates_table(results, titles), end="\n\n")
    if "pictures" in results:
        print(report.pictures_table(results), end="\n\n")
    if "images" in results:
        print(report.images_table(results), end="\n\n")
    print(report.goals_table(results))
    if arguments.only:
        pass
    elif arguments.quick:
        (BUILD / "quick.json").write_text(json.dumps(results))
    elif not arguments.docker:
        report.write(results, titles)
        print(
            f"\nwrote {report.RESULTS.relative_to(ROOT)}, results.json beside it, and the pictures in labs/images"
        )
    fallen = [
        f"{goal.what}: {value:.3g} where the goal is {goal.wanted}"
        + (f" and {goal.within:g} is within reach" if goal.within else "")
        for goal, value in report.judged(results)
        if not goal.holds_in_ci(value)
    ]
    if arguments.check and fallen:
        print(
            "\nbelow three quarters of the goal, or of what is within reach where that is less:",
            *fallen,
            sep="\n  ",
        )
        return 1
    return 0


def measure(quick: bool, rounds: int) -> tuple[dict, dict[str, str]]:
    """All figures, and the contenders' titles by name. Raises BenchError."""
    started = time.monotonic()

    def step(what: str) -> None:
        print(f"[{time.monotonic() - started:4.0f} s] {what}", flush=True)

    step("a model of iris")
    model = training.folder("iris", IRIS)
    training.train(OURS, model)
    results: dict = {
        "date": f"{date.today():%Y-%m-%d}",
        "machine": report.machine(),
        "rounds": rounds,
        "quick": quick,
    }
    notes, contenders = [], list(KNOWN)
    if quick:
        contenders.remove(CONSTANT_FLASK)
    else:
        step("the baseline is like the sample")
        notes += serving.baseline_is_like_the_sample(model)
        step("the contract, held by the very server that is measured")
        notes.append(contract(model))
        for peer in PEERS:
            step(f"{peer.title}: packages, and whether it serves")
            if why := obstacle(peer):
                notes.append(f"{peer.title} is left out: {why}")
            else:
                contenders.append(peer)
    step("requests a second and large requests")
    results["serving"] = serving.throughput(contenders, model, rounds, 1 if quick else 2)
    if not quick:
        step("what each part gives")
        results["parts"] = serving.throughput([OURS, *PARTS], model, 3, 2)
    step("start")
    results["start"] = serving.cold_starts([OURS, BASELINE], model, rounds)
    step("memory")
    if sys.platform == "linux":
        results["memory"] = serving.idle_memory([OURS, BASELINE], model)
        results["flat"] = serving.flat_memory(model, 50 if quick else 1_000)
    step("training on iris")
    results["train"] = {"iris": training.iris(rounds)}
    step("a picture")
    results["pictures"] = pictures.measure(rounds, quick)
    if not quick:
        step("training on 1,000,000 x 20")
        results["train"]["large"] = training.large(3)
        step("growth")
        results["growth"] = growth.measure(model)
    step("localaws")
    results["localaws"] = overhead.measure(rounds, 200 if quick else 1_000)
    if not quick:
        if overhead.docker_answers():
            step("localaws with Docker")
            results["docker"] = overhead.measure(rounds, 1_000, "docker")
            step("the size of each algorithm's image")
            results["images"] = overhead.image_sizes()
        else:
            notes.append("no Docker engine answered: localaws was measured without it")
        step("the walk through all labs")
        results["localaws"]["walk"] = overhead.walk()
    results["contract"] = "".join(f"- {note}\n" for note in notes)
    step("done")
    return results, {contender.name: contender.title for contender in contenders}


def obstacle(peer: Contender) -> str:
    """Why a peer cannot be measured (the last line of it; all of it is printed), or nothing if it can."""
    try:
        with running(peer) as (server,):
            serving.check(server, load.rows(1))
    except BenchError as error:
        print(error, flush=True)
        return str(error).strip().splitlines()[-1]
    return ""


def contract(model) -> str:
    """Hold the server that is measured to SageMaker's contract in the same run; how it went, in words. Raises BenchError."""
    with running(OURS, SAGEMAKER_BASE_DIR=model) as (server,):
        url = f"http://127.0.0.1:{server.port}"
        suite = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "--base-url", url]
        done = subprocess.run(
            [*suite, "tests/container/test_contract_serving.py"], cwd=ROOT, capture_output=True, text=True
        )
    if done.returncode:
        raise BenchError(f"the container breaks its contract:\n{done.stdout[-800:]}")
    return f"the contract, held by the container that is measured: {done.stdout.strip().splitlines()[-1]}"


if __name__ == "__main__":
    sys.exit(main())
