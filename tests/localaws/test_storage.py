"""Model archives: unpacked into their folder, and nowhere else."""

import gzip
import io
import tarfile

import pytest
import tiny

from localaws.sagemaker import storage


@pytest.fixture(scope="module")
def account(localaws, tmp_path_factory):
    return tiny.account(localaws, tmp_path_factory.mktemp("images"))


def archive(*members: str | tuple[str, bytes, str]) -> bytes:
    """A .tar.gz of files, by name, and of (name, type, link)."""
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as tar:
        for member in members:
            name, kind, link = (member, tarfile.REGTYPE, "") if isinstance(member, str) else member
            info = tarfile.TarInfo(name)
            info.type, info.linkname, info.size = kind, link, 5 if kind == tarfile.REGTYPE else 0
            tar.addfile(info, io.BytesIO(b"hello"))
    return gzip.compress(out.getvalue(), mtime=0)


# By names alone each of the last links stays in the folder, and with Python's own filter of early 2025 it did not.
CHAIN = "/".join(["d" * 247] * 16)


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (archive("first", "../escaped"), r"'\.\./escaped' would land outside"),
        (archive("first", "a/../../escaped"), "would land outside"),
        (archive("first", "/etc/escaped"), "'/etc/escaped' would land outside"),
        (archive("first", "whole", "whole/b"), "'whole' is a file and a folder"),
        (archive("first", "whole/b", "whole"), "'whole' is a file and a folder"),
        (archive("first", "whole", ("whole", tarfile.DIRTYPE, "")), "'whole' is a file and a folder"),
        (archive("first", "."), "would land outside"),
        (archive("first", ("link", tarfile.SYMTYPE, "/etc/passwd")), "'link' is a link"),
        (archive("first", ("link", tarfile.SYMTYPE, "first")), "'link' is a link"),
        (archive("first", ("link", tarfile.LNKTYPE, "first")), "'link' is a link"),
        (
            archive("first", (CHAIN, tarfile.SYMTYPE, "../" * 16), (f"{CHAIN}/escaped", tarfile.REGTYPE, "")),
            "is a link",
        ),
        (archive("first", ("device", tarfile.CHRTYPE, "")), "'device' is a device"),
        (archive("first", ("pipe", tarfile.FIFOTYPE, "")), "'pipe' is a device"),
        (archive("whole")[:-20], ""),
        (b"no archive", "not a gzip file"),
    ],
    ids=lambda value: value if isinstance(value, str) else "archive",
)
def test_an_archive_with_more_than_files_and_folders_is_refused_before_a_file_is_written(
    account, tmp_path, content, reason
):
    uri = account.put("evil/model.tar.gz", content)
    with pytest.raises(
        storage.DataError, match=rf"(?s)Failed to extract model data archive from URL.*{reason}"
    ):
        storage.extract_model(account.s3, uri, tmp_path / "instance" / "model")
    assert not [path for path in tmp_path.rglob("*") if path.is_file()]


def test_what_cannot_be_written_is_named(account, tmp_path):
    uri = account.put("odd/model.tar.gz", archive("n" * 300))
    with pytest.raises(storage.DataError, match=f"'{'n' * 300}' cannot be unpacked"):
        storage.extract_model(account.s3, uri, tmp_path / "model")


def test_files_and_folders_land_in_the_folder(account, tmp_path):
    content = archive(
        "etc/hello", ("empty", tarfile.DIRTYPE, ""), "twice", "twice", ("./deep/", tarfile.DIRTYPE, "")
    )
    folder = tmp_path / "model"
    storage.extract_model(account.s3, account.put("m/model.tar.gz", content), folder)
    assert {str(path.relative_to(folder)) for path in folder.rglob("*")} == {
        "etc",
        "etc/hello",
        "empty",
        "twice",
        "deep",
    }
    assert (folder / "etc/hello").read_bytes() == b"hello"
    assert not (tmp_path / "model.tar.gz").exists()


def test_links_are_packed_as_the_files_that_they_name(account, tmp_path):
    (tmp_path / "out").mkdir()
    (tmp_path / "out/file").write_bytes(b"hello")
    (tmp_path / "out/hard").hardlink_to(tmp_path / "out/file")
    (tmp_path / "out/soft").symlink_to("file")
    uri = f"s3://{account.bucket}/links/model.tar.gz"
    storage.upload_archive(account.s3, storage.left(tmp_path, "out", print), uri, tmp_path / "packed")
    storage.extract_model(account.s3, uri, tmp_path / "model")
    assert [file.read_bytes() for file in sorted((tmp_path / "model").iterdir())] == [b"hello"] * 3
