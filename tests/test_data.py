"""What data/ makes up: visits.py. cells.py is tried where the U-Net learns from its pictures."""

import runpy

from workshop import ROOT


def test_the_visits_are_the_same_in_however_many_files(tmp_path):
    make = runpy.run_path(str(ROOT / "data/visits.py"))["make"]
    make(tmp_path / "one", 60_001, 1)
    make(tmp_path / "four", 60_001, 4)
    whole = (tmp_path / "one/000.csv").read_text()
    parts = [file.read_text() for file in sorted((tmp_path / "four").iterdir())]
    assert "".join(parts) == whole
    assert [part.count("\n") for part in parts] == [15000, 15000, 15000, 15001]
    rows = [line.split(",") for line in whole.splitlines()]
    assert {len(row) for row in rows} == {11}
    assert {row[0] for row in rows} == {"buys", "left"}
    numbers = [float(number) for row in rows for number in row[1:]]
    assert (min(numbers), max(numbers)) == (10.0, 99.9)
