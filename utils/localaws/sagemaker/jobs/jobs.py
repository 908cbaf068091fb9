"""What training and transform jobs share: a thread each, a way to stop, and an end that the record always tells."""

import shutil
import threading
import time

from localaws.errors import Invalid
from localaws.sagemaker.context import Context, internal_error, spell
from localaws.sagemaker.storage import DataError

FAILURE_CHARACTERS = 1024
# What the SDKs send of themselves, and published notebooks, and nothing here can act on: a job keeps it, describes it and
# says so in its log. All else that is not served is refused.
RECORDED = ("DebugHookConfig", "ExperimentConfig", "ProfilerConfig")
LOST = "InternalServerError: localaws was stopped while this job ran. Create it again."


class JobError(Exception):
    """The job has failed; the message is its FailureReason."""


def recorded(request: dict) -> list[str]:
    """A line for a job's log of each field of its request that is kept and not acted on."""
    return [f"[localaws] {name}: recorded, not acted on" for name in RECORDED if request.get(name)]


class Job:
    """One job; a subclass does the work in `execute`, which answers the status that it has come to."""

    def __init__(self, context: Context, kind: str, record: dict):
        self.context, self.record, self.name = context, record, record[f"{kind}Name"]
        self.folder = context.home / "jobs" / kind / self.name
        self.stop_requested = threading.Event()
        self.server_closing = threading.Event()
        self.ended = threading.Event()  # its record tells how

    def execute(self) -> str:
        raise NotImplementedError

    def stop(self) -> None:
        """Have `execute` come to its end soon."""
        self.stop_requested.set()


class Jobs:
    """All jobs of a kind, such as TrainingJob; a subclass adds `create` and how a record ends."""

    kind: str

    def __init__(self, context: Context):
        self.context = context
        self._running: dict[str, Job] = {}

    def finish(self, record: dict, status: str, job: Job | None) -> None:
        """Add to an ended job's record what is the kind's own; `job` is None for one that an earlier server lost."""
        raise NotImplementedError

    def again(self, record: dict) -> Job | None:
        """The job that takes the place of one that was lost, if the kind knows retries and one is left."""
        return None

    def restarting(self, record: dict) -> None:
        """Add to a record that its job is taken up again."""

    def stopping(self, record: dict) -> None:
        """Add to a record that the job is to stop; a kind may have more to tell."""

    def launch(self, job: Job) -> dict:
        """Keep the job's record and start its thread; what Create answers. Raises AwsError for a name that was used, or
        too many instances."""
        job.record[f"{self.kind}Status"] = "InProgress"
        with self.context.placing:
            self.context.check_limit(self.kind, job.record.get("Instances", {}))
            answer = self.context.insert(self.kind, job.record)
        self._start(job)
        return answer

    def _start(self, job: Job) -> None:
        self._running[job.name.lower()] = job
        threading.Thread(target=self._run, args=(job,), name=f"{self.kind}-{job.name}", daemon=True).start()

    def _run(self, job: Job) -> None:
        status, reason = "Failed", None
        try:
            if self.context.require(self.kind, job.name)[f"{self.kind}Status"] == "Stopping":
                job.stop_requested.set()  # the request to stop came before the job was known
            status = job.execute()
        except JobError as error:
            reason = str(error)
        except DataError as error:
            reason = f"ClientError: {error}"
        except Exception as error:
            reason = internal_error(error)
        shutil.rmtree(job.folder, ignore_errors=True)
        if job.server_closing.is_set():
            status, reason = "Failed", LOST
        if not self._retry(job.name, reason, job.server_closing.is_set()):
            self._end(job.name, status, reason, job)
        job.ended.set()
        if self._running.get(job.name.lower()) is job:  # it may have been deleted and created anew
            del self._running[job.name.lower()]

    def _retry(self, name: str, reason: str | None, later: bool = False) -> bool:
        """Whether a job that was lost for `reason` is taken up again: at once, or `later` by the next server."""
        if not (reason or "").startswith("InternalServerError"):
            return False
        record = self.context.store.get(self.kind, name)
        job = self.again(record) if record else None
        if job and not later:
            self.context.store.update(self.kind, name, self.restarting)
            self._start(job)
        return job is not None

    def _end(self, name, status, reason, job=None):
        def change(record):
            record[f"{self.kind}Status"] = status
            if reason:
                record["FailureReason"] = reason[:FAILURE_CHARACTERS]
            self.finish(record, status, job)

        self.context.store.update(self.kind, name, change)

    def stop(self, request: dict) -> dict:
        """Ask a job in progress to stop. Raises AwsError for one that has ended."""
        name = request[f"{self.kind}Name"]

        def change(record):
            self._refuse(record, {"Stopping", "Completed", "Failed", "Stopped"})
            record[f"{self.kind}Status"] = "Stopping"
            self.stopping(record)

        if self.context.store.update(self.kind, name, change) is None:
            raise self.context.not_found(self.kind, name)
        if job := self._running.get(name.lower()):
            job.stop()
        return {}

    def delete(self, request: dict) -> dict:
        """Forget a job that has ended."""
        name = request[f"{self.kind}Name"]
        self._refuse(self.context.require(self.kind, name), {"InProgress", "Stopping"})
        self.context.store.delete(self.kind, name)
        return {}

    def _refuse(self, record: dict, statuses: set[str]) -> None:
        if (status := record[f"{self.kind}Status"]) in statuses:
            raise Invalid(f"The request was rejected because the {spell(self.kind)} is in status {status}.")

    def recover(self) -> None:
        """Fail the jobs that an earlier server left unfinished, or begin them again where they may be retried."""
        shutil.rmtree(self.context.home / "jobs" / self.kind, ignore_errors=True)
        for record in self.context.store.list(self.kind):
            if record[f"{self.kind}Status"] in ("InProgress", "Stopping"):
                name = record[f"{self.kind}Name"]
                if not self._retry(name, LOST):
                    self._end(name, "Failed", LOST)

    def close(self) -> None:
        """Let what runs end as lost; the engine, which is closed next, ends its programs."""
        for job in list(self._running.values()):
            job.server_closing.set()
            job.stop_requested.set()

    def join(self, seconds: float) -> None:
        """Wait until no job's thread is left, at most `seconds`."""
        deadline = time.monotonic() + seconds
        while self._running and time.monotonic() < deadline:
            time.sleep(0.02)
