"""The page on localaws' port: who gets it, and what it may ask. What it shows is in console.py and details.py.

    /_localaws/                     the page (page.html with page.css and page.js); a browser that asks for / is sent here
    /_localaws/state                what there is: counts and sums of everything, the newest of each kind
    /_localaws/detail/KIND/NAME     what there is to know of one job, model or endpoint
    /_localaws/logs/KIND/NAME       the last lines of a job or an endpoint
    /_localaws/objects, /object     what is in a bucket, and the beginning of an object
    /_localaws/invoke/NAME          POST: ask an endpoint, the only thing that the page does

No bucket's name may begin with an underscore, so nothing of S3's is hidden by these paths. All of them are the owner's:
the address that `up` prints has a token, which becomes a cookie. A name, a log line or an object's content reaches the
page as JSON and becomes text there, never markup.
"""

import hashlib
import hmac
import re
from base64 import b64encode
from collections.abc import Callable
from pathlib import Path

from werkzeug import Request, Response

from localaws import protocol
from localaws.errors import AwsError

from . import objects
from .console import SHOWN, Console
from .details import LOGS, TRIALS, Details

PATH = "/_localaws/"
NAME = re.compile(r"[A-Za-z0-9-]{1,63}")
MOST = 5000  # of a kind, in one answer
MAX_BODY = 6 << 20  # of an invocation, as AWS has it, and a little more: the endpoint says what is too much
STRANGER = (
    "This page shows its owner's jobs and logs. If they are yours, open the link that this command prints: "
    "python -m localaws up"
)


def _assembled() -> str:
    """The page with its style and its script in it: one file to a browser, three to their readers."""
    html, css, js = (
        Path(__file__).with_name(f"page.{kind}").read_text("utf-8") for kind in ("html", "css", "js")
    )
    return html.replace("<style></style>", f"<style>\n{css}</style>").replace(
        "<script></script>", f"<script>\n{js}</script>"
    )


HTML = _assembled()


def _policy() -> str:
    """Allow the page its own script and style, by their digests, and to ask this server: nothing else."""

    def digest(tag: str) -> str:
        text = re.search(rf"<{tag}>(.*?)</{tag}>", HTML, re.DOTALL)[1]
        return "sha256-" + b64encode(hashlib.sha256(text.encode()).digest()).decode()

    return (
        f"default-src 'none'; script-src '{digest('script')}'; style-src '{digest('style')}'; connect-src 'self'; "
        "img-src data:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    )


HEADERS = {
    "Content-Security-Policy": _policy(),
    "Cache-Control": "no-store",
    "Referrer-Policy": "no-referrer",
}


def is_wanted(request: Request) -> bool:
    """Tell whether a browser's window asks for the page. AWS's clients sign what they ask, and take no HTML."""
    return (
        request.method == "GET"
        and (request.path == PATH or (request.path == "/" and not request.query_string))
        and "Authorization" not in request.headers
        and "text/html" in request.headers.get("Accept", "")
        and request.headers.get("Sec-Fetch-Dest", "document") == "document"
    )


class Page:
    """Answers below PATH for the localaws that listens at `url`. Who has `token`, or a ticket to `spend`, is its owner."""

    def __init__(
        self, console: Console, details: Details, url: str, token: str, spend: Callable[[str], bool]
    ):
        self.console, self.details, self.spend = console, details, spend
        self.token, self.cookie = token, f"localaws-{url.rpartition(':')[2]}"  # a cookie is sent to all ports
        self.answers: dict[str, Callable[[Request, str], dict]] = {
            "state": self._state,
            "detail": self._detail,
            "logs": self._logs,
            "objects": self._objects,
            "object": self._object,
        }

    def __call__(self, request: Request) -> Response:
        path, wanted = request.path.removeprefix(PATH), is_wanted(request)
        if wanted and (
            request.path != PATH or self._is(request.args.get("token")) or self._has_ticket(request)
        ):
            response = Response(status=302, headers={"Location": PATH, **HEADERS})
            if request.path == PATH:
                response.set_cookie(self.cookie, self.token, path=PATH, httponly=True, samesite="Strict")
            return response
        if not self._is(request.cookies.get(self.cookie)):
            if not wanted:
                raise AwsError("AccessDeniedException", STRANGER, 403)
            # A browser that comes by another site's link keeps the cookie back, until the page itself asks.
            again = request.headers.get("Sec-Fetch-Site") in ("cross-site", "same-site")
            headers = {**HEADERS, "Refresh": f"0; url={PATH}"} if again else HEADERS
            return Response(STRANGER, 403, headers, content_type="text/plain; charset=utf-8")
        if wanted:
            return Response(HTML, headers=HEADERS, content_type="text/html; charset=utf-8")
        what, _, rest = path.partition("/")
        if what == "invoke" and NAME.fullmatch(rest):
            said = self._invoke(request, rest)
        elif what in self.answers and request.method == "GET":
            said = self.answers[what](request, rest)
        else:
            raise _nothing(request)
        return protocol.answer(said, headers={"Cache-Control": "no-store"})

    def _has_ticket(self, request: Request) -> bool:
        return "ticket" in request.args and self.spend(request.args["ticket"])

    def _is(self, token: str | None) -> bool:
        return hmac.compare_digest((token or "").encode(), self.token.encode())

    def _state(self, request: Request, rest: str) -> dict:
        if rest:
            raise _nothing(request)
        shown = {kind: _number(request, kind, least) for kind, least in SHOWN.items()}
        kind, _, name = request.args.get("also", "").partition("/")
        return self.console.state(shown, (kind, name) if name else None)

    def _detail(self, request: Request, rest: str) -> dict:
        kind, name = _named(request, rest, self.details.kinds)
        return self.details.of(kind, name, _number(request, "trials", TRIALS), request.args.get("also", ""))

    def _logs(self, request: Request, rest: str) -> dict:
        return self.details.lines(*_named(request, rest, LOGS), pings="pings" in request.args)

    def _objects(self, request: Request, rest: str) -> dict:
        asked = (request.args.get(name, "") for name in ("bucket", "prefix", "token"))
        bucket, prefix, token = asked
        if rest or not bucket:
            raise _nothing(request)
        return objects.listing(self.details.s3, bucket, prefix, token)

    def _object(self, request: Request, rest: str) -> dict:
        bucket, key = (request.args.get(name, "") for name in ("bucket", "key"))
        if rest or not bucket or not key:
            raise _nothing(request)
        return objects.look_into(self.details.s3, bucket, key)

    def _invoke(self, request: Request, endpoint: str) -> dict:
        """Ask an endpoint, for the page alone: what another page sends has that page's Origin, and a form none of ours."""
        if request.method != "POST":
            raise AwsError("MethodNotAllowedException", "An endpoint is asked by POST", 405)
        # The front has refused other sites' (server.py); here it must be this very page, which says so.
        own = request.headers.get("Origin") == f"http://{request.headers.get('Host')}"
        if not own or request.headers.get("Sec-Fetch-Site", "same-origin") != "same-origin":
            raise AwsError(
                "AccessDeniedException", "Only localaws' own page may ask an endpoint this way", 403
            )
        protocol.bound(request, MAX_BODY + 1024)
        headers = {"content-type": request.headers.get("Content-Type", "application/octet-stream")}
        if variant := request.args.get("variant"):
            headers["x-amzn-sagemaker-target-variant"] = variant
        return self.details.invoke(endpoint, headers, request.get_data())


def _named(request: Request, rest: str, kinds) -> tuple[str, str]:
    kind, _, name = rest.partition("/")
    if kind not in kinds or not NAME.fullmatch(name):
        raise _nothing(request)
    return kind, name


def _number(request: Request, name: str, least: int) -> int:
    """How many of something are asked for."""
    text = request.args.get(name, "")
    return min(max(int(text), least), MOST) if re.fullmatch(r"[0-9]{1,6}", text) else least


def _nothing(request: Request) -> AwsError:
    return AwsError("UnknownOperationException", f"There is nothing at {request.path}", 404)
