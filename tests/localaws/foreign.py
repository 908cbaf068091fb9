"""Requests as clients other than boto3 send them: signed in the same way, said in their own words."""

import http.client
import uuid
from urllib.parse import quote, urlsplit

from botocore.auth import S3SigV4Auth, SigV4Auth
from botocore.awsrequest import AWSRequest
from botocore.credentials import Credentials


class Foreign:
    """Speaks plain HTTP to the localaws whose environment (`python -m localaws env`) it gets."""

    def __init__(self, env: dict):
        self.url, self.region = env["AWS_ENDPOINT_URL"], env["AWS_REGION"]
        self.credentials = Credentials(
            env["AWS_ACCESS_KEY_ID"], env["AWS_SECRET_ACCESS_KEY"], env.get("AWS_SESSION_TOKEN") or None
        )

    def send(
        self, method: str, url: str, body: bytes = b"", headers: dict | None = None
    ) -> tuple[int, bytes]:
        """Send a request as it stands; (status, body)."""
        parts = urlsplit(url)
        connection = http.client.HTTPConnection(parts.netloc, timeout=20)
        try:
            connection.request(method, url[len(f"http://{parts.netloc}") :], body, headers or {})
            response = connection.getresponse()
            return response.status, response.read()
        finally:
            connection.close()

    def signed(self, service: str, method: str, path: str, body: bytes = b"", **headers) -> tuple[int, bytes]:
        """Send a signed request; a `_` in a header's name stands for `-`."""
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        request = AWSRequest(method, f"{self.url}{path}", named, body)
        sign = S3SigV4Auth if service == "s3" else SigV4Auth
        sign(self.credentials, service, self.region).add_auth(request)
        return self.send(method, request.url, body, dict(request.headers.items()))

    def call(self, service: str, target: str, body: bytes) -> tuple[int, bytes]:
        """An operation of a service that speaks JSON 1.1."""
        return self.signed(
            service, "POST", "/", body, X_Amz_Target=target, Content_Type="application/x-amz-json-1.1"
        )

    def s3(self, method: str, bucket: str, key: str = "", query: str = "", body: bytes = b"", **headers):
        path = quote(f"/{bucket}/{key}" if key else f"/{bucket}", safe="/~")
        return self.signed("s3", method, f"{path}?{query}" if query else path, body, **headers)

    def form(self, post: dict, body: bytes) -> tuple[int, bytes]:
        """Send a form to S3 as a browser does. `post` is what generate_presigned_post gave."""
        boundary = uuid.uuid4().hex
        fields = "".join(
            f'--{boundary}\r\nContent-Disposition: form-data; name="{name}"\r\n\r\n{value}\r\n'
            for name, value in post["fields"].items()
        )
        file = f'--{boundary}\r\nContent-Disposition: form-data; name="file"; filename="a.bin"\r\n\r\n'
        whole = f"{fields}{file}".encode() + body + f"\r\n--{boundary}--\r\n".encode()
        return self.send(
            "POST", post["url"], whole, {"Content-Type": f"multipart/form-data; boundary={boundary}"}
        )
