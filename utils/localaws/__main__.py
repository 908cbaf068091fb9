"""The command, `localaws` or `python -m localaws`: up | down | status | env | logs | build | push | images | fidelity."""

import argparse
import shlex
import subprocess
import sys
from pathlib import Path

import localaws

DOWN = "localaws is not running. Start it: python -m localaws up"


def up(_) -> int:
    before = localaws.status()
    running = localaws.start(tell=lambda line: print(f"localaws: {line}", flush=True))
    if running.note:
        print(f"localaws: {running.note}")
    print(f"localaws listens on {running.endpoint_url} (pid {running.pid}, state in {running.home})")
    if not before and running.there:
        print(f"In it: {running.there}")
    for loss in () if before else running.lost:
        print(f"Not brought back: {loss}")
    print(f"See what is in it: {running.page} in a browser")
    print('Use it from this shell:  eval "$(python -m localaws env)"')
    return 0


def down(_) -> int:
    stopped = localaws.stop()
    for what in stopped:
        print(f"stopped {what}")
    if not stopped:
        print("localaws was not running, and nothing of it was left")
    return 0


def status(_) -> int:
    running = localaws.status()
    if running is None:
        print(DOWN)
        return 1
    for name in ("endpoint_url", "page", "region", "account", "engine", "pid", "home"):
        print(f"{name:12} {getattr(running, name)}")
    return 0


def env(_) -> int:
    for name, value in localaws.environment().items():
        print(f"export {name}={shlex.quote(value)}")
    return 0


def logs(arguments) -> int:
    log = localaws.home() / "server.log"
    if not log.exists():
        print(f"There is no log at {log}: localaws was never started here", file=sys.stderr)
        return 1
    if arguments.follow:
        return subprocess.call(["tail", "-n", "50", "-f", str(log)])
    sys.stdout.write(log.read_text(errors="replace"))
    return 0


def build(arguments) -> int:
    from localaws import images

    name = arguments.tag or Path(arguments.algorithm).resolve().name.lower().replace("_", "-")
    image = images.build(
        arguments.algorithm, name, progress=lambda line: print(line, flush=True), target=arguments.target
    )
    print(
        f"built {image.name}  {image.digest}  {image.size:,} bytes, {len(image.files)} files in /opt/program"
    )
    return 0


def push(arguments) -> int:
    from localaws import images

    digest = images.push(arguments.image, arguments.uri, progress=print)
    print(f"pushed {arguments.uri}@{digest}")
    return 0


def images_(_) -> int:
    from localaws import images

    print(f"{'IMAGE':40} {'DIGEST':20} {'BYTES':>10}")
    for image in images.listed():
        print(f"{image.name:40} {image.digest[:19]:20} {image.size:>10,}")
    return 0


def fidelity(_) -> int:
    from localaws import fidelity

    fidelity.FILE.write_text(fidelity.table(), "utf-8")
    print(f"wrote {fidelity.FILE}")
    return 0


def parser() -> argparse.ArgumentParser:
    """Return the command line's description."""
    top = argparse.ArgumentParser(
        prog="python -m localaws", description="AWS, as far as the labs go, on 127.0.0.1"
    )
    commands = top.add_subparsers(required=True, metavar="COMMAND")

    def command(name: str, run, help: str) -> argparse.ArgumentParser:
        sub = commands.add_parser(name, help=help, description=help)
        sub.set_defaults(run=run)
        return sub

    command("up", up, "start it, unless it runs, and say where it listens")
    command("down", down, "stop it with all jobs and endpoints; what was made stays on disk")
    command("status", status, "say where it listens; exit 1 when it does not run")
    command("env", env, "print the variables that point AWS clients at it, as `export` lines")
    sub = command("logs", logs, "print the server's log")
    sub.add_argument("-f", "--follow", action="store_true", help="go on printing as lines come")
    sub = command("build", build, "build an algorithm's image without Docker, for the process engine")
    sub.add_argument(
        "algorithm",
        metavar="ALGORITHM|FOLDER",
        help="a folder in container/, as in: decision_trees; or, with a slash in it, one with programs of your own, which becomes /opt/program, as in: ./mine",
    )
    sub.add_argument("-t", "--tag", metavar="NAME[:TAG]", help="default: the folder's name, with dashes")
    sub.add_argument(
        "--target",
        choices=("both", "train", "serve"),
        default="both",
        help="what the image is for (default: both)",
    )
    sub = command("push", push, "push an image that was built here to localaws' registry")
    sub.add_argument("image", metavar="NAME[:TAG]")
    sub.add_argument("uri", metavar="URI", help="the repositoryUri that ECR gives, with or without a tag")
    command("images", images_, "list the images that were built here")
    command("fidelity", fidelity, "write FIDELITY.md: every operation and field, served or refused")
    return top


def main() -> int:
    """Run one command; an error of the user's is one line on stderr and exit code 1."""
    arguments = parser().parse_args()
    try:
        return arguments.run(arguments)
    except (RuntimeError, ValueError, OSError) as error:
        print(f"localaws: {error}", file=sys.stderr)
        return 1
    except (KeyboardInterrupt, BrokenPipeError):
        return 130


if __name__ == "__main__":
    sys.exit(main())
