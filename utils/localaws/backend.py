"""moto behind the front."""

import os
from pathlib import Path

from werkzeug import Request, Response

import localaws

os.environ["MOTO_ACCOUNT_ID"] = localaws.ACCOUNT
os.environ["MOTO_IAM_LOAD_MANAGED_POLICIES"] = (
    "true"  # AmazonSageMakerFullAccess and its like can be attached
)

from moto.moto_server.werkzeug_app import DomainDispatcherApplication, create_backend_app


class Backend:
    """moto's own WSGI app: S3, STS, IAM, ECR's repositories, CloudWatch and Logs."""

    def __init__(self, home: Path):
        self.app = DomainDispatcherApplication(create_backend_app)

    def __call__(self, request: Request) -> Response:
        # moto tells an encoded slash in a key from a plain one by the raw path, under gunicorn's name for it.
        request.environ["RAW_URI"] = request.environ.get("REQUEST_URI", "")
        response = Response.from_app(self.app, request.environ)
        for name in [name for name, _ in response.headers if name.lower().startswith("access-control-")]:
            del response.headers[name]
        return response
