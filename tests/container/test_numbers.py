"""The strict readers by themselves: what csv and numpy write is read back, anything else is refused politely."""

import csv
import gzip
import io
import json
import os
import random
import shutil
from decimal import Decimal, localcontext
from fractions import Fraction
from types import SimpleNamespace

import numpy as np
import pytest
from conftest import IRIS
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.tree import DecisionTreeClassifier
from stack import onnx_model
from stack.channels import Channel
from stack.errors import InputError
from stack.tables import Table, fast, files, formats, numeric

settings.register_profile("container", deadline=None, max_examples=150)
settings.load_profile("container")

FLOATS = st.floats(allow_nan=False, allow_infinity=False, width=32)
MATRICES = st.integers(1, 5).flatmap(
    lambda n: st.lists(st.lists(FLOATS, min_size=n, max_size=n), min_size=1, max_size=9)
)
LINE_ENDS = st.sampled_from(["\n", "\r\n"])


@given(MATRICES, LINE_ENDS, st.sampled_from([csv.QUOTE_MINIMAL, csv.QUOTE_ALL]), st.booleans())
def test_what_csv_writes_is_read_as_the_same_numbers(rows, line_end, quoting, mark):
    text = io.StringIO()
    csv.writer(text, lineterminator=line_end, quoting=quoting).writerows(rows)
    body = b"\xef\xbb\xbf" * mark + text.getvalue().encode()
    assert np.array_equal(formats.decode(body, "text/csv"), np.array(rows, np.float32))


@given(MATRICES)
def test_all_formats_say_the_same(rows):
    matrix = np.array(rows, np.float32)
    stream = io.BytesIO()
    np.save(stream, matrix)
    bodies = {
        "application/json": json.dumps({"instances": rows}).encode(),
        "application/jsonlines": "\n".join(map(json.dumps, rows)).encode(),
        "application/x-npy": stream.getvalue(),
    }
    for media, body in bodies.items():
        assert np.array_equal(formats.decode(body, media), matrix)


NEARLY = st.text(alphabet='0123456789.,eE+-\n\r \t"naifNx_;#{}[]:\0\x0b\ufeff\u0661', max_size=60).map(
    str.encode
)
JSON_LIKE = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(st.sampled_from(["instances", "features", "x"]), inner, max_size=3)
    ),
    max_leaves=12,
).map(lambda value: json.dumps(value).encode())
NPY_LIKE = st.builds(
    lambda head, rest: b"\x93NUMPY" + head + rest,
    st.sampled_from([b"\1\0\x10\0", b"\2\0\x10\0\0\0", b""]),
    st.binary(max_size=80),
)


@settings(max_examples=500)
@given(
    st.binary(max_size=80) | NEARLY | JSON_LIKE | NPY_LIKE,
    st.sampled_from([*formats.TYPES, "text/csv; header=present"]),
)
def test_any_bytes_are_rows_or_a_refusal(body, media):
    try:
        matrix = formats.decode(body, media)
    except InputError as error:
        assert str(error)
        assert error.status in (400, 415)
    else:
        assert matrix.dtype == np.float32
        assert matrix.ndim == 2
        assert matrix.size
        assert np.isfinite(matrix).all()


def slow_csv(body: bytes) -> list[list[float]] | None:
    """The grammar, once more and naively: what numeric.parse must accept, and nothing else."""
    rows = []
    for line in body.split(b"\n"):
        row = []
        for cell in line.split(b","):
            bare = cell.strip(b" \t")
            if len(bare) >= 2 and bare.startswith(b'"') and bare.endswith(b'"'):
                bare = bare[1:-1].strip(b" \t")
            if not numeric.NUMBER.fullmatch(bare) or abs(np.float64(bare.decode())) >= 3.4028235677973366e38:
                return None
            row.append(float(bare))
        rows.append(row)
    return rows if len({len(row) for row in rows}) == 1 else None


@settings(max_examples=500)
@given(st.text(alphabet='012.,,,\n e-+"\t9', max_size=40).map(str.encode), st.integers(1, 20))
def test_the_fast_and_the_naive_reader_agree(body, piece):
    expected = slow_csv(body)
    original, numeric.PIECE = numeric.PIECE, piece  # small pieces meet their borders often
    try:
        found = numeric.parse(body)
    except InputError:
        assert expected is None
    else:
        assert expected is not None
        assert np.array_equal(found, np.array(expected, np.float32))
    finally:
        numeric.PIECE = original


# @ stands for the other columns: two things that are wrong may be told in another order.
ODD_ROWS = [
    "[]",
    "{}",
    "null",
    "7",
    '"],["',
    "[true@]",
    "[1e39@]",
    "[NaN@]",
    "[01]",
    "[1,]",
    '["],[", 1]',
    "[[1],[2]]",
]
ODD_ROWS += [
    '["\\ud800"]',
    '{"x": [1]}',
    '{"features": [1], "x": [2]}',
    '{"features": {}}',
    f"[1{'0' * 400}@]",
]
ROWS = st.integers(1, 3).flatmap(
    lambda n: st.lists(
        st.lists(st.integers(-9, 9) | FLOATS, min_size=n, max_size=n).flatmap(
            lambda row: st.sampled_from(
                [json.dumps(row), json.dumps({"features": row}, indent=0).replace("\n", " ")]
            )
        ),
        min_size=1,
        max_size=20,
    )
)


def read(body: bytes, media: str):
    """The rows of a body, or what its refusal says."""
    try:
        return formats.decode(body, media).tolist()
    except InputError as error:
        return error.code, error.details


ENDS = ["]}", " ] }\n", "", "]", "}", ",]}", "]]}", "]}{}", '], "x": 1}', "]}\xff"]


@settings(max_examples=500)
@given(
    ROWS,
    st.sampled_from([("", "]}"), *[(odd, "]}") for odd in ODD_ROWS], *[("", end) for end in ENDS]]),
    st.data(),
)
def test_json_says_the_same_in_pieces(rows, wrong, data):
    odd, end = wrong
    if odd:
        rows.insert(data.draw(st.integers(0, len(rows))), odd.replace("@", ", 0" * rows[0].count(",")))
    blank = data.draw(st.sampled_from(["", " ", "\r\n\t"]))
    body = f'{blank}{{"instances":{blank}[{f"{blank},{blank}".join(rows)}{end}'
    for text, media in ((body, formats.JSON), ("\n".join(rows), formats.JSON_LINES)):
        sent = text.encode("latin-1")
        whole = read(sent, media)
        # A row, and what stands beside it, fits.
        original, formats.PIECE = formats.PIECE, max(map(len, rows)) + data.draw(st.integers(20, 60))
        try:
            assert read(sent, media) == whole
        finally:
            formats.PIECE = original


def channel(tmp_path, *files: bytes) -> Channel:
    for i, content in enumerate(files):
        (tmp_path / f"{i}.csv").write_bytes(content)
    return Channel("training", tmp_path, {})


@pytest.mark.parametrize("piece", [3, 7, 64, 1 << 20])
def test_training_files_are_read_alike_in_pieces_of_any_size(tmp_path, monkeypatch, piece):
    text = "\ufeff" + IRIS.replace("\n", "\r\n") + " \r\n\n"
    monkeypatch.setattr(files, "PIECE", piece)
    labels = files.Labels()
    features, codes = files.read(channel(tmp_path, text.encode(), b'"se""tosa",1,2,3,4'), labels)
    expected = np.loadtxt(io.StringIO(IRIS), delimiter=",", usecols=range(1, 5), dtype=np.float32)
    assert np.array_equal(features[:-1], expected)
    assert list(labels.codes) == ["setosa", "versicolor", "virginica", 'se"tosa']
    assert codes.tolist() == [0] * 50 + [1] * 50 + [2] * 50 + [3]


@pytest.mark.parametrize("piece", [1, 5, 1 << 20])
def test_blank_lines_inside_a_file_are_found_at_any_border(tmp_path, monkeypatch, piece):
    monkeypatch.setattr(files, "PIECE", piece)
    with pytest.raises(InputError, match=r"0\.csv: row 3 is empty"):
        files.read(channel(tmp_path, b"a,1\nb,2\n\n\nc,3\n"), files.Labels())


BAD_VALUES = [("max_depth", value) for value in (-1, 0, 2.5, 10**30, True, [3], "", {})]
BAD_VALUES += [
    ("ccp_alpha", float("nan")),
    ("ccp_alpha", -0.5),
    ("min_samples_split", 1),
    ("random_state", None),
]
BAD_VALUES += [("random_state", "abc"), ("class_weight", "even"), ("max_features", 1.5), ("splitter", 1)]
BAD_VALUES += [
    ("min_samples_leaf", 0.0),
    ("min_weight_fraction_leaf", 0.6),
    ("max_leaf_nodes", 1),
    ("criterion", None),
]


TWO_ROWS = Table(np.zeros((2, 1), np.float32), np.array([0, 1], np.int32), ("a", "b"))


@pytest.mark.parametrize(("name", "value"), BAD_VALUES)
def test_bad_hyperparameters_are_named(name, value):
    with pytest.raises(InputError, match=name):
        onnx_model.fit(DecisionTreeClassifier(), TWO_ROWS, {name: value})


@pytest.mark.slow
def test_millions_of_bytes_of_nearly_csv():
    generator = random.Random(0)
    for _ in range(200_000):
        body = bytes(generator.choices(b'0123456789.,,,\n\n eE+-"', k=generator.randrange(1, 30)))
        expected = slow_csv(body)
        try:
            assert np.array_equal(numeric.parse(body), np.array(expected, np.float32)), body
        except InputError:
            assert expected is None, body


def outcome(read, *arguments):
    """The bits that a reader makes of something, or all that it says against it."""
    try:
        found = read(*arguments)
    except InputError as error:
        return str(error), error.code, error.details
    return [one.tobytes() if isinstance(one, np.ndarray) else one for one in found]


NUMBERS = dict.fromkeys(["%d", "%.1f", "%.17g", "%.18e"], 20) | dict.fromkeys(["%g", "%e", "%.9g"], 9)
NUMBERS |= dict.fromkeys(["%+.3f", "%.0f.", " %.9g ", '"%.2f"', "0%d", ".%d", "%.30f", "%.2E"], 1) | {
    "x%d": 0.2
}


def nearly_csv(chance: random.Random, size: int, labels=()) -> list[bytes]:
    """Bodies of `size` bytes in all, with numbers as many programs write them, and with what goes wrong."""
    bodies, taken = [], 0
    while taken < size:
        columns = chance.randint(1, 5)
        lines = []
        for _ in range(chance.randint(1, 6)):
            wide = columns if chance.random() < 0.98 else columns + 1
            shapes = chance.choices(list(NUMBERS), list(NUMBERS.values()), k=wide)
            cells = [shape % (chance.gauss(0, 1) * 10 ** chance.randint(-45, 39)) for shape in shapes]
            lines.append(",".join([*chance.choices(labels, k=bool(labels)), *cells]))
        body = bytearray("\n".join(lines).encode())
        if chance.random() < 0.3:
            body[chance.randrange(len(body))] = chance.choice(b'0123456789.,eE+-\n "naifx_;\0\xff\t')
        bodies.append(bytes(body))
        taken += len(body)
    return bodies


@pytest.fixture
def chance():
    seed = random.randrange(1 << 32)
    print(f"seed {seed}")
    return random.Random(seed)


@pytest.fixture
def compiled():
    if fast.LIBRARY is None:
        there = os.environ.get("CI") and shutil.which(os.environ.get("CC", "cc"))
        (pytest.fail if there else pytest.skip)("not compiled: container/compile.sh .venv")


def test_the_compiled_reader_and_python_read_the_same_rows(compiled, chance, monkeypatch):
    bodies = nearly_csv(chance, 2_000_000)
    quick = [outcome(lambda body: [numeric.parse(body)], body) for body in bodies]
    plain = sum(fast.read_rows(body) is not None for body in bodies)
    assert plain > len(bodies) / 3
    monkeypatch.setattr(fast, "LIBRARY", None)
    for body, found in zip(bodies, quick, strict=True):
        assert found == outcome(lambda body: [numeric.parse(body)], body), body
    assert {type(found) for found in quick} == {list, tuple}


def test_the_compiled_reader_and_python_read_the_same_training_files(compiled, chance, monkeypatch):
    words = ["setosa", "a", " a", "1", "b" * 30, "\u00e9t\u00e9", '"q,q"', '"a"', "", " ", "x\1", "a,b"]
    words += [f"class {i}" for i in range(2 * fast.MOST_LABELS)]
    weights = [40] * 6 + [2] * 2 + [0.2] * 4 + [0.02] * 2 * fast.MOST_LABELS
    labels = chance.choices(words, weights, k=5000)
    many = "\n".join(f"class {i % 600},{i}.5,{-i}" for i in range(3000)).encode()
    bodies = [many, *nearly_csv(chance, 1_000_000, labels)]

    def read(body):
        labels = files.Labels()
        folder = SimpleNamespace(open_files=lambda: [("a.csv", io.BytesIO(body))], name="training", path="")
        return [*files.read(folder, labels), list(labels.codes)]

    assert [type(outcome(read, many)), type(outcome(read, b""))] == [list, tuple]
    monkeypatch.setattr(
        files, "PIECE", 64
    )  # borders are met, and files are read partly one way, partly the other
    quick = [outcome(read, body) for body in bodies]
    monkeypatch.setattr(fast, "LIBRARY", None)
    for body, found in zip(bodies, quick, strict=True):
        assert found == outcome(read, body), body
    assert {type(found) for found in quick} == {list, tuple}


def test_lines_are_written_alike_with_and_without_the_compiled_writer(compiled, monkeypatch):
    names = ("setosa", "été", "", 'a "quoted", one', "x" * 300)
    codes = np.arange(3000) * 7 % len(names)
    for rows in (1, 999, 3000):
        column = {"label": formats.Categories(names, codes[:rows].astype(np.int32))}
        text = formats.encode(column, formats.CSV)
        assert list(csv.reader(io.StringIO(text.decode()))) == [
            [names[i]] if names[i] else [] for i in codes[:rows]
        ]
        with monkeypatch.context() as without:
            without.setattr(fast, "LIBRARY", None)
            assert formats.encode(column, formats.CSV) == text


def test_numbers_where_float32_turns(compiled):
    """Half way between two float32, and next to it: where a reader that rounds twice goes wrong."""
    texts = []
    for value in [np.float32(x) for x in (1, 0.1, 5.1, 16777215, 3e-5, 1234567, 8.5e20)]:
        low, high = Fraction(float(value)), Fraction(float(np.nextafter(value, np.float32(np.inf))))
        half = (low + high) / 2
        for nudge in (
            Fraction(-1, 10**30),
            0,
            Fraction(1, 10**30),
            Fraction(1, 10**18),
            -Fraction(1, 10**17),
        ):
            exact = half * (1 + nudge)
            for figures in (15, 16, 17, 18, 19, 20, 25, 40):
                with localcontext(prec=figures):
                    texts.append(f"{Decimal(exact.numerator) / exact.denominator:e}")
                    texts.append(f"{Decimal(exact.numerator) / exact.denominator:f}")
    plain = fast.read_rows("\n".join(texts).encode())
    assert plain
    assert np.array_equal(plain[0][:, 0], np.array([float(text) for text in texts]).astype(np.float32))


@pytest.mark.parametrize(
    "body", [b"1,1" + b",1" * 9999 + b"\n" * 100_000, b"\n" * 1_000_000, b"," * 1_000_000]
)
def test_no_text_asks_for_more_memory_than_it_could_fill(body, monkeypatch):
    made = []
    monkeypatch.setattr(np, "empty", lambda shape, dtype: made.append(shape))
    assert fast.read_rows(body) is None
    assert not made


def test_pieces_of_a_body_mean_what_they_mean_in_the_whole(chance):
    """What all pieces take, the whole takes, and the rows are the same: never a byte order mark or a blank line more."""
    bodies = nearly_csv(chance, 500_000)
    strange = [
        b"1,2",
        b"3,4.",
        b"-5,.6",
        b"",
        b" ",
        b"\xef\xbb\xbf1,2",
        b"1,2\r",
        b"\r",
        b'"1","2"',
        b" 1,2 ",
        b"1",
    ]
    weights = [30, 5, 5, 1, 1, 1, 5, 1, 1, 1, 1]
    bodies += [b"\n".join(chance.choices(strange, weights, k=chance.randint(2, 12))) for _ in range(30_000)]
    taken = divided = 0
    for body in bodies:
        pieces = [body[piece] for piece in formats.cut(body, chance.choice([1, 4, 16]))]
        assert b"".join(pieces) == body
        try:
            parts = [formats.decode(piece, "text/csv") for piece in pieces]
        except InputError:
            continue
        if len({part.shape[1] for part in parts}) == 1:  # the model refuses all others
            assert np.array_equal(formats.decode(body, "text/csv"), np.concatenate(parts)), body
            taken += 1
            divided += len(parts) > 1
    assert divided > taken / 2 > 1000


HINTS = {
    "header": ["a,b,c,d", "sepal length (cm),sepal width", '"x1","x_2"', ",x,y", "_id,été", "abc"],
    "UTF-16": [
        b"5.1,3.5".decode().encode("utf-16"),
        "5.1,3.5".encode("utf-16-le"),
        "a,b".encode("utf-16-be"),
    ],
    "gzip": [gzip.compress(b"5.1,3.5", mtime=0)],
    "JSON": ['{"instances": [[5.1]]}', "[5.1, 3.5]"],
    "CR alone": ["5.1,3.5\r1.4,0.2", "a,b\r1.4,0.2"],
    "';'": ["5.1;3.5;1.4", "5,1;3,5", "a;b;c"],
    "a tab": ["5.1\t3.5", "5,1\t3,5", "a\tb"],
    "'|'": ["5.1|3.5|1.4"],
    "a blank": ["5.1 3.5 1.4", "5,1 3,5"],
    None: [
        *(
            "5.1,,1",
            "nan,1",
            "nan,nan",
            "1e99,2",
            "setosa,5.1",
            "NA",
            "5.1,x",
            "# comment",
            "\uff15.1,2",
            "0x1F,2",
        ),
        *("5.1,3.5 3.6", "1_0", "--1,2", "True,false", b"\xff,\xfe", b"5.1\0,2", "5.1,3.5;1", "'5.1','3.5'"),
    ],
}


@pytest.mark.parametrize(("sign", "line"), [(sign, line) for sign, lines in HINTS.items() for line in lines])
def test_a_hint_says_what_the_first_row_seems_to_be(sign, line):
    body = line if isinstance(line, bytes) else line.encode()
    with pytest.raises(InputError) as refusal:
        formats.decode(body + b"\n1,2\n", "text/csv")
    signs = [found for found in HINTS if found and found in str(refusal.value).rpartition("; ")[2]]
    assert signs == ([sign] if sign else []), refusal.value
