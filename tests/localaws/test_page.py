"""The page on localaws' port: who gets it, what it may do, and what a browser shows of it."""

import http.client
import json
import re
import time
from contextlib import closing
from urllib.parse import urlencode

import pytest
import tiny

HTML = {"Accept": "text/html,application/xhtml+xml"}


@pytest.fixture(scope="module")
def account(localaws, tmp_path_factory):
    return tiny.account(localaws, tmp_path_factory.mktemp("images"))


def row(name: str) -> str:
    """The JavaScript of the row that shows the thing called `name`."""
    return f"[...document.querySelectorAll('details')].find((row) => row.querySelector('b').textContent === {name!r})"


def status(name: str) -> str:
    return f"{row(name)}?.querySelector('.status').textContent"


def test_a_browser_sees_a_job_run_and_fail_live(localaws, account, browser):
    browser.complaints.clear()
    browser.command("Page.navigate", url=localaws.page)
    browser.wait("document.querySelector('#about')?.textContent.includes('account 000000000000')")
    assert browser.ask("location.pathname + location.search") == "/_localaws/", "the token is not in sight"
    cause = "row 7: <img src=x onerror=document.title='broken-in'> is no number"
    gate = account.folder / "gate"
    train = tiny.TRAIN.replace(
        'print("sleeping")',
        f"print('waiting'); p = pathlib.Path({str(gate)!r})\n    while not p.exists(): time.sleep(0.01)",
    )
    request = account.training_request("seen-in-a-browser", sleep="0", fail=cause, exit="1")
    request["AlgorithmSpecification"]["TrainingImage"] = account.push("sagemaker-page", train=train)
    account.sagemaker.create_training_job(**request)

    browser.wait(f"{status('seen-in-a-browser')} === 'InProgress'")
    browser.ask(f"{row('seen-in-a-browser')}.querySelector('summary').click()")
    browser.wait(f"{row('seen-in-a-browser')}.querySelector('pre')?.textContent.includes('waiting')")
    gate.touch()
    browser.wait(f"{status('seen-in-a-browser')} === 'Failed'")
    shown = browser.ask(f"{row('seen-in-a-browser')}.textContent")
    assert cause in shown, "the reason is text, with its brackets"
    assert "1 ml.m5.large" in shown and "$0.00" in shown
    assert browser.ask("document.images.length") == 0
    assert browser.ask("document.title") == "localaws"
    text = browser.ask("document.body.textContent")
    for name in (account.bucket, "sagemaker-page:latest"):
        assert name in text
    assert browser.complaints == []


def test_a_browser_says_that_localaws_is_gone_and_that_it_is_back(fresh, browser):
    fresh.up()
    browser.command("Page.navigate", url=fresh.page)
    browser.wait("document.querySelectorAll('p.none').length === 6")
    fresh.command("down")
    browser.wait("!document.querySelector('#lost').hidden")
    assert "python -m localaws up" in browser.ask("document.querySelector('#lost').textContent")
    fresh.up()
    browser.wait("document.querySelector('#lost').hidden")


def test_a_phone_shows_all_of_it(localaws, account, browser):
    account.put("a-bucket-is-there", b"1")
    browser.command(
        "Emulation.setDeviceMetricsOverride", width=360, height=740, deviceScaleFactor=2, mobile=True
    )
    try:
        browser.command("Page.navigate", url=localaws.page)
        browser.wait("document.querySelectorAll('#buckets details').length > 0")
        assert browser.ask("document.documentElement.scrollWidth") <= 360
    finally:
        browser.command("Emulation.clearDeviceMetricsOverride")


def get(aws, path, **headers):
    """Ask as the owner's browser does, unless `headers` has another cookie."""
    headers = {**aws.cookie(), **headers}
    connection = http.client.HTTPConnection(aws.endpoint_url.removeprefix("http://"), timeout=30)
    with closing(connection):
        connection.request("GET", path, headers=headers)
        response = connection.getresponse()
        return response.status, response.headers, response.read()


def test_a_browser_is_sent_to_the_page_and_a_client_lists_buckets(localaws):
    status, headers, _ = get(localaws, "/", **HTML)
    assert (status, headers["Location"]) == (302, "/_localaws/")
    status, _, body = get(localaws, "/", **localaws.signed("GET", "/", headers=HTML, service="s3"))
    assert status == 200 and b"ListAllMyBucketsResult" in body


def test_the_page_may_run_its_own_script_and_nothing_else(localaws):
    status, headers, body = get(localaws, "/_localaws/", **HTML)
    assert status == 200
    policy = dict(part.split(" ", 1) for part in headers["Content-Security-Policy"].split("; "))
    assert policy["default-src"] == policy["base-uri"] == policy["frame-ancestors"] == "'none'"
    assert re.fullmatch(r"'sha256-[\w+/]+='", policy["script-src"])
    assert policy["connect-src"] == "'self'"
    body = body.replace(b'"http://www.w3.org/2000/svg"', b"")  # a name, which nobody fetches
    assert not re.search(rb"https?://|<script |style=| on[a-z]+=", body), (
        "nothing from elsewhere, nothing inline"
    )


@pytest.mark.parametrize("site", ["cross-site", "same-site"])
def test_a_link_may_open_the_page_and_nothing_more(localaws, site):
    """A notebook's link to the page is followed; no other site's page may read what it shows."""
    link = {**HTML, "Sec-Fetch-Site": site, "Sec-Fetch-Mode": "navigate", "Sec-Fetch-Dest": "document"}
    assert get(localaws, "/", **link)[0] == 302
    assert get(localaws, "/_localaws/", **link)[0] == 200
    for path in ("/_localaws/state", "/_localaws/logs/endpoint/e", "/a-bucket/key", "/?delete"):
        assert get(localaws, path, **link)[0] == 403
    assert get(localaws, "/_localaws/", **{**link, "Sec-Fetch-Dest": "iframe"})[0] == 403
    assert get(localaws, "/_localaws/", **{**link, "Sec-Fetch-Mode": "no-cors"})[0] == 403
    assert get(localaws, "/_localaws/", **{**link, "Host": "evil.example"})[0] == 403


def test_an_object_that_is_a_web_page_is_kept_in_a_sandbox(localaws, account):
    account.s3.put_object(
        Bucket=account.bucket, Key="evil.html", Body=b"<script></script>", ContentType="text/html"
    )
    url = account.s3.generate_presigned_url(
        "get_object", Params={"Bucket": account.bucket, "Key": "evil.html"}
    )
    status, headers, _ = get(localaws, url.removeprefix(localaws.endpoint_url), **HTML)
    assert (status, headers["Content-Security-Policy"]) == (200, "sandbox")


@pytest.mark.parametrize(
    "path",
    [
        *("nothing", "logs/model/m", "logs/training/..%2f..", "logs/endpoint/", "state/x", "detail/bucket/b"),
        *(
            "detail/training/",
            "objects",
            "object?bucket=b",
            "object/x?bucket=b&key=k",
            "invoke/",
            "invoke/..%2f",
        ),
    ],
)
def test_there_is_nothing_else_below_it(localaws, path):
    status, _, body = get(localaws, f"/_localaws/{path}")
    assert status == 404 and b"There is nothing at" in body


def test_up_says_where_the_page_is(localaws):
    assert f"See what is in it: {localaws.page} in a browser" in localaws.command("up").stdout
    assert f"page         {localaws.page}\n" in localaws.command("status").stdout


def test_the_token_becomes_a_cookie_and_leaves_the_address(localaws):
    status, headers, _ = get(localaws, localaws.page.removeprefix(localaws.endpoint_url), Cookie="", **HTML)
    assert (status, headers["Location"]) == (302, "/_localaws/")
    cookie, *attributes = headers["Set-Cookie"].split("; ")
    assert {"HttpOnly", "Path=/_localaws/", "SameSite=Strict"} <= {*attributes}
    assert get(localaws, "/_localaws/", Cookie=cookie, **HTML)[0] == 200
    assert get(localaws, "/_localaws/state", Cookie=cookie)[0] == 200


@pytest.mark.parametrize("cookie", ["", "localaws-{port}=", "localaws-{port}=0123abc", "localaws-1={token}"])
@pytest.mark.parametrize(
    "path", ["", "state", "logs/endpoint/e", "invoke/e", "nothing", "?token=0123", "?token="]
)
def test_without_it_the_page_says_how_to_get_the_link_and_no_more(localaws, cookie, path):
    port, token = localaws.endpoint_url.rpartition(":")[2], localaws.page.rpartition("=")[2]
    for headers in ({}, HTML):
        cookies = cookie.format(port=port, token=token)
        status, answered, body = get(localaws, f"/_localaws/{path}", Cookie=cookies, **headers)
        assert (status, answered["Set-Cookie"]) == (403, None)
        assert b"python -m localaws up" in body and token.encode() not in body


def test_a_link_on_another_site_opens_the_page_in_its_owners_browser(localaws, browser):
    """A notebook's link, for one. The browser then keeps the cookie back, until the page asks for itself."""
    browser.command("Page.navigate", url=localaws.page)
    browser.wait("document.querySelector('#about')?.textContent.includes('account')")
    for address in (f"{localaws.endpoint_url}/", localaws.page):
        browser.command("Page.navigate", url=f"data:text/html,<a href='{address}'>page</a>")
        browser.wait("document.querySelector('a') !== null")
        browser.ask("document.querySelector('a').click()")
        browser.wait("document.querySelector('#about')?.textContent.includes('account')")


def test_what_an_endpoint_would_cost(localaws, account):
    name = account.endpoint(account.config(account.model(), count=2))
    (endpoint,) = [one for one in state(localaws)["endpoints"] if one["name"] == name]
    assert endpoint["instances"] == "2 ml.m5.large"
    assert endpoint["hourly"] == pytest.approx(2 * 0.115)
    assert endpoint["cost"] == pytest.approx(2 * 0.115 * (time.time() - endpoint["created"]) / 3600, abs=1e-4)
    request = account.training_request(exit="0")
    request["ResourceConfig"]["InstanceType"] = "ml.c5n.xlarge"
    account.train(request)
    (job,) = [one for one in state(localaws)["jobs"] if one["name"] == request["TrainingJobName"]]
    assert (job["instances"], job["cost"]) == ("1 ml.c5n.xlarge", None), "no price, no figure"


def state(aws, **shown: int) -> dict:
    """What the page is told; `shown` says how many of a kind."""
    return json.loads(get(aws, f"/_localaws/state?{urlencode(shown)}")[2])


def test_what_a_bucket_holds(localaws, account):
    """Counted in moto's memory, so compared with what a client is told, versions and delete markers included."""
    bucket = "sagemaker-page-counts"
    account.s3.create_bucket(Bucket=bucket, CreateBucketConfiguration={"LocationConstraint": "us-west-2"})
    account.s3.put_bucket_versioning(Bucket=bucket, VersioningConfiguration={"Status": "Enabled"})
    for key, body in (("a", b"1"), ("a", b"22"), ("b", b"333"), ("gone", b"4444")):
        account.s3.put_object(Bucket=bucket, Key=key, Body=body)
    account.s3.delete_object(Bucket=bucket, Key="gone")
    (shown,) = [one for one in state(localaws)["buckets"] if one["name"] == bucket]
    listed = account.s3.list_objects_v2(Bucket=bucket)["Contents"]
    assert (
        (shown["objects"], shown["bytes"]) == (len(listed), sum(entry["Size"] for entry in listed)) == (2, 5)
    )
    (entry,) = [one for one in account.s3.list_buckets()["Buckets"] if one["Name"] == bucket]
    assert shown["created"] == pytest.approx(entry["CreationDate"].timestamp(), abs=1)
