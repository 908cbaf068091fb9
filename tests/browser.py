"""A real browser for tests, spoken to in its own protocol: https://chromedevtools.github.io/devtools-protocol."""

import json
import shutil
import subprocess
import urllib.request
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import websocket
from waiting import wait_until

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
OPTIONS = [
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--remote-debugging-port=0",
    "--remote-allow-origins=*",
]


class Browser:
    """One window of it. `complaints` holds what its page logged, `requests` the addresses that it asked for."""

    def __init__(self, profile: Path):
        targets = json.loads(urllib.request.urlopen(f"http://127.0.0.1:{_port(profile)}/json/list").read())
        window = next(target for target in targets if target["type"] == "page")
        self.socket = websocket.create_connection(window["webSocketDebuggerUrl"], timeout=30)
        self.sent = 0
        self.complaints = []
        self.requests = []
        for domain in ("Page", "Runtime", "Log", "Network"):
            self.command(f"{domain}.enable")

    def command(self, method: str, **parameters) -> dict:
        """Send one command and return its result; keep what the page did meanwhile."""
        self.sent += 1
        self.socket.send(json.dumps({"id": self.sent, "method": method, "params": parameters}))
        while True:
            message = json.loads(self.socket.recv())
            if message.get("method") in ("Runtime.exceptionThrown", "Log.entryAdded"):
                self.complaints.append(message["params"])
            if message.get("method") == "Network.requestWillBeSent":
                self.requests.append(message["params"]["request"]["url"])
            if message.get("id") == self.sent:
                assert "error" not in message, message
                return message["result"]

    def ask(self, expression: str):
        """The value of a JavaScript expression in the page."""
        answer = self.command("Runtime.evaluate", expression=expression, returnByValue=True)
        assert "exceptionDetails" not in answer, answer
        return answer["result"].get("value")

    def wait(self, expression: str):
        """Ask until the answer is a true one, and return it."""
        return wait_until(lambda: self.ask(expression))


def violations(browser: Browser, axe_source: str) -> list[str]:
    """What axe-core finds on the page that the browser shows, serious or critical: each with its rule and elements.

    Of `axe_source` the fixture `axe` knows the file.
    """
    browser.command("Runtime.evaluate", expression=axe_source)
    answer = browser.command(
        "Runtime.evaluate", expression="axe.run()", awaitPromise=True, returnByValue=True
    )
    found = answer["result"]["value"]
    assert len(found["passes"]) > 5, "it has looked at nothing"
    return [
        f"{one['id']} ({one['impact']}): {node['target']} {node['failureSummary']}"
        for one in found["violations"]
        for node in one["nodes"]
        if one["impact"] in ("serious", "critical")
    ]


def _port(profile: Path) -> int:
    file = profile / "DevToolsActivePort"
    return int(wait_until(lambda: file.exists() and file.read_text()).splitlines()[0])


@contextmanager
def opened(profile: Path) -> Iterator[Browser]:
    """A browser that keeps what it keeps in the folder `profile`."""
    command = [CHROMIUM, *OPTIONS, f"--user-data-dir={profile}", "about:blank"]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as process:
        try:
            browser = Browser(profile)
            with closing(browser.socket):
                yield browser
        finally:
            process.terminate()
