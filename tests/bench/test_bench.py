"""The bench itself: its baseline, its verdicts, its report, and what it says when something is missing.

The contenders run with this Python: packages of their own take a minute to install.
"""

import dataclasses
import io
import json
import runpy
import shutil
import sys
import tempfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from bench import (
    IRIS,
    BenchError,
    __main__,
    contenders,
    faults,
    load,
    overhead,
    peers,
    pictures,
    report,
    serving,
    training,
)
from bench.contenders import BASELINE, CONSTANT_WSGI, FASTAPI, OURS, PARTS, Contender
from bench.report import Goal


@pytest.fixture(autouse=True)
def this_python(monkeypatch):
    """Every contender has this Python, and what they write goes to a folder of the test's.

    It is not pytest's: the baseline's nginx gives up root's rights, and then may not look into that one.
    """
    for module in (contenders, training):
        monkeypatch.setattr(module, "python", lambda contender: Path(sys.executable))
    with tempfile.TemporaryDirectory() as folder:
        Path(folder).chmod(0o755)
        for module in (contenders, training, load):
            monkeypatch.setattr(module, "BUILD", Path(folder))
        yield


@pytest.fixture
def model(tmp_path):
    data = shutil.copy(IRIS, tmp_path)  # it is linked to from the build folder: both on one disk
    folder = training.folder("iris", Path(data))
    training.train(OURS, folder)
    return folder


def test_the_baseline_behaves_as_the_sample_does(model):
    malformed, killed = serving.baseline_is_like_the_sample(model)
    assert malformed.endswith("this container 5 with JSON 400")
    assert "the baseline exits 0, " in killed and not killed.endswith("this container 0")


def test_a_baseline_that_is_not_like_the_sample_is_refused(model, monkeypatch):
    monkeypatch.setattr(serving, "BASELINE", dataclasses.replace(OURS, name="baseline"))
    with pytest.raises(BenchError, match="does not behave like the sample"):
        serving.baseline_is_like_the_sample(model)


def test_nobody_is_measured_for_wrong_answers(model):
    liar = dataclasses.replace(CONSTANT_WSGI, name="liar")
    with contenders.running(OURS, liar, SAGEMAKER_BASE_DIR=model) as (ours, constant):
        serving.check(ours, load.rows(150))
        with pytest.raises(BenchError, match="liar answers 150 rows wrongly"):
            serving.check(constant, load.rows(150))


def test_a_peer_that_does_not_serve_is_left_out_with_the_reason():
    peer = Contender("broken", "Broken", lambda python, port: [python, "-c", "exit('no such model')"], ())
    assert __main__.obstacle(peer) == "no such model"


def test_peers_are_asked_for_the_same_rows():
    rows = ["5.1,3.5,1.4,0.2", "6.7,3.0,5.2,2.3"]
    table = [[5.1, 3.5, 1.4, 0.2], [6.7, 3.0, 5.2, 2.3]]
    bodies = {peer.name: peer.body(rows) for peer in peers.PEERS}
    assert json.loads(bodies["mlserver"])["inputs"] == [
        {"name": "rows", "shape": [2, 4], "datatype": "FP32", "data": table[0] + table[1]}
    ]
    assert json.loads(bodies["bentoml"]) == table
    assert json.loads(bodies["litserve"]) == {"input": table}
    assert bodies["mlflow"].decode().splitlines()[1:] == rows


@pytest.mark.parametrize(
    "bounds, reached, missed, enough_for_ci, fallen",
    [
        ({"least": 4}, 4, 3.99, 3, 2.99),
        ({"most": 3}, 3, 3.01, 4, 4.01),
        ({"least": 4, "why": "slow disk", "within": 2}, 4, 3.99, 1.5, 1.49),
        ({"most": 3, "why": "slow disk", "within": 6}, 3, 3.01, 8, 8.01),
    ],
)
def test_a_goal_judges(bounds, reached, missed, enough_for_ci, fallen):
    goal = Goal("this", figure=float, **bounds)
    assert goal.reached(reached) and not goal.reached(missed)
    assert goal.holds_in_ci(enough_for_ci) and not goal.holds_in_ci(fallen)


def test_the_report_says_what_was_measured_and_what_was_missed(tmp_path, monkeypatch):
    for name, target in {"RESULTS": "RESULTS.md", "JSON": "results.json", "IMAGES": ""}.items():
        monkeypatch.setattr(report, name, tmp_path / target)
    titles = {one.name: one.title for one in (OURS, BASELINE, FASTAPI, CONSTANT_WSGI)}
    rates = {"ours": 800.0, "baseline": 100.0, "fastapi": 500.0, "constant_wsgi": 1000.0}
    rates |= {part.name: 640.0 for part in PARTS}
    measured = {
        **{name: {n: {"rate": [r, r], "p99": [r, r]} for n, r in rates.items()} for name in serving.LOADS},
        **{size: {name: [100 / rate] * 2 for name, rate in rates.items()} for size in serving.LARGE},
        "x-npy against CSV, 10,000 rows": {"csv": [100.0], "npy": [200.0]},
    }
    points = {name: [(1, rates[name]), (10, 2 * rates[name])] for name in ("ours", "baseline")}
    results = {
        "date": "2026-11-22",
        "machine": "2 cores of a test",
        "rounds": 2,
        "contract": "- held\n",
        "serving": measured,
        "parts": measured,
        "growth": {"rows of a request": {"unit": "ms", "points": points}},
        "localaws": {"walk": 61.4},
    }
    report.write(results, titles)
    text = (tmp_path / "RESULTS.md").read_text()
    assert "2 cores of a test, 2 rounds" in text and "- held" in text and "61 s" in text
    assert "| this container | 800 (8.0) | 800 (8.0) | 800 (8.0) | 800 (8.0) | 0.12 s (8.0) |" in text
    assert "| 1 row, 1 connection: FastAPI's requests a second | ≥ 1.25 x | 1.6 x | yes |" in text
    assert "| 10,000 rows as npy: our own CSV's requests a second | ≥ 3 x | 2 x | **missed**" in text
    assert f"missed of {len(report.judged(results))}." in text and "exec to the first 200" not in text
    assert json.loads((tmp_path / "results.json").read_text())["serving"] == json.loads(json.dumps(measured))
    assert (tmp_path / "bench-growth.png").read_bytes().startswith(b"\x89PNG")
    drawn = (tmp_path / "bench.svg").read_text()
    assert ">requests a second, the baseline being 1</text>" in drawn and ">this container</text>" in drawn


def test_a_part_that_was_measured_alone_takes_its_place(tmp_path, monkeypatch):
    for name, target in {"RESULTS": "RESULTS.md", "JSON": "results.json", "IMAGES": ""}.items():
        kept = getattr(report, name)
        monkeypatch.setattr(report, name, tmp_path / target)
        if target:
            shutil.copy(kept, tmp_path)
    before = json.loads((tmp_path / "results.json").read_text())
    times = {"unet": [13.0, 14.0], "functions": [11.0, 11.0], "session": [10.0, 10.0]}
    parts = {"reading": [0.5, 0.5], "asking": [10.1, 10.1], "writing": [0.25, 0.25]}
    report.merge("pictures", {"ms": times, "parts": parts})
    text, after = ((tmp_path / name).read_text() for name in ("RESULTS.md", "results.json"))
    assert "| this container | 13.5 | 1.35 |" in text and "writing 0.2" in text
    assert "| a picture by the container: the ONNX Runtime session's time | ≤ 1.5 x | 1.35 x | yes |" in text
    assert f"Measured on {before['date']} by" in text and "- measured alone: pictures, 2" in text
    left = {name: found for name, found in json.loads(after).items() if name not in ("pictures", "alone")}
    assert left == {name: before[name] for name in left} and set(left) >= {"serving", "localaws", "contract"}
    assert not (tmp_path / "bench.svg").exists()
    (tmp_path / "results.json").unlink()
    with pytest.raises(BenchError, match="run the whole bench first"):
        report.merge("pictures", {})


def test_the_picture_is_the_same_each_time_and_its_mask_is_compared(tmp_path):
    cells = runpy.run_path(str(pictures.CELLS))["picture"]
    for name in ("one.png", "two.png"):
        pictures.draw(cells, tmp_path / name)
    one, two = (tmp_path / name for name in ("one.png", "two.png"))
    assert one.read_bytes() == two.read_bytes() and Image.open(one).size == (256, 256)
    mask = np.zeros((256, 256), np.uint8)
    mask[:9] = 1
    stream = io.BytesIO()
    Image.fromarray(mask).save(stream, "PNG")
    pictures.check(stream.getvalue(), one)
    pictures.check(mask.ravel().tolist(), one)
    another = mask.copy()
    another[200] = 1
    with pytest.raises(BenchError, match=r"masks agree in 99\.61% of the pixels"):
        pictures.check(another.tolist(), one)
    with pytest.raises(BenchError, match="cells are 0%"):
        pictures.check((mask * 0).tolist(), two)


def test_a_process_that_ends_is_no_figure(tmp_path, monkeypatch):
    monkeypatch.setattr(pictures, "BUILD", tmp_path)
    monkeypatch.setattr(pictures, "python", lambda contender: sys.executable)
    # There is no model in the folder.
    said = r"session\.py has ended(.|\n)*is not a model that can be served"
    with pytest.raises(BenchError, match=said), pictures.process("session", tmp_path, tmp_path / "a.png"):
        pass


def test_the_load_generator_that_is_missing_is_named(monkeypatch, tmp_path):
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(BenchError, match="wrk, the load generator, is needed: apt-get install wrk"):
        load.wrk(None, b"", 1, 1)


@pytest.mark.parametrize("part", contenders.PARTS, ids=lambda part: part.name)
def test_what_the_bench_takes_away_is_there(part):
    assert part.command(Path("python"), 8080)  # BenchError: the stack has changed there


def test_a_fault_is_measured_on_a_localaws_of_its_own(tmp_path, monkeypatch):
    for module in (faults, overhead):
        monkeypatch.setattr(module, "HOME", tmp_path / "home")
        monkeypatch.setattr(module, "BUILD", tmp_path)
    found = {"leave": {"figures": list(faults.leave())}}
    assert [figure.value <= figure.most for figure in found["leave"]["figures"]] == [True, True]
    assert found["leave"]["figures"][0].value >= 2
    assert (
        "| … and of its processes there are left | 0 | 0 | yes | `make faults CASE=leave` |"
        in faults.table(found)
    )
    assert "| **missed** |" in faults.table({"home": {"figures": [["up", 10, 11.5, "s"]]}})


def test_a_home_that_does_not_tell_what_it_has_is_no_figure(tmp_path, monkeypatch):
    for module in (faults, overhead):
        monkeypatch.setattr(module, "HOME", tmp_path / "home")
        monkeypatch.setattr(module, "BUILD", tmp_path)
    with overhead.localaws_of_its_own("process"):
        faults.put_objects(3)
        with pytest.raises(BenchError, match="`up` does not tell of 4 objects"):
            faults.up_after_kill("4 objects")
        seconds, silence = faults.up_after_kill("3 objects")
    assert 0 < silence <= seconds
