"""What the labs import. Everything here works the same on AWS and on localaws, through the public AWS APIs."""

from pathlib import Path

#: The clone that this package is installed from (`pip install -e .`).
ROOT = Path(__file__).resolve().parents[2]

from localaws import prices  # noqa: E402

from .aws import endpoint_status  # noqa: E402  (the modules below need ROOT)
from .catch_up import catch_up  # noqa: E402
from .checks import CheckFailed, check, latest_training_job  # noqa: E402
from .cleanup import billable, left_over, still_there  # noqa: E402
from .costs import cost_of, ledger  # noqa: E402
from .image import image_size, inspect_image  # noqa: E402
from .predict import predict  # noqa: E402
from .preflight import preflight  # noqa: E402
from .progress import JobFailed, follow_endpoint, follow_training_job, follow_transform_job  # noqa: E402
from .target import Target, TargetError, connect  # noqa: E402

#: US dollars for an hour of one instance, by its type.
PRICES = prices.PRICES

__all__ = [
    "PRICES",
    "ROOT",
    "CheckFailed",
    "JobFailed",
    "Target",
    "TargetError",
    "billable",
    "catch_up",
    "check",
    "connect",
    "cost_of",
    "endpoint_status",
    "follow_endpoint",
    "follow_training_job",
    "follow_transform_job",
    "image_size",
    "inspect_image",
    "latest_training_job",
    "ledger",
    "left_over",
    "predict",
    "preflight",
    "still_there",
]
