"""What a server promises, as a table: any container can be held to it (see conftest.py)."""

import gzip
import io
import json
import random
import re
import time
import zlib
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from conftest import ALGORITHM, LABELS, ROWS, SAMPLE
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

ROW = ROWS[0]
TWO = f"{ROWS[0]}\n{ROWS[149]}\n"
tables = pytest.mark.tables
FEATURES = [[float(cell) for cell in row.split(",")] for row in ROWS]


def npy(array, **options) -> bytes:
    stream = io.BytesIO()
    np.save(stream, array, **options)
    return stream.getvalue()


# -- ping and paths


def test_ping_is_200_with_an_empty_body(server):
    reply = server.ping()
    assert (reply.status, reply.body) == (200, b"")


@pytest.mark.parametrize(
    "path", ["/", "/pingfoo", "/ping/", "/ping/x", "/invocations/", "/invocations/extra", "/favicon.ico"]
)
@pytest.mark.parametrize("method", ["GET", "POST"])
def test_other_paths_are_404(server, method, path):
    reply = server.request(
        method, path, SAMPLE if method == "POST" else None, {"Content-Type": ALGORITHM.content_type}
    )
    assert reply.status == 404
    assert reply.error


@pytest.mark.parametrize(
    ("method", "path"),
    [(m, "/invocations") for m in ("GET", "PUT", "DELETE", "OPTIONS", "TRACE", "PATCH")]
    + [(m, "/ping") for m in ("POST", "PUT", "DELETE", "OPTIONS")],
)
def test_other_methods_are_405(server, method, path):
    reply = server.request(method, path)
    assert reply.status == 405
    assert reply.error


def test_no_reply_names_a_version(server):
    for reply in (
        server.ping(),
        server.predict(SAMPLE),
        server.predict("x"),
        server.request("GET", "/nowhere"),
    ):
        assert not any(character.isdigit() for character in reply.headers.get("server", ""))


def test_unknown_sagemaker_headers_are_ignored(server):
    headers = {
        f"X-Amzn-SageMaker-{name}": "x" * 1000 for name in ("Target-Model", "Session-Id", "Custom-Attributes")
    }
    assert server.predict(SAMPLE, **headers).status == 200


# -- predictions

ACCEPTED = {
    "plain": ROW,
    "final newline": f"{ROW}\n",
    "two rows": TWO,
    "CRLF": TWO.replace("\n", "\r\n"),
    "no final newline": TWO.rstrip(),
    "byte order mark": "\ufeff" + TWO,
    "trailing blank lines": f"{TWO}\n\r\n \n\n",
    "blanks around values": " 5.1 ,\t3.5, 1.4 ,0.2 \n",
    "quoted": '"5.1","3.5","1.4","0.2"\n',
    "quoted with blanks": ' "5.1" ,"3.5", " 1.4 ",0.2\n',
    "exponents": "51e-1,0.35E1,14e-01,2e-1",
    "plus sign": "+5.1,+3.5,+1.4,+0.2",
    "point at the end": "5.,3.,1.,0.",
    "point at the beginning": "5.1,3.5,1.4,.2",
    "integers": "5,3,1,0",
    "negative": "-5.1,3.5,1.4,0.2",
    "tiny": "5.1,3.5,1.4,1e-320",
    "many digits": f"5.1,3.5,1.4,0.2{'0' * 5000}",
}


@tables
@pytest.mark.parametrize("body", ACCEPTED.values(), ids=ACCEPTED)
def test_csv_is_understood(server, body):
    reply = server.predict(body.encode())
    assert (reply.status, reply.headers["content-type"].split(";")[0]) == (200, "text/csv")
    assert reply.species[0] == "setosa"
    assert reply.species[1:] == (["virginica"] if len(body) > 2 * len(ROW) and "00000" not in body else [])


REFUSED = {
    "empty": b"",
    "blank": b" \r\n\n",
    "header row": b"sepal_length,sepal_width,petal_length,petal_width\n" + ROW.encode(),
    "header row only": b"a,b,c,d\n",
    "too few columns": b"5.1,3.5,1.4\n",
    "too many columns": b"5.1,3.5,1.4,0.2,1\n",
    "label in front": b"setosa,5.1,3.5,1.4,0.2\n",
    "ragged, then right in sum": b"5.1,3.5,1.4\n5.1,3.5,1.4,0.2,0.2\n",
    "ragged": f"{ROW}\n5.1,3.5,1.4\n".encode(),
    "text": b"5.1,3.5,abc,0.2\n",
    "nan": b"5.1,3.5,nan,0.2\n",
    "NaN": b"5.1,NaN,1.4,0.2\n",
    "NA": b"5.1,NA,1.4,0.2\n",
    "null": b"5.1,null,1.4,0.2\n",
    "None": b"5.1,None,1.4,0.2\n",
    "empty cell": b"5.1,,1.4,0.2\n",
    "blank cell": b"5.1, ,1.4,0.2\n",
    "quoted empty cell": b'5.1,"",1.4,0.2\n',
    "empty last cell": b"5.1,3.5,1.4,\n",
    "trailing comma": b"5.1,3.5,1.4,0.2,\n",
    "inf": b"5.1,inf,1.4,0.2\n",
    "-Infinity": b"5.1,-Infinity,1.4,0.2\n",
    "beyond float64": b"5.1,1e400,1.4,0.2\n",
    "beyond float32": b"5.1,1e39,1.4,0.2\n",
    "negative beyond float32": b"5.1,-3.5e38,1.4,0.2\n",
    "boolean": b"5.1,True,1.4,0.2\n",
    "hexadecimal": b"5.1,0x1F,1.4,0.2\n",
    "underscore": b"5.1,1_0,1.4,0.2\n",
    "full-width digits": "5.1,\uff13.\uff15,1.4,0.2\n".encode(),
    "thousands separator": b'"1,000",3.5,1.4,0.2\n',
    "apostrophe in a number": b"1'000,3.5,1.4,0.2\n",
    "decimal comma": b"5,1;3,5;1,4;0,2\n",
    "semicolons": b"5.1;3.5;1.4;0.2\n",
    "tabs": b"5.1\t3.5\t1.4\t0.2\n",
    "blanks between": b"5.1 3.5 1.4 0.2\n",
    "pipes": b"5.1|3.5|1.4|0.2\n",
    "comment line": b"# a comment\n" + ROW.encode(),
    "comment at the end": ROW.encode() + b" # a comment\n",
    "empty line between": f"{ROW}\n\n{ROW}\n".encode(),
    "empty line first": f"\n{ROW}\n".encode(),
    "unclosed quote": b'5.1,"3.5,1.4,0.2\n',
    "unopened quote": b'5.1,3.5",1.4,0.2\n',
    "doubled quote": b'5.1,""3.5"",1.4,0.2\n',
    "single quotes": b"'5.1','3.5','1.4','0.2'\n",
    "text after a quote": b'5.1,"3.5"x,1.4,0.2\n',
    "NUL": b"5.1,3.5\x00,1.4,0.2\n",
    "control byte": b"5.1,3.5\x07,1.4,0.2\n",
    "vertical tab": b"5.1,3.5\x0b,1.4,0.2\n",
    "carriage return alone": b"5.1,3.5,1.4,0.2\r5.1,3.5,1.4,0.2\n",
    "second byte order mark": b"\xef\xbb\xbf\xef\xbb\xbf" + ROW.encode(),
    "no-break space": "5.1,\u00a03.5,1.4,0.2\n".encode(),
    "Unicode minus": "5.1,\u22123.5,1.4,0.2\n".encode(),
    "not UTF-8": b"5.1,3.5\xff,1.4,0.2\n",
    "UTF-16": ROW.encode("utf-16"),
    "gzip": gzip.compress(ROW.encode()),
    "JSON": json.dumps({"instances": [FEATURES[0]]}).encode(),
    "random bytes": bytes(range(256)),
    "two numbers in a cell": b"5.1,3.5 3.6,1.4,0.2\n",
    "two signs": b"5.1,--3.5,1.4,0.2\n",
    "two points": b"5.1,3.5.1,1.4,0.2\n",
    "exponent without digits": b"5.1,3e,1.4,0.2\n",
    "point alone": b"5.1,.,1.4,0.2\n",
    "complex": b"5.1,3j,1.4,0.2\n",
    "fraction": b"5.1,7/2,1.4,0.2\n",
    "formula": b"5.1,=3.5,1.4,0.2\n",
    "percent": b"5.1,3.5%,1.4,0.2\n",
}


@tables
@pytest.mark.parametrize("body", REFUSED.values(), ids=REFUSED)
def test_csv_is_refused(server, body):
    reply = server.predict(body)
    assert reply.status == 400
    assert reply.error


@tables
@pytest.mark.parametrize(
    ("body", "row", "column", "value"),
    [
        ("5.1,3.5,abc,0.2\n", 1, 3, "abc"),
        (f"{ROW}\n{ROW}\n5.1,NaN,1.4,0.2\n", 3, 2, "NaN"),
        (f"{ROW}\r\n5.1,3.5,1.4,\r\n", 2, 4, ""),
        (f"{ROW}\n" * 50_000 + "5.1,3.5,1.4,1e39\n", 50_001, 4, "1e39"),
    ],
)
def test_a_bad_value_is_named_by_row_column_and_value(server, body, row, column, value):
    error = server.predict(body).error
    assert (error["row"], error["column"], error["value"]) == (row, column, value)
    assert f"row {row}, column {column}" in error["message"]


LABELLED = {
    "CSV": ("text/csv", f"setosa,{ROW}\n", 1),
    "quoted": ("text/csv", f'"setosa",{ROW}\n', 1),
    "CRLF": ("text/csv", f"setosa,{ROW}\r\nvirginica,{ROW}\r\n", 1),
    "below a header": ("text/csv; header=present", f"species,a,b,c,d\nsetosa,{ROW}\n", 2),
    "in every row of a large body": ("text/csv", f"setosa,{ROW}\n" * 100_000, 1),
    "JSON": ("application/json", json.dumps({"instances": [["setosa", *FEATURES[0]]] * 2}), 1),
    "features": ("application/json", json.dumps({"instances": [{"features": ["setosa", *FEATURES[0]]}]}), 1),
    "JSON Lines": ("application/jsonlines", f"{json.dumps(['setosa', *FEATURES[0]])}\n" * 2, 1),
}


@tables
@pytest.mark.parametrize(("content_type", "body", "row"), LABELLED.values(), ids=LABELLED)
def test_the_label_that_was_left_in_is_asked_for(server, content_type, body, row):
    error = server.predict(body, content_type).error
    assert "there are 5 columns where 4 were expected: is the first one the label?" in error["message"]
    assert re.search(rf"row {row}, column 1: ['\"]+setosa['\"]+ is not a number", error["message"])
    assert (error["code"], error["row"], error["column"]) == ("bad_value", row, 1)


@tables
@pytest.mark.parametrize(
    "content_type", ["text/csv", "application/json", "application/jsonlines", "application/x-npy"]
)
def test_a_label_that_is_a_number_is_asked_for(server, content_type):
    rows = [[0, *features] for features in FEATURES[:2]]
    body = {
        "text/csv": "\n".join(",".join(map(str, row)) for row in rows),
        "application/json": json.dumps({"instances": rows}),
        "application/jsonlines": "\n".join(map(json.dumps, rows)),
        "application/x-npy": npy(np.array(rows, np.float32)),
    }[content_type]
    message = server.predict(body, content_type).error["message"]
    assert "5 columns" in message and "4" in message and "is the first one the label?" in message


@tables
@pytest.mark.parametrize(
    ("content_type", "body"),
    [
        (
            "text/csv",
            "setosa,3.5,1.4,0.2\n",
        ),  # as many as there must be: a value is wrong, and no column too many
        ("text/csv", "setosa,5.1,3.5,1.4,0.2,9\n"),
        ("text/csv", f"{ROW}\n5.1,setosa,1.4,0.2\n"),
        ("application/json", '{"instances": [["setosa", 3.5, 1.4, 0.2]]}'),
        ("application/json", '{"instances": [[5.1, 3.5, 1.4, 0.2, "setosa"]]}'),
        ("application/jsonlines", '["setosa", 3.5, 1.4]'),
        ("text/csv", "1,2,3\n"),
        ("text/csv", "1,2,3,4,5,6\n"),
    ],
)
def test_nothing_is_said_of_a_label_where_there_is_none(server, content_type, body):
    assert "label" not in server.predict(body, content_type).error["message"]


@tables
@pytest.mark.trees
def test_a_row_of_the_right_length_whose_first_cell_is_a_word_is_told_as_any_other(server):
    error = server.predict("setosa,3.5,1.4,0.2\n").error
    assert error["message"] == "row 1, column 1: 'setosa' is not a number; expected one such as 5.1 or 1e-3"


@tables
def test_a_wrong_column_count_says_both_counts(server):
    message = server.predict("1,2,3\n").error["message"]
    assert "3" in message
    assert "4" in message
    error = server.predict(f"{ROW}\n1,2,3\n").error
    assert error["row"] == 2
    assert "3" in error["message"]
    assert "4" in error["message"]


@tables
def test_a_long_bad_value_is_not_sent_back_whole(server):
    reply = server.predict(b"5.1,3.5,1.4," + "\u00e9\U0001f600".encode() * 5000)
    assert reply.status == 400
    assert reply.error


@tables
def test_all_iris_rows(server):
    reply = server.predict("\n".join(ROWS))
    assert sum(a == b for a, b in zip(reply.species, LABELS, strict=True)) >= 140


LARGE = 2000  # times iris: 4.6 MB


@tables
@pytest.mark.parametrize("line_end", ["\n", "\r\n"])
def test_a_large_body_is_answered_row_by_row(server, line_end):
    rows = line_end.join(ROWS * LARGE)
    reply = server.predict(rows.encode())
    assert reply.status == 200
    assert reply.body == server.predict("\n".join(ROWS).encode()).body * LARGE


@tables
@pytest.mark.trees
@pytest.mark.parametrize(
    ("row", "bad"), [(7, "5.1,x,1,1"), (150_001, "5.1,3.5,1.4"), (300_000, ""), (299_999, "1,1,1,1e39")]
)
def test_a_bad_row_of_a_large_body_is_named(server, row, bad):
    rows = ROWS * LARGE
    rows[row - 1] = bad
    reply = server.predict("\n".join([*rows, ROW]).encode())
    assert reply.status == 400
    assert reply.error["row"] == row


@tables
def test_a_header_that_is_announced_is_skipped(server):
    reply = server.predict(f"a,b,c,d\n{ROW}\n", "text/csv; header=present")
    assert reply.species == ["setosa"]
    error = server.predict(f"a,b,c,d\n{ROW}\n5,x,1,0\n", "text/csv; header=present").error
    assert (error["row"], error["column"]) == (3, 2)
    assert server.predict("a,b,c,d\n", "text/csv; header=present").status == 400


# -- media types

JSON_BODIES = {
    "instances": ("application/json", json.dumps({"instances": FEATURES[:2]})),
    "features": ("application/json", json.dumps({"instances": [{"features": row} for row in FEATURES[:2]]})),
    "charset": ("Application/JSON; charset=UTF-8", json.dumps({"instances": FEATURES[:2]})),
    "integers": ("application/json", '{"instances": [[5, 3, 1, 0], [5, 3, 1, 0]]}'),
    # mlflow's scoring protocol
    "inputs": ("application/json", json.dumps({"inputs": FEATURES[:2]})),
    "inputs by column": (
        "application/json",
        json.dumps({"inputs": dict(zip("abcd", map(list, zip(*FEATURES[:2], strict=True)), strict=True))}),
    ),
    "a frame, split": (
        "application/json",
        json.dumps({"dataframe_split": {"index": [0, 1], "columns": list("abcd"), "data": FEATURES[:2]}}),
    ),
    "a frame's records": (
        "application/json",
        json.dumps({"dataframe_records": [dict(zip("abcd", row, strict=True)) for row in FEATURES[:2]]}),
    ),
    "records in another order": (
        "application/json",
        json.dumps(
            {"dataframe_records": [{"a": 5, "b": 3, "c": 1, "d": 0}, {"d": 0, "c": 1, "b": 3, "a": 5}]}
        ),
    ),
    "no parameters": ("application/json", json.dumps({"instances": FEATURES[:2], "params": {}})),
    "lines": ("application/jsonlines", "".join(json.dumps(row) + "\n" for row in FEATURES[:2])),
    "lines with features": (
        "application/jsonlines",
        "\n".join(json.dumps({"features": r}) for r in FEATURES[:2]),
    ),
    "npy": ("application/x-npy", npy(np.array(FEATURES[:2], np.float32))),
    "npy, float64": ("application/x-npy", npy(np.array(FEATURES[:2]))),
    "npy, big endian": ("application/x-npy", npy(np.array(FEATURES[:2], ">f8"))),
    "npy, columns first": ("application/x-npy", npy(np.asfortranarray(FEATURES[:2]))),
    "npy, integers": ("application/x-npy", npy(np.array([[5, 3, 1, 0]] * 2))),
    "CSV by another name": ('Text/CSV ; charset="utf-8"', "\n".join(ROWS[:2])),
}


@tables
@pytest.mark.parametrize(("content_type", "body"), JSON_BODIES.values(), ids=JSON_BODIES)
def test_every_content_type_is_understood(server, content_type, body):
    reply = server.predict(body, content_type)
    assert (reply.status, reply.species) == (200, ["setosa", "setosa"])


BAD_BODIES = {
    "not JSON": ("application/json", "{"),
    "empty JSON": ("application/json", ""),
    "not an object": ("application/json", "[[5.1, 3.5, 1.4, 0.2]]"),
    "no instances": ("application/json", "{}"),
    "other key": ("application/json", '{"rows": [[5.1, 3.5, 1.4, 0.2]]}'),
    "one key more": ("application/json", '{"instances": [[5.1, 3.5, 1.4, 0.2]], "signature": "x"}'),
    "no rows": ("application/json", '{"instances": []}'),
    "empty row": ("application/json", '{"instances": [[]]}'),
    "half a surrogate pair": ("application/json", r'{"instances": [["\ud800", 3.5, 1.4, 0.2]]}'),
    "row is a number": ("application/json", '{"instances": [5.1, 3.5, 1.4, 0.2]}'),
    "row is a string": ("application/json", '{"instances": ["5.1,3.5,1.4,0.2"]}'),
    "row is null": ("application/json", '{"instances": [null]}'),
    "instances is an object": ("application/json", '{"instances": {"a": 1}}'),
    "string for a number": ("application/json", '{"instances": [["5.1", 3.5, 1.4, 0.2]]}'),
    "boolean for a number": ("application/json", '{"instances": [[true, 3.5, 1.4, 0.2]]}'),
    "null for a number": ("application/json", '{"instances": [[null, 3.5, 1.4, 0.2]]}'),
    "NaN": ("application/json", '{"instances": [[NaN, 3.5, 1.4, 0.2]]}'),
    "Infinity": ("application/json", '{"instances": [[-Infinity, 3.5, 1.4, 0.2]]}'),
    "beyond float32": ("application/json", '{"instances": [[1e39, 3.5, 1.4, 0.2]]}'),
    "beyond float64": ("application/json", '{"instances": [[1e999, 3.5, 1.4, 0.2]]}'),
    "integer beyond float64": ("application/json", f'{{"instances": [[1{"0" * 400}, 3.5, 1.4, 0.2]]}}'),
    "integer of 5000 digits": ("application/json", f'{{"instances": [[1{"0" * 5000}, 3.5, 1.4, 0.2]]}}'),
    "ragged": ("application/json", '{"instances": [[5.1, 3.5, 1.4, 0.2], [5.1]]}'),
    "too few columns": ("application/json", '{"instances": [[5.1, 3.5, 1.4]]}'),
    "nested": ("application/json", '{"instances": [[[5.1], 3.5, 1.4, 0.2]]}'),
    "very nested": ("application/json", "[" * 200_000),
    "UTF-16": ("application/json", json.dumps({"instances": [FEATURES[0]]}).encode("utf-16")),
    "not UTF-8": ("application/json", b'{"instances": [["\xff"]]}'),
    "CSV as JSON": ("application/json", ROW),
    "two documents": ("application/json", '{"instances": [[5.1, 3.5, 1.4, 0.2]]}{}'),
    "lines: blank line between": ("application/jsonlines", f"{FEATURES[0]}\n\n{FEATURES[0]}"),
    "lines: not JSON": ("application/jsonlines", f"{FEATURES[0]}\nx"),
    "lines: number": ("application/jsonlines", "5.1"),
    "npy: empty": ("application/x-npy", b""),
    "npy: cut": ("application/x-npy", npy(np.array(FEATURES[:2]))[:-1]),
    "npy: cut header": ("application/x-npy", npy(np.array(FEATURES[:2]))[:20]),
    "npy: too long": ("application/x-npy", npy(np.array(FEATURES[:2])) + b"x"),
    "npy: other bytes": ("application/x-npy", b"5.1,3.5,1.4,0.2"),
    "npy: one dimension": ("application/x-npy", npy(np.array(FEATURES[0]))),
    "npy: three dimensions": ("application/x-npy", npy(np.zeros((1, 1, 4)))),
    "npy: no rows": ("application/x-npy", npy(np.zeros((0, 4)))),
    "npy: rows below none": (
        "application/x-npy",
        npy(np.zeros((2, 4))).replace(b"(2, 4), }" + b" " * 2, b"(-2, -4), }"),
    ),
    "npy: text": ("application/x-npy", npy(np.array([["5.1", "3.5", "1.4", "0.2"]]))),
    "npy: booleans": ("application/x-npy", npy(np.ones((1, 4), bool))),
    "npy: complex": ("application/x-npy", npy(np.ones((1, 4), complex))),
    "npy: NaN": ("application/x-npy", npy(np.full((1, 4), np.nan))),
    "npy: beyond float32": ("application/x-npy", npy(np.full((1, 4), 1e39))),
    "npy: objects, that is a pickle": (
        "application/x-npy",
        npy(np.array([[5, 3, 1, {}]], object), allow_pickle=True),
    ),
    "npy: claims terabytes": (
        "application/x-npy",
        npy(np.zeros((1, 4))).replace(b"(1, 4), }" + b" " * 11, b"(99999999999, 4), }" + b" " * 1),
    ),
}


@tables
@pytest.mark.parametrize(("content_type", "body"), BAD_BODIES.values(), ids=BAD_BODIES)
def test_other_content_types_are_as_strict(server, content_type, body):
    reply = server.predict(body, content_type)
    assert reply.status == 400
    assert reply.error


FRAMES = {
    "a column too few": (
        {"dataframe_split": {"columns": list("abcd"), "data": [FEATURES[0], FEATURES[0][:3]]}},
        {"code": "bad_columns", "row": 2, "message": "row 2 has 3 columns where 4 are named"},
    ),
    "no data": ({"dataframe_split": {"columns": list("abcd")}}, {"code": "bad_json"}),
    "a split that is a list": ({"dataframe_split": FEATURES[:1]}, {"code": "bad_json"}),
    "a word in a frame": (
        {"dataframe_split": {"columns": list("abcd"), "data": [FEATURES[0], [1, "x", 3, 4]]}},
        {"code": "bad_value", "row": 2, "column": 2, "value": '"x"'},
    ),
    "a record without a column": (
        {"dataframe_records": [{"a": 1, "b": 2, "c": 3, "d": 4}, {"a": 1, "b": 2, "c": 3}]},
        {"code": "bad_columns", "row": 2, "message": "row 2 has no column 'd', unlike row 1"},
    ),
    "a record with one more": (
        {"dataframe_records": [{"a": 1, "b": 2, "c": 3, "d": 4}, dict.fromkeys("abcde", 1)]},
        {"code": "bad_columns", "row": 2, "message": "row 2 has a column 'e', unlike row 1"},
    ),
    "null in a record": (
        {"dataframe_records": [{"a": 1, "b": None, "c": 3, "d": 4}]},
        {"code": "bad_value", "row": 1, "column": 2, "value": "null"},
    ),
    "a record that is a row": ({"dataframe_records": FEATURES[:1]}, {"code": "bad_row", "row": 1}),
    "columns of two lengths": (
        {"inputs": {"a": [1], "b": [1, 2], "c": [1], "d": [1]}},
        {"code": "bad_columns"},
    ),
    "a column that is a number": ({"inputs": {"a": 1, "b": 1, "c": 1, "d": 1}}, {"code": "bad_columns"}),
    "parameters": ({"inputs": FEATURES[:1], "params": {"top_k": 1}}, {"code": "bad_json"}),
    "two at once": ({"inputs": FEATURES[:1], "instances": FEATURES[:1]}, {"code": "bad_json"}),
}


@tables
@pytest.mark.parametrize(("body", "expected"), FRAMES.values(), ids=FRAMES)
def test_what_is_wrong_with_a_frame_is_named(server, body, expected):
    reply = server.predict(json.dumps(body), "application/json")
    assert reply.status == 400
    assert expected.items() <= reply.error.items(), reply.error


@tables
@pytest.mark.parametrize(
    ("accept", "expected"), [({}, "application/json"), ({"Accept": "text/csv"}, "text/csv")]
)
def test_json_is_answered_by_json_unless_the_client_wishes_else(server, accept, expected):
    reply = server.predict(
        json.dumps({"dataframe_split": {"columns": list("abcd"), "data": FEATURES[:1]}}),
        "application/json",
        **accept,
    )
    assert (reply.status, reply.headers["content-type"].split(";")[0]) == (200, expected)
    assert reply.species == ["setosa"]


UNSUPPORTED = ["", "text/plain", "text/csvx", "application/x-www-form-urlencoded", "application/octet-stream"]
UNSUPPORTED += [
    "text/csv; charset=latin-1",
    "text/csv; charset=utf-16",
    "multipart/form-data; boundary=x",
    "garbage",
    "/",
]


@pytest.mark.parametrize("content_type", UNSUPPORTED)
def test_an_unsupported_content_type_is_415(server, content_type):
    reply = server.predict(SAMPLE, content_type)
    assert reply.status == 415
    assert reply.error


ACCEPTS = {
    "text/csv": "text/csv",
    "*/*": "text/csv",
    "": "text/csv",
    "text/*": "text/csv",
    "application/json": "application/json",
    "Application/Json": "application/json",
    "application/json; charset=utf-8": "application/json",
    "application/json;q=0.5, text/csv;q=0.4": "application/json",
    "text/csv;q=0.1, */*;q=0.9": "application/json",
    "text/csv;q=0, */*": "application/json",
    "image/png, application/jsonlines": "application/jsonlines",
    "application/*": "application/json",
    "application/*, application/json;q=0": "application/jsonlines",
    "application/*;q=0.2, text/csv;q=0.1": "application/json",
    "application/json;q=0.001, image/*": "application/json",
    "text/*;q=0, */*;q=0.1": "application/json",
    "*/*, application/json;q=0.9": "text/csv",
    " text/csv ; q=0.4 ,application/jsonlines ; q=0.6": "application/jsonlines",
    "application/x-npy;q=0.8, application/json;q=0.9": "application/json",
    "text/csv;q=x, application/json": "application/json",
    "application/x-npy": "application/x-npy",
}


@tables
@pytest.mark.parametrize(("accept", "expected"), ACCEPTS.items())
def test_accept_chooses_the_format(server, accept, expected):
    reply = server.predict(TWO, Accept=accept)
    assert (reply.status, reply.headers["content-type"].split(";")[0]) == (200, expected)
    labels = ["setosa", "virginica"]
    if expected == "text/csv":
        assert reply.species == labels
        return
    if expected == "application/x-npy":
        answers = np.load(io.BytesIO(reply.body), allow_pickle=False).tolist()
    else:
        name = "prediction" if ALGORITHM.numbers else "predicted_label"
        is_json = expected == "application/json"
        rows = (
            json.loads(reply.body)["predictions"]
            if is_json
            else list(map(json.loads, reply.text.splitlines()))
        )
        assert [list(row) for row in rows] == [[name], [name]]
        assert not is_json or list(json.loads(reply.body)) == ["predictions"]
        answers = [row[name] for row in rows]
    assert {type(answer) for answer in answers} == {float if ALGORITHM.numbers else str}
    assert list(map(ALGORITHM.species, answers)) == labels


@pytest.mark.parametrize(
    "accept", ["image/webp", "text/csv;q=0", "*/*;q=0", "application/xml, text/html", "garbage"]
)
def test_an_accept_that_cannot_be_met_is_406(server, accept):
    reply = server.predict(SAMPLE, Accept=accept)
    assert reply.status == 406
    assert reply.error


# -- sizes and encodings


def test_gzip_is_inflated(server):
    plain = server.predict(SAMPLE)
    assert plain.status == 200
    assert server.predict(gzip.compress(SAMPLE), Content_Encoding="gzip").body == plain.body
    two_members = gzip.compress(SAMPLE[:9]) + gzip.compress(SAMPLE[9:])
    assert server.predict(two_members, Content_Encoding="GZIP").body == plain.body


def test_gzip_of_very_many_members_is_inflated(server):
    # So many that no request has time for a look at all that follows, once for each.
    many = gzip.compress(b"") * 250_000 + gzip.compress(SAMPLE)
    assert server.predict(many, Content_Encoding="gzip").body == server.predict(SAMPLE).body


def test_bad_gzip_is_400(server):
    packed = gzip.compress(SAMPLE)
    for body in (packed[:-1], packed[:5], b"x", packed + b"x", zlib.compress(SAMPLE)):
        reply = server.predict(body, Content_Encoding="gzip")
        assert reply.status == 400
        assert reply.error


@pytest.mark.parametrize("encoding", ["deflate", "br", "zstd", "gzip, gzip", "x"])
def test_other_encodings_are_415(server, encoding):
    reply = server.predict(SAMPLE, Content_Encoding=encoding)
    assert reply.status == 415
    assert reply.error


def test_a_bomb_is_413(server):
    packer = zlib.compressobj(9, zlib.DEFLATED, 31)
    bomb = b"".join(packer.compress(bytes(1 << 20)) for _ in range(200)) + packer.flush()
    reply = server.predict(bomb, Content_Encoding="gzip")
    assert reply.status == 413
    assert reply.error


def test_25_megabytes_are_taken(server):
    assert server.predict(ALGORITHM.large(25 << 20)).status == 200


@tables
def test_25_megabytes_are_answered_row_by_row(server):
    line = b"5.1,3.5,1.4,0.2\n"
    rows = (25 << 20) // len(line)
    assert server.predict(line * rows).body == server.predict(line).body * rows


def test_more_is_413(server):
    reply = server.predict(ALGORITHM.large(26 << 20))
    assert reply.status == 413
    assert reply.error


def chunks(body: bytes):
    for at in range(0, len(body), 1 << 16):
        yield body[at : at + (1 << 16)]


def test_chunked_bodies_are_read(server):
    body = ALGORITHM.large(1 << 20)
    headers = {"Content-Type": ALGORITHM.content_type}
    reply = server.request("POST", "/invocations", chunks(body), headers, encode_chunked=True)
    assert (reply.status, reply.body) == (200, server.predict(body).body)


def test_chunked_bodies_have_the_same_limit(server):
    head = f"POST /invocations HTTP/1.1\r\nHost: x\r\nContent-Type: {ALGORITHM.content_type}\r\n"
    body = b"".join(b"%x\r\n%b\r\n" % (len(chunk), chunk) for chunk in chunks(ALGORITHM.large(26 << 20)))
    reply = server.raw(head.encode() + b"Transfer-Encoding: chunked\r\n\r\n" + body + b"0\r\n\r\n")
    assert reply.startswith(b"HTTP/1.1 413")


MALFORMED = {
    "no HTTP": b"hello\r\n\r\n",
    "no host": b"GET /ping HTTP/1.1\r\n\r\n",
    "bad length": b"POST /invocations HTTP/1.1\r\nHost: x\r\nContent-Length: x\r\n\r\n",
    "two lengths": b"POST /invocations HTTP/1.1\r\nHost: x\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\nab",
    "bad header": b"GET /ping HTTP/1.1\r\nHost: x\r\nno colon\r\n\r\n",
    "long header": b"GET /ping HTTP/1.1\r\nHost: x\r\nX: " + b"x" * 100_000 + b"\r\n\r\n",
    "bad chunk": b"POST /invocations HTTP/1.1\r\nHost: x\r\nContent-Type: text/csv\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n",
    "TLS": b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + bytes(200) + b"\r\n\r\n",
}


@pytest.mark.parametrize(
    "sent",
    [
        pytest.param(sent, id=name, marks=[pytest.mark.nginx] if name == "no host" else [])
        for name, sent in MALFORMED.items()
    ],
)
def test_what_is_not_http_is_a_json_400(server, sent):
    reply = server.raw(sent)
    head, _, body = reply.partition(b"\r\n\r\n")
    assert head.split()[1] in (b"400", b"431"), reply[:200]
    assert b"application/json" in head
    assert json.loads(body)["error"]["message"]


# -- many at once


def test_200_clients_at_once(server):
    bodies = [ALGORITHM.sample(i) for i in range(ALGORITHM.samples)]
    expected = [server.predict(body).body for body in bodies]
    assert sum(map(ALGORITHM.right, range(len(bodies)), expected)) / len(bodies) > 0.9
    with ThreadPoolExecutor(200) as pool:
        replies = list(pool.map(server.predict, (bodies[i % len(bodies)] for i in range(1000))))
    assert {reply.status for reply in replies} == {200}
    assert all(reply.body == expected[i % len(bodies)] for i, reply in enumerate(replies))


def test_a_reply_comes_quickly(server):
    server.predict(SAMPLE)
    times = []
    for _ in range(20):
        begin = time.perf_counter()
        server.predict(SAMPLE)
        times.append(time.perf_counter() - begin)
    assert sorted(times)[10] < 0.25


def test_execution_parameters(server):
    reply = server.request("GET", "/execution-parameters")
    document = json.loads(reply.body)
    assert reply.status == 200
    assert set(document) == {"MaxConcurrentTransforms", "BatchStrategy", "MaxPayloadInMB"}
    assert document["BatchStrategy"] in ("MULTI_RECORD", "SINGLE_RECORD")
    assert document["MaxConcurrentTransforms"] >= 1
    assert document["MaxPayloadInMB"] * document["MaxConcurrentTransforms"] <= 100


# -- anything at all

NEARLY_CSV = st.text(alphabet='0123456789.,eE+-\n\r \t"naif_;', max_size=80).map(str.encode)
# A payload with some bytes of others in it, or cut.
NEARLY_RIGHT = st.builds(
    lambda at, put, end: (SAMPLE[:at] + put + SAMPLE[at + len(put) :])[:end],
    st.integers(0, len(SAMPLE)),
    st.binary(max_size=4),
    st.none() | st.integers(0, len(SAMPLE)),
)
BODIES = st.binary(max_size=200) | NEARLY_CSV | NEARLY_RIGHT | st.sampled_from(list(REFUSED.values()))
MEDIA = st.sampled_from(
    ["text/csv", "application/json", "application/jsonlines", "application/x-npy", ALGORITHM.content_type]
)
HEADERS = st.fixed_dictionaries(
    {},
    optional={
        "Accept": st.sampled_from(["application/json", "*/*;q=0.1", "x", ",;=", "text/csv;q=x"]),
        "Content_Encoding": st.sampled_from(["gzip", "identity", "br"]),
    },
)


@pytest.mark.parametrize("examples", [100, pytest.param(2000, marks=pytest.mark.slow)])
def test_any_bytes_get_an_answer_or_a_json_refusal(server, examples):
    @settings(max_examples=examples, deadline=None, database=None, suppress_health_check=list(HealthCheck))
    @given(BODIES, MEDIA, HEADERS)
    def check(body, media, headers):
        reply = server.predict(body, media, **headers)
        assert reply.status == 200 or (400 <= reply.status < 500 and reply.error)

    check()


def test_random_bytes_as_http(server):
    generator = random.Random(0)
    for _ in range(50):
        sent = bytes(
            generator.choices(b"GETPOS /pinvoca HTTP/1.\r\n\r\n:;\x00\xff", k=generator.randrange(1, 300))
        )
        received = server.raw(sent + b"\r\n\r\n")
        assert not received or received.split()[1].startswith(b"4"), (sent, received)
    assert server.ping().status == 200
