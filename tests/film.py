"""Make README's pictures: film the console while a job trains and an endpoint is asked: `make screenshots`.

All of it is real: a localaws of its own, the labs' image, a training job, an endpoint. What changes from one run to the
next is names, times and ports.
"""

import io
import json
import os
import sys
import tempfile
import time
from base64 import b64decode
from itertools import product
from pathlib import Path

import boto3
from browser import CHROMIUM, Browser, opened
from PIL import Image, ImageChops
from waiting import wait_until

import localaws
from workshop import ROOT, catch_up, connect
from workshop.language import ENGLISH, labs_folder, others
from workshop.target import Target, said, sample

FILM = ROOT / "labs" / "images" / "console.webp"
MAX_BYTES = 800_000
WIDTH, HEIGHT = 1000, 700
FRAME_SECONDS = 0.12
#: How long a frame is shown at most while somebody waits, and where there is something to read.
DULL_SECONDS, HOLD_SECONDS = 0.7, 2.2
ASKED = 24  # requests, before the one by the page's form
METRICS = ("training_accuracy", "agreement")


class Camera:
    """A browser's window of the picture's size on a page, in light colours, and the frames that it has shown."""

    def __init__(self, browser: Browser, address: str):
        self.browser = browser
        self.frames: list[Image.Image] = []
        self.seconds: list[float] = []
        self._since = None  # when the last frame was taken; None where a scene has ended
        size = {"width": WIDTH, "height": HEIGHT, "deviceScaleFactor": 1, "mobile": False}
        browser.command("Emulation.setDeviceMetricsOverride", **size)
        features = [{"name": "prefers-color-scheme", "value": "light"}]
        features += [{"name": "prefers-reduced-motion", "value": "reduce"}]
        browser.command("Emulation.setEmulatedMedia", features=features)
        browser.command("Emulation.setScrollbarsHidden", hidden=True)
        browser.command("Page.navigate", url=address)
        browser.wait("document.querySelectorAll('#buckets details').length")

    def ask(self, expression: str):
        return self.browser.ask(expression)

    def take(self) -> None:
        """Add a frame, unless it is the last one still."""
        shot = self.browser.command("Page.captureScreenshot", format="png")["data"]
        frame = Image.open(io.BytesIO(b64decode(shot))).convert("RGB")
        now = time.monotonic()
        if self._since is not None:
            self.seconds[-1] = min(DULL_SECONDS, self.seconds[-1] + now - self._since)
        self._since = now
        if not self.frames or ImageChops.difference(frame, self.frames[-1]).getbbox():
            self.frames.append(frame)
            self.seconds.append(0.0)

    def watch(self, expression: str) -> None:
        """Take frames until the expression is true, and have the last one, which ends the scene, stay."""

        def seen():
            self.take()
            time.sleep(FRAME_SECONDS)
            return self.ask(expression)

        wait_until(seen, 60)
        self.take()
        self.seconds[-1], self._since = HOLD_SECONDS, None


def play(target: Target, shown: Camera) -> None:
    """Train, deploy and ask, in front of the camera."""
    sagemaker, runtime = boto3.client("sagemaker"), boto3.client("sagemaker-runtime")
    uri = boto3.client("ecr").describe_repositories(repositoryNames=[target.name])["repositories"][0][
        "repositoryUri"
    ]
    image, job, name = f"{uri}:latest", f"{target.name}-1", target.name
    data, payload, content_type = sample(target.source)
    key = f"training/{Path(data).name}"
    boto3.client("s3").upload_file(str(ROOT / data), target.bucket, key)
    shown.watch("document.querySelector('#sums b') !== null")
    sagemaker.create_training_job(
        TrainingJobName=job,
        AlgorithmSpecification={
            "TrainingImage": image,
            "TrainingInputMode": "File",
            "MetricDefinitions": [{"Name": metric, "Regex": f"{metric}=([0-9.]+)"} for metric in METRICS],
        },
        RoleArn=target.role,
        HyperParameters={key: str(value) for key, value in said(target.source, "hyperparameters").items()},
        InputDataConfig=[
            {
                "ChannelName": "training",
                "DataSource": {
                    "S3DataSource": {
                        "S3DataType": "S3Prefix",
                        "S3Uri": f"s3://{target.bucket}/{key}",
                    }
                },
            }
        ],
        OutputDataConfig={"S3OutputPath": f"s3://{target.bucket}/output"},
        ResourceConfig={"InstanceType": "ml.m5.large", "InstanceCount": 1, "VolumeSizeInGB": 1},
        StoppingCondition={"MaxRuntimeInSeconds": 600},
    )
    row = f"rows.get('training/{job}')"
    shown.browser.wait(f"{row} !== undefined")
    shown.ask(f"{row}.details.open = true")
    shown.watch(f"{row}.item.status === 'Completed' && {row}.drawn.querySelector('svg') !== null")
    artifact = sagemaker.describe_training_job(TrainingJobName=job)["ModelArtifacts"]["S3ModelArtifacts"]
    container = {"Image": image, "ModelDataUrl": artifact}
    sagemaker.create_model(ModelName=name, ExecutionRoleArn=target.role, PrimaryContainer=container)
    variant = {"VariantName": "AllTraffic", "ModelName": name, "InstanceType": "ml.m5.xlarge"}
    sagemaker.create_endpoint_config(
        EndpointConfigName=name, ProductionVariants=[variant | {"InitialInstanceCount": 2}]
    )
    sagemaker.create_endpoint(EndpointName=name, EndpointConfigName=name)
    shown.ask(f"{row}.details.open = false")
    row = f"rows.get('endpoint/{name}')"
    shown.browser.wait(f"{row} !== undefined")
    shown.ask(f"{row}.details.open = true")
    shown.watch(f"{row}.item.status === 'InService' && {row}.form.querySelector('form') !== null")
    for _ in range(ASKED):
        runtime.invoke_endpoint(EndpointName=name, ContentType=content_type, Body=payload.read_bytes())
        shown.take()
        time.sleep(FRAME_SECONDS)
    told = f"{row}.drawn.querySelector('figure p')?.textContent.startsWith('{ASKED} requests')"
    shown.watch(told)
    rows = payload.read_text().splitlines()
    some = "\n".join((rows[0], rows[len(rows) // 2], rows[-1]))
    shown.ask(f"{row}.text.value = {json.dumps(some)}; {row}.text.rows = 3")
    shown.ask(f"{row}.details.scrollIntoView(); {row}.form.querySelector('button').focus()")
    shown.take()
    shown.ask(f"{row}.form.querySelector('button').click()")
    answered = f"{row}.form.querySelector('output pre')"
    shown.browser.wait(f"{answered} !== null")
    shown.ask(f"{row}.form.scrollIntoView({{ block: 'end' }})")
    shown.watch(f"{answered} !== null")
    shown.ask("scrollTo(0, 0)")
    shown.watch(f"{row}.drawn.querySelector('figure p').textContent.startsWith('{ASKED + 1} requests')")


def save(frames: list[Image.Image], seconds: list[float]) -> None:
    """Write the frames as one picture that begins again after its last."""
    first, *rest = frames
    duration = [max(60, round(1000 * one)) for one in seconds]
    FILM.parent.mkdir(exist_ok=True)
    first.save(
        FILM,
        save_all=True,
        append_images=rest,
        duration=duration,
        loop=0,
        lossless=True,
        method=6,
        minimize_size=True,
    )
    if (size := FILM.stat().st_size) > MAX_BYTES:
        raise RuntimeError(f"{FILM.relative_to(ROOT)} has {size:,} bytes, more than {MAX_BYTES:,}: film less")
    print(
        f"wrote {FILM.relative_to(ROOT)}: {len(frames)} frames, {sum(duration) / 1000:.0f} s, {size:,} bytes"
    )


def stills() -> None:
    """Take over the executed lab that README shows, in fewer colours, from what the walk in a browser has left."""
    for language, theme in product([ENGLISH, *others()], ("light", "dark")):
        images = labs_folder(language) / "images"
        shot = (
            ROOT
            / "build"
            / "screenshots"
            / ("" if language == ENGLISH else language)
            / f"04_train-{theme}.png"
        )
        if shot.exists():
            Image.open(shot).convert("RGB").quantize(128).save(images / f"lab-{theme}.png", optimize=True)


def main() -> int:
    if CHROMIUM is None:
        print("film: Chromium is needed: apt-get install chromium, or brew install chromium", file=sys.stderr)
        return 1
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
        home = {"LOCALAWS_HOME": f"{folder}/localaws", "LOCALAWS_PORT": "0", "LOCALAWS_ENGINE": "process"}
        os.environ |= home
        try:
            target = connect(quiet=True)
            catch_up("08_tune")  # the bucket and the pushed image
            with opened(Path(folder, "profile")) as browser:
                shown = Camera(browser, localaws.page())
                play(target, shown)
            save(shown.frames, shown.seconds)
            stills()
        except RuntimeError as error:
            print(f"film: {error}", file=sys.stderr)
            return 1
        finally:
            localaws.stop()
    return 0


if __name__ == "__main__":
    sys.exit(main())
