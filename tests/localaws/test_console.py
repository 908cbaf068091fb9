"""What the page shows as a console: trials, links, drawings, logs, buckets, calls, totals; and its one form."""

import http.client
import json
import os
import re
import time
from contextlib import closing
from unittest.mock import patch
from urllib.parse import quote, urlencode

import browser as chromium
import pytest
import tiny
from test_page import get, row, state
from werkzeug import Request
from werkzeug.test import EnvironBuilder

import localaws as package
from localaws.door.calls import KEPT, Calls, _s3_operation
from localaws.state import locate
from localaws.state.database import Database
from localaws.state.store import Store

HOSTILE = "<img src=x onerror=document.title='broken-in'>"
METRICS = [{"Name": "loss", "Regex": "loss=([0-9.]+);"}]
PINGING = tiny.SERVE.replace(
    "    def do_GET(self):\n",
    """    def do_GET(self):
        print('127.0.0.1 - - [22/Nov/2026:10:00:00 +0000] "GET /ping HTTP/1.1" 200 0 "-" "-"', flush=True)
""",
)


@pytest.fixture(scope="module")
def account(localaws, tmp_path_factory):
    made = tiny.account(localaws, tmp_path_factory.mktemp("images"))
    made.pinging = made.push("sagemaker-console-pinging", serve=PINGING)
    return made


@pytest.fixture(scope="module")
def walk(account):
    """The names of a job, of the model made of it, and of the endpoint that serves that."""
    request = account.training_request("console-job", model="console", alpha="0.5")
    request["AlgorithmSpecification"]["MetricDefinitions"] = METRICS
    job = account.train(request)
    account.sagemaker.create_model(
        ModelName="console-model",
        ExecutionRoleArn=account.role,
        PrimaryContainer={
            "Image": account.pinging,
            "ModelDataUrl": job["ModelArtifacts"]["S3ModelArtifacts"],
        },
    )
    endpoint = account.endpoint(account.config("console-model", "console-model", weights=(1, 1)))
    for _ in range(3):
        account.invoke(endpoint, "1,2,3\n", ContentType="text/csv")
    return "console-job", "console-model", endpoint


@pytest.fixture(scope="module")
def tuned(account):
    """The names of a tuning job and of its two training jobs."""
    definition = account.training_request()
    del definition["TrainingJobName"], definition["HyperParameters"]
    definition["AlgorithmSpecification"]["MetricDefinitions"] = METRICS
    account.sagemaker.create_hyper_parameter_tuning_job(
        HyperParameterTuningJobName="console-tuning",
        HyperParameterTuningJobConfig={
            "Strategy": "Grid",
            "HyperParameterTuningJobObjective": {"Type": "Minimize", "MetricName": "loss"},
            "ResourceLimits": {"MaxParallelTrainingJobs": 2},
            "ParameterRanges": {"CategoricalParameterRanges": [{"Name": "model", "Values": ["a", "b"]}]},
        },
        TrainingJobDefinition=definition,
    )
    where = {"HyperParameterTuningJobName": "console-tuning"}

    def ended():
        job = account.sagemaker.describe_hyper_parameter_tuning_job(**where)
        return job["HyperParameterTuningJobStatus"] == "Completed"

    tiny.wait_until(ended)
    trials = account.sagemaker.list_training_jobs_for_hyper_parameter_tuning_job(**where)
    return "console-tuning", sorted(one["TrainingJobName"] for one in trials["TrainingJobSummaries"])


def ask(aws, path: str, **query) -> dict:
    """What the page is told at a path below its own."""
    status, _, body = get(aws, f"/_localaws/{path}?{urlencode(query)}")
    assert status == 200, body
    return json.loads(body)


def opened(browser, aws, address: str = "") -> None:
    """Have the browser open the page, at an address in it."""
    browser.complaints.clear()
    browser.command("Page.navigate", url="about:blank")
    browser.command("Page.navigate", url=aws.page + address)
    browser.wait("document.querySelector('#about')?.textContent.includes('account')")


def leads_to(facts: list) -> dict:
    return {label: [part["to"] for part in parts if "to" in part] for label, parts in facts}


# Trials


def test_a_tuning_jobs_trials_are_told_below_it_and_counted(localaws, tuned):
    name, trials = tuned
    told = state(localaws)
    assert not {job["name"] for job in told["jobs"]} & set(trials), "no loose training jobs"
    (job,) = [job for job in told["jobs"] if job["name"] == name]
    assert (job["status"], job["trials"], job["best"] in trials) == ("Completed", 2, True)
    detail = ask(localaws, f"detail/tuning/{name}")
    assert [one["name"] for one in reversed(detail["trials"])] == trials
    assert {one["what"] for one in detail["trials"]} == {"model a", "model b"}
    assert [value for _, value in detail["objective"]["points"]] == [0.25, 0.25]
    # The server is shared: other tests have tuned there, too.
    pages = localaws.client("sagemaker").get_paginator("list_hyper_parameter_tuning_jobs").paginate()
    tuning = [one for page in pages for one in page["HyperParameterTuningJobSummaries"]]
    assert (
        told["totals"]["trials"] == sum(sum(one["TrainingJobStatusCounters"].values()) for one in tuning) >= 2
    )
    costs = [one["cost"] for one in detail["trials"]]
    assert job["cost"] == pytest.approx(sum(costs)) and min(costs) > 0


def test_a_browser_opens_a_trial_inside_its_tuning_job(localaws, tuned, browser):
    name, (trial, _) = tuned
    opened(browser, localaws, f"#job/{trial}")
    browser.wait(f"rows.get('training/{trial}')?.details.open")
    inside = f"rows.get('training/{trial}').details.parentElement.closest('details')"
    assert browser.ask(f"{inside} === rows.get('tuning/{name}').details && {inside}.open")
    assert browser.ask("document.activeElement") is not None
    browser.wait(f"document.activeElement === rows.get('training/{trial}').summary")
    assert browser.ask(f"rows.get('tuning/{name}').drawn.querySelector('svg').ariaLabel").startswith(
        "loss: 2 tr"
    )
    assert browser.complaints == []


# Links and drawings


def test_a_job_leads_to_its_model_that_to_its_endpoint_and_back(localaws, account, walk):
    job, model, endpoint = walk
    to_model = leads_to(ask(localaws, f"detail/training/{job}")["facts"])
    assert to_model["Model"] == [["model", model]]
    assert to_model["Channel training"] == [["bucket", account.bucket, "data/a.csv"]]
    of_model = leads_to(ask(localaws, f"detail/model/{model}")["facts"])
    assert (of_model["Endpoint"], of_model["Trained by"]) == ([["endpoint", endpoint]], [["training", job]])
    of_endpoint = ask(localaws, f"detail/endpoint/{endpoint}")
    assert leads_to(of_endpoint["facts"])["Model"] == [["model", model]]
    assert of_endpoint["variants"] == ["v0", "v1"]


def test_a_browser_follows_the_links_there_and_back(localaws, walk, browser):
    job, model, endpoint = walk
    opened(browser, localaws, f"#job/{job}")
    for here, there in (
        (f"training/{job}", f"model/{model}"),
        (f"model/{model}", f"endpoint/{endpoint}"),
        (f"endpoint/{endpoint}", f"model/{model}"),
        (f"model/{model}", f"training/{job}"),
    ):
        link = (
            f"[...(rows.get('{here}')?.facts.querySelectorAll('a') ?? [])].find((a) => a.hash === '#{there}')"
        )
        browser.wait(f"{link} !== undefined")
        browser.ask(f"rows.get('{there}').details.open = false")
        browser.ask(f"{link}.click()")
        browser.wait(f"rows.get('{there}').details.open")
        browser.wait(f"document.activeElement === rows.get('{there}').summary")
    assert browser.complaints == []


def test_what_is_drawn_has_its_words(localaws, walk, browser):
    job, _, endpoint = walk
    opened(browser, localaws, f"#job/{job}")
    label = f"rows.get('training/{job}')?.drawn.querySelector('svg')?.ariaLabel"
    browser.wait(f"{label} !== undefined && {label} !== null")
    assert re.fullmatch(
        r"loss: 2 values in [\d.]+ s, from 0\.5 to 0\.25; lowest 0\.25, highest 0\.5", browser.ask(label)
    )
    assert browser.ask(f"rows.get('training/{job}').drawn.querySelectorAll('path.line').length") == 1
    assert (
        browser.ask(f"rows.get('training/{job}').values.textContent")
        == "Hyperparametersmodel = consolealpha = 0.5"
    )
    browser.ask(f"location.hash = '#endpoint/{endpoint}'")
    shown = f"[...(rows.get('endpoint/{endpoint}')?.drawn.querySelectorAll('figure p') ?? [])].map((p) => p.textContent)"
    browser.wait(f"{shown}.length > 0")
    words = " ".join(browser.ask(shown))
    assert (
        sum(map(int, re.findall(r"(\d+) requests?,", words))) >= 3
        and "ms on average in the container" in words
    )


def test_a_metric_that_could_take_for_ever_does_not(localaws, account):
    request = account.training_request(output="x")
    request["AlgorithmSpecification"]["MetricDefinitions"] = [
        {"Name": "endless", "Regex": "(a+)+b="},
        *METRICS,
    ]
    train = tiny.TRAIN.replace('print("loss', 'print("a" * 40)\nprint("loss')
    request["AlgorithmSpecification"]["TrainingImage"] = account.push(
        "sagemaker-console-endless", train=train
    )
    account.train(request)
    metrics = ask(localaws, f"detail/training/{request['TrainingJobName']}")["metrics"]
    assert [metric["name"] for metric in metrics] in ([], ["loss"])


# Logs


def test_pings_are_left_out_of_a_log_unless_they_are_asked_for(localaws, walk, browser):
    *_, endpoint = walk
    left_out = ask(localaws, f"logs/endpoint/{endpoint}")
    assert left_out["pings"] > 0 and not [line for line in left_out["lines"] if "/ping" in line]
    assert any("serving console" in line for line in left_out["lines"])
    assert any("GET /ping" in line for line in ask(localaws, f"logs/endpoint/{endpoint}", pings=1)["lines"])
    opened(browser, localaws, f"#endpoint/{endpoint}")
    log = f"rows.get('endpoint/{endpoint}')?.pre?.textContent"
    browser.wait(f"{log}?.includes('serving')")
    assert not browser.ask(f"{log}.includes('/ping')")
    assert re.search(
        r"show pings \(\d+ left out\)", browser.ask(f"rows.get('endpoint/{endpoint}').log.textContent")
    )
    browser.ask(f"rows.get('endpoint/{endpoint}').pings.click()")
    browser.wait(f"{log}.includes('GET /ping')")


# S3


def test_what_an_object_is_looked_into_as(localaws, account):
    def look(key, body, kind=None):
        more = {"ContentType": kind} if kind else {}
        account.s3.put_object(Bucket=account.bucket, Key=key, Body=body, **more)
        return ask(localaws, "object", bucket=account.bucket, key=key)

    table = look("look/a.csv", 'sepal,species\n5.1,"a, b"\n\n6.0,c\n')
    assert (table["rows"], table["count"]) == ([["sepal", "species"], ["5.1", "a, b"], ["6.0", "c"]], 3)
    large = look("look/large.csv", "1,2,3\n" * 200_000)
    assert (len(large["rows"]), large["count"], large["whole"]) == (30, None, False)
    wide = look("look/wide.csv", ",".join(["x" * 5000] * 50))
    assert (
        (len(wide["rows"][0]), wide["columns"], len(wide["rows"][0][0])) == (20, 50, 120)
        if wide["whole"]
        else True
    )
    assert look("look/a.json", '{"b":[1]}')["text"] == '{\n  "b": [\n    1\n  ]\n}'
    assert look("look/broken.json", "{")["text"] == "{"
    assert look("look/deep.json", "[" * 60_000)["text"].startswith("[[[")
    assert look("look/plain", "hello")["text"] == "hello"
    assert look("look/empty", "")["text"] == ""
    cut = look("look/cut.txt", "ä" * 40_000)
    assert (cut["whole"], set(cut["text"])) == (False, {"ä"})
    for binary in (look("look/b", b"\xff\xfe\x00"), look("look/nul", b"a\0b")):
        assert "text" not in binary and "rows" not in binary
    status, _, body = get(localaws, f"/_localaws/object?bucket={account.bucket}&key=nothing")
    assert status == 404, body
    assert get(localaws, "/_localaws/objects?bucket=no-such-bucket")[0] == 404


def test_a_browser_walks_through_a_bucket_and_nothing_in_it_becomes_markup(localaws, account, browser):
    key = f"walk/{HOSTILE}/{HOSTILE}.csv"
    account.put(key, f"a,b\n{HOSTILE},2\n")
    for number in range(120):
        account.put(f"walk/many/{number:03}", "x")
    opened(browser, localaws, f"#bucket/{account.bucket}/walk/")
    files = f"rows.get('bucket/{account.bucket}')?.files"
    names = f"[...({files}?.querySelectorAll('td button') ?? [])].map((one) => one.textContent)"
    browser.wait(f"{names}.length === 2")
    assert browser.ask(names) == [f"{HOSTILE}/", "many/"]
    browser.ask(f"{files}.querySelector('td button').click()")
    browser.wait(f"{names}[0]?.endsWith('.csv')")
    browser.ask(f"{files}.querySelector('td button').click()")
    browser.wait(f"{files}.querySelectorAll('.scroll td').length === 4")
    assert (
        browser.ask(f"[...{files}.querySelectorAll('.scroll td')].map((one) => one.textContent)")[2]
        == HOSTILE
    )
    assert browser.ask("document.images.length") == 0 and browser.ask("document.title") == "localaws"
    browser.ask(
        f"[...{files}.querySelectorAll('nav button')].find((one) => one.textContent === 'walk').click()"
    )
    browser.wait(f"{names}[1] === 'many/'")
    browser.ask(f"{files}.querySelectorAll('td button')[1].click()")
    browser.wait(f"{names}.at(-1) === 'Show more'")
    browser.ask(f"[...{files}.querySelectorAll('td button')].at(-1).click()")
    browser.wait(f"{names}.length === 120 && {names}.at(-1) === '119'")
    # An object's own address opens it.
    opened(browser, localaws, f"#bucket/{account.bucket}/{quote(key)}")
    browser.wait(f"{files}?.querySelectorAll('.scroll td').length === 4")
    # What comes is listed, and what is looked into stays.
    account.put("walk/" + HOSTILE + "/new", "x")
    browser.wait(f"{names}.includes('new') && {files}.querySelectorAll('.scroll td').length === 4")
    assert browser.complaints == []


# The form


def post(aws, path: str, body=b"1,2\n", **headers):
    """Ask as the page's own script does, unless `headers` has something else; None leaves one out."""
    own = {
        "Origin": aws.endpoint_url,
        "Sec-Fetch-Site": "same-origin",
        "Content-Type": "text/csv",
        **aws.cookie(),
    }
    names = {name.replace("_", "-"): value for name, value in headers.items()}
    sent = {name: value for name, value in {**own, **names}.items() if value is not None}
    connection = http.client.HTTPConnection(aws.endpoint_url.removeprefix("http://"), timeout=30)
    with closing(connection):
        connection.request("POST", path, body, sent)
        response = connection.getresponse()
        return response.status, response.read()


def test_the_form_shows_the_answer_and_the_containers_error_as_it_is(localaws, walk, browser):
    *_, endpoint = walk
    opened(browser, localaws, f"#endpoint/{endpoint}")
    form = f"rows.get('endpoint/{endpoint}').form"
    browser.wait(f"rows.get('endpoint/{endpoint}')?.form.querySelector('form') != null")
    options = f"[...{form}.querySelectorAll('option')].map((one) => one.value)"
    assert browser.ask(options) == ["", "v0", "v1"]

    def tried(body: str) -> str:
        browser.ask(f"{form}.querySelector('textarea').value = {json.dumps(body)}")
        browser.ask(f"{form}.querySelector('select').value = 'v1'")
        browser.ask(f"{form}.querySelector('output').replaceChildren()")
        browser.ask(f"{form}.querySelector('form').requestSubmit()")
        browser.wait(f"{form}.querySelector('output pre') !== null")
        return browser.ask(f"{form}.querySelector('output').innerText")

    good = tried("1,2,3,4")
    assert re.search(r"200\s+[\d.]+ ms\s.*variant v1\s+4,1", good, re.DOTALL), good
    bad = tried(f"status 418 {HOSTILE}")
    assert "424, the container's 418" in bad and f"as you wish: status 418 {HOSTILE}" in bad
    assert browser.ask("document.images.length") == 0 and browser.ask("document.title") == "localaws"
    # What was typed stays, however often the page looks anew.
    looks = "performance.getEntriesByType('resource').filter((one) => one.name.includes('detail/endpoint')).length"
    before = browser.ask(looks)
    browser.wait(f"{looks} > {before} + 1")
    assert browser.ask(f"{form}.querySelector('textarea').value") == f"status 418 {HOSTILE}"


def test_only_the_page_itself_may_ask_an_endpoint(localaws, account, walk):
    *_, endpoint = walk
    path, port = f"/_localaws/invoke/{endpoint}", localaws.endpoint_url.rpartition(":")[2]
    status, body = post(localaws, path)
    said = json.loads(body)
    assert (status, said["status"], said["text"]) == (200, 200, "2,1\n") and said["milliseconds"] > 0
    before = invocations(localaws)
    for wrong in (
        {"Cookie": ""},
        {"Cookie": f"localaws-{port}=0123"},
        {"Origin": None},
        {"Origin": "null"},
        {"Origin": "http://127.0.0.1:8888"},  # JupyterLab, say: another origin, and the same site to a cookie
        {"Origin": f"http://localhost:{port}"},  # this page under its other name, whose cookie is another
        {"Origin": "https://evil.example", "Sec_Fetch_Site": "cross-site"},
        {"Sec_Fetch_Site": "same-site"},
        {"Sec_Fetch_Site": "none"},
        {"Host": "evil.example"},
    ):
        assert post(localaws, path, **wrong)[0] == 403, wrong
    assert get(localaws, path)[0] == 405, "a link, a picture or a form that is sent by GET does nothing"
    assert invocations(localaws) == before
    status, body = post(localaws, "/_localaws/invoke/no-such-endpoint")
    assert status == 200 and json.loads(body)["code"] == "ValidationError"
    assert post(localaws, path, b"x" * (7 << 20))[0] == 413
    assert json.loads(post(localaws, f"{path}?variant=v9")[1])["message"].startswith("Variant v9 not found")


def invocations(aws) -> int:
    """How many invocations by the page its list of calls has."""
    calls = state(aws, calls=KEPT)["calls"]
    return sum(call["count"] for call in calls if call["agent"] == "this page")


def test_the_form_begins_with_the_algorithms_own_example(fresh):
    """Its image is one of container/, as the labs build it."""
    fresh.up()
    account = tiny.account(fresh, fresh.home / "images-of-the-test")
    uri = fresh.client("ecr").create_repository(repositoryName="knn")["repository"]["repositoryUri"]
    fresh.command("build", "knn")
    fresh.command("push", "knn", uri)
    data = account.put("training/iris.csv", (locate.ROOT / "data" / "iris.csv").read_bytes())
    request = account.training_request("example-job", data)
    request["AlgorithmSpecification"]["TrainingImage"] = f"{uri}:latest"
    artifact = account.train(request)["ModelArtifacts"]["S3ModelArtifacts"]
    container = {"Image": f"{uri}:latest", "ModelDataUrl": artifact}
    account.sagemaker.create_model(ModelName="m", ExecutionRoleArn=account.role, PrimaryContainer=container)
    endpoint = account.endpoint(account.config("m"))
    example = ask(fresh, f"detail/endpoint/{endpoint}")["example"]
    assert (example["type"], example["name"]) == ("text/csv", "payload.csv")
    assert example["text"] == (locate.ROOT / "container" / "knn" / "payload.csv").read_text()
    said = json.loads(post(fresh, f"/_localaws/invoke/{endpoint}", example["text"].encode())[1])
    assert said["status"] == 200 and "setosa" in said["text"], said


# Calls


def test_calls_are_told_with_who_made_them_and_nothing_of_what_they_carried(localaws, account):
    user = account.aws.client("iam")
    user.create_user(UserName="ana-of-the-console")
    key = user.create_access_key(UserName="ana-of-the-console")["AccessKey"]
    s3 = localaws.client(
        "s3", aws_access_key_id=key["AccessKeyId"], aws_secret_access_key=key["SecretAccessKey"]
    )
    s3.put_object(Bucket=account.bucket, Key="secret-key-of-an-object", Body=b"secret-body")
    for _ in range(3):
        with pytest.raises(s3.exceptions.ClientError):
            s3.get_object(Bucket=account.bucket, Key="secret-not-there")
    stranger = localaws.client("sagemaker", aws_secret_access_key="wrong")
    with pytest.raises(stranger.exceptions.ClientError):
        stranger.list_models()
    account.sagemaker.list_models()
    told = state(localaws, calls=30)["calls"]
    found = {
        (call["operation"], call["who"], call["agent"], call["status"], call["code"]): call for call in told
    }
    put = found["PutObject", "user ana-of-the-console", "boto3", 200, None]
    assert put["service"] == "s3" and time.time() - put["at"] < 60
    assert found["GetObject", "user ana-of-the-console", "boto3", 404, "NoSuchKey"]["count"] == 3
    assert ("ListModels", "owner", "boto3", 200, None) in found
    assert ("ListModels", "nobody known", "boto3", 400, "InvalidSignatureException") in found
    said = json.dumps(told)
    for secret in (key["AccessKeyId"], key["SecretAccessKey"], "secret-", account.bucket, locate.KEY):
        assert secret not in said


def test_what_localaws_asks_of_itself_is_no_call(localaws, account):
    began = time.time()
    account.train(account.training_request())
    # The tests share a localaws, and some of them write logs themselves.
    calls = [call for call in state(localaws, calls=KEPT)["calls"] if call["at"] >= began]
    assert not {"PutLogEvents", "CreateLogStream", "SimulatePrincipalPolicy"} & {
        call["operation"] for call in calls
    }
    assert "CreateTrainingJob" in {call["operation"] for call in calls}


def test_so_many_calls_are_kept_and_texts_are_short():
    calls = Calls()
    for number in range(KEPT + 100):
        calls.add("s3", f"Operation{number}", "owner", "<b>" + "x" * 500, 200, None)
    assert (len(calls), calls.total, len(calls.latest(KEPT * 2))) == (KEPT, KEPT + 100, KEPT)
    assert calls.latest(1)[0]["operation"] == f"Operation{KEPT + 99}"
    assert calls.latest(1)[0]["agent"] == "b" + "x" * 58 + "x"[:1]


@pytest.mark.parametrize(
    "method, path, operation",
    [
        ("GET", "/", "ListBuckets"),
        ("GET", "/b?list-type=2&prefix=x", "ListObjectsV2"),
        ("GET", "/b/k?X-Amz-Signature=s", "GetObject"),
        ("PUT", "/b/k", "PutObject"),
        ("POST", "/b/k?uploads", "CreateMultipartUpload"),
        ("PUT", "/b/k?partNumber=1&uploadId=2", "UploadPart"),
        ("POST", "/b?delete", "DeleteObjects"),
        ("GET", "/b?location", "GetBucketLocation"),
        ("PATCH", "/b", "PATCH"),
    ],
)
def test_the_name_of_a_request_to_s3(method, path, operation):
    path, _, query = path.partition("?")
    request = Request(EnvironBuilder(path, query_string=query, method=method).get_environ())
    assert _s3_operation(request) == operation


# Totals


def filled(home, jobs: int) -> float:
    """Write so many ended training jobs into a home that is not served; what all of them cost."""
    home.mkdir(mode=0o700, parents=True)
    store, now, cost = Store(Database(home)), time.time(), 0.0
    for number in range(jobs):
        name, seconds = f"old-{number:05}", 36 + number % 7
        cost += 0.115 * seconds / 3600
        record = {
            "TrainingJobName": name,
            "TrainingJobArn": f"arn:aws:sagemaker:us-west-2:000000000000:training-job/{name}",
            "TrainingJobStatus": "Completed",
            "SecondaryStatus": "Completed",
            "SecondaryStatusTransitions": [],
            "CreationTime": now - 10 * (jobs - number),
            "LastModifiedTime": now,
            "TrainingStartTime": now - 10_000,
            "TrainingEndTime": now - 10_000 + seconds,
            "AlgorithmSpecification": {"TrainingImage": "host/image:latest", "TrainingInputMode": "File"},
            "ModelArtifacts": {"S3ModelArtifacts": f"s3://b/{name}/model.tar.gz"},
            "ResourceConfig": {"InstanceType": "ml.m5.large", "InstanceCount": 1, "VolumeSizeInGB": 1},
        }
        assert store.insert("TrainingJob", name, record)
    return cost


def test_totals_are_of_everything_however_few_are_listed(fresh, browser):
    cost = filled(fresh.home, 209)
    fresh.up()
    told = state(fresh)
    assert (told["totals"]["jobs"], len(told["jobs"]), told["jobs"][0]["name"]) == (209, 50, "old-00208")
    assert told["totals"]["cost"] == pytest.approx(cost)
    assert told["totals"]["running"] == told["totals"]["hourly"] == 0
    opened(browser, fresh)
    browser.wait("document.querySelectorAll('#jobs details').length === 50")
    assert browser.ask("document.querySelector('#jobs h2').textContent") == "Jobs 209"
    assert browser.ask("document.querySelector('#jobs .more').textContent") == "Show more (159 older)"
    for count in (100, 150, 200, 209):
        browser.ask("document.querySelector('#jobs .more button').click()")
        browser.wait(f"document.querySelectorAll('#jobs details').length === {count}")
    assert browser.ask("document.querySelector('#jobs .more').hidden")
    # An old one is found by its address, without all between.
    opened(browser, fresh, "#job/old-00003")
    browser.wait(f"{row('old-00003')}?.open")
    assert browser.ask("document.querySelectorAll('#jobs details').length") == 51
    looks = "performance.getEntriesByType('resource').filter((one) => one.name.includes('state?')).length"
    before = browser.ask(looks)
    browser.wait(f"{looks} > {before} + 1")
    assert browser.ask(f"{row('old-00003')}?.open"), "it stays"


# Progress


def test_a_learners_progress_as_far_as_it_can_be_read(fresh, browser):
    fresh.up()
    folder = fresh.home / "labs" / "progress"
    folder.mkdir(parents=True)
    labs = [
        {"lab": "04_train", "title": "04 · Train", "checked": 1.0, "your_turn": None, "predictions": 2},
        {"lab": "05_deploy", "title": HOSTILE, "checked": None, "your_turn": None, "predictions": 0},
    ]
    (folder / "a.json").write_text(json.dumps({"name": "a", "labs": labs, "next": "05_deploy"}))
    for name, text in {
        "broken": "{",
        "list": "[]",
        "half": '{"name": "half", "labs": [{}], "next": null}',
        "null": '{"name": "n", "labs": null}',
        "bytes": "\xff",
        "huge": " " * 100_000 + "{}",
        "deep": "[" * 50_000,
    }.items():
        (folder / f"{name}.json").write_text(text, encoding="latin-1")
    (folder / "folder.json").mkdir()
    (told,) = state(fresh)["progress"]
    assert (told["name"], told["next"], [lab["checked"] for lab in told["labs"]]) == (
        "a",
        "05_deploy",
        [True, False],
    )
    opened(browser, fresh)
    browser.wait("document.querySelectorAll('#progress li').length === 2")
    shown = browser.ask("document.querySelector('#progress').textContent")
    assert "1 of 2 checked, next: " + HOSTILE in shown and "check passed" in shown
    assert browser.ask("document.querySelector('#progress li.next').textContent").startswith(HOSTILE)
    labs[1]["checked"] = 2.0
    (folder / "a.json").write_text(json.dumps({"name": "a", "labs": labs, "next": None}))
    browser.wait("document.querySelector('#progress').textContent.includes('2 of 2 checked')")


# Addresses


def test_a_labs_link_opens_its_thing_and_one_to_nothing_says_so(localaws, account, walk, browser):
    job, model, endpoint = walk
    with patch.dict(os.environ, LOCALAWS_HOME=str(localaws.home)):
        for kind, name, key in (
            ("job", job, f"training/{job}"),
            ("endpoint", endpoint, f"endpoint/{endpoint}"),
            ("model", model, f"model/{model}"),
            ("bucket", account.bucket, f"bucket/{account.bucket}"),
        ):
            address = package.page(kind, name)
            assert address.endswith(f"#{kind}/{name}") and "token=" not in address
            opened(browser, localaws, f"#{kind}/{name}")
            browser.wait(f"rows.get('{key}')?.details.open")
            assert browser.ask("location.search") == "", "the token is not in sight"
        with pytest.raises(ValueError, match="expected one of job, endpoint, model, image, bucket"):
            package.page("queue", "x")
    opened(browser, localaws, "#job/no-such-job")
    browser.wait("!document.querySelector('#told').hidden")
    assert browser.ask("document.querySelector('#told').textContent") == "There is no job no-such-job here."


def test_a_labs_link_lets_one_browser_in_and_is_then_worth_nothing(localaws, browser):
    browser.command("Network.clearBrowserCookies")
    with patch.dict(os.environ, LOCALAWS_HOME=str(localaws.home)):
        address, late = package.page(), package.page()

    def came_in() -> bool:
        browser.command("Page.navigate", url="about:blank")
        browser.command("Page.navigate", url=address)
        browser.wait("location.href !== 'about:blank' && document.readyState === 'complete'")
        return browser.ask("Boolean(document.querySelector('#about'))")

    assert came_in()
    assert browser.ask("location.search") == "", "the ticket is not in sight"
    assert came_in(), "with the cookie, the notebook's link goes on working"
    browser.command("Network.clearBrowserCookies")
    assert not came_in(), "it was for one"
    ticket = late.rpartition("=")[2]
    os.utime(localaws.home / "tickets" / ticket, (0, 0))
    address = late
    assert not came_in(), "it was for a day"
    for wrong in ("0" * 32, "../secret", ""):
        address = late.replace(ticket, wrong)
        assert not came_in()


def test_no_page_without_a_localaws(tmp_path):
    with (
        patch.dict(os.environ, LOCALAWS_HOME=str(tmp_path)),
        pytest.raises(RuntimeError, match="is not running"),
    ):
        package.page()


# Who cannot see it, or has no mouse


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_axe_finds_nothing_serious_on_the_page_with_all_of_it_open(
    localaws, walk, tuned, account, browser, axe, scheme
):
    browser.command(
        "Emulation.setEmulatedMedia", features=[{"name": "prefers-color-scheme", "value": scheme}]
    )
    try:
        *_, endpoint = walk
        account.put("axe/table.csv", "1,2\n")
        opened(browser, localaws, f"#job/{tuned[1][0]}")
        browser.wait(f"rows.get('training/{tuned[1][0]}')?.drawn.querySelector('svg') != null")
        browser.ask("location.hash = '#bucket/" + account.bucket + "/axe/table.csv'")
        browser.wait("document.querySelector('#buckets .scroll td') !== null")
        browser.ask("for (const one of document.querySelectorAll('main details')) one.open = true")
        form = f"rows.get('endpoint/{endpoint}')?.form.querySelector('form')"
        browser.wait(f"{form} != null")
        browser.ask(f"{form}.requestSubmit()")
        browser.wait(f"{form}.querySelector('output pre') !== null")
        browser.ask("document.getAnimations().forEach((one) => one.finish())")
        assert chromium.violations(browser, axe) == []
    finally:
        browser.command("Emulation.setEmulatedMedia", features=[])


def test_axe_would_find_something(browser, axe):
    browser.command(
        "Page.navigate", url="data:text/html,<title>t</title><html lang=en><main><img src=x><input>"
    )
    browser.wait("document.querySelector('input') !== null")
    found = " ".join(chromium.violations(browser, axe))
    assert "image-alt" in found and "label" in found


def test_the_keyboard_opens_a_row(localaws, walk, browser):
    opened(browser, localaws)
    name = walk[1]
    browser.wait(f"rows.get('model/{name}') !== undefined")
    browser.ask(f"rows.get('model/{name}').summary.focus()")
    for kind in ("keyDown", "keyUp"):
        browser.command(
            "Input.dispatchKeyEvent",
            type=kind,
            key="Enter",
            code="Enter",
            windowsVirtualKeyCode=13,
            text="\r",
        )
    browser.wait(f"rows.get('model/{name}').details.open")
