"""Model archives: unpacked into their folder, and nowhere else."""

import io
import tarfile

import pytest
import tiny

from localaws import storage


@pytest.fixture(scope="module")
def account(localaws, tmp_path_factory):
    return tiny.account(localaws, tmp_path_factory.mktemp("images"))


def archive(name: str, kind: bytes = tarfile.REGTYPE, link: str = "") -> bytes:
    """A .tar.gz with one member."""
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w:gz") as tar:
        member = tarfile.TarInfo(name)
        member.type, member.linkname, member.size = kind, link, 5 if kind == tarfile.REGTYPE else 0
        tar.addfile(member, io.BytesIO(b"hello"))
    return out.getvalue()


@pytest.mark.parametrize(
    "content",
    [
        archive("../escaped"),
        archive("a/../../escaped"),
        archive("link", tarfile.SYMTYPE, "/etc/passwd"),
        archive("link", tarfile.SYMTYPE, "../../escaped"),
        archive("link", tarfile.LNKTYPE, "../escaped"),
        archive("device", tarfile.CHRTYPE),
        archive("whole")[:-20],
        b"no archive",
    ],
)
def test_an_archive_that_would_leave_its_folder_is_refused(account, tmp_path, content):
    uri = account.put("evil/model.tar.gz", content)
    with pytest.raises(storage.DataError, match="Failed to extract model data archive from URL"):
        storage.extract_model(account.s3, uri, tmp_path / "instance" / "model")
    assert not list(tmp_path.rglob("escaped"))
    assert not (tmp_path / "instance" / "model.tar.gz").exists()


def test_an_absolute_name_lands_in_the_folder(account, tmp_path):
    storage.extract_model(
        account.s3, account.put("m/model.tar.gz", archive("/etc/hello")), tmp_path / "model"
    )
    assert (tmp_path / "model/etc/hello").read_bytes() == b"hello"
