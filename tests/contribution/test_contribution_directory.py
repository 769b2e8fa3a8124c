"""A stranger's directory: every entry that is not a declared regular file is refused by name."""

from __future__ import annotations

import errno
import os
import socket
import stat
from pathlib import Path
from typing import Any

import pytest

from quiltwork.contribution import payload
from quiltwork.contribution.directory import Directory
from quiltwork.contribution.sealed import Contribution
from quiltwork.contribution.store import read
from quiltwork.errors import (
    InvalidOption,
    MalformedContribution,
    UnsupportedContribution,
)


def plant(path: Path, kind: str) -> None:
    if kind == "symbolic link":
        path.symlink_to("/etc/passwd")
    elif kind == "directory":
        path.mkdir()
    elif kind == "pipe":
        os.mkfifo(path)
    elif kind == "socket":
        before = os.getcwd()
        os.chdir(path.parent)  # the name of a socket is short
        try:
            with socket.socket(socket.AF_UNIX) as server:
                server.bind(path.name)
        finally:
            os.chdir(before)
    elif kind == "device":
        try:
            os.mknod(path, stat.S_IFCHR | 0o666, os.makedev(1, 5))
        except PermissionError:
            pytest.skip("only root makes devices")


KINDS = ["symbolic link", "directory", "pipe", "socket", "device"]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", ["contribution.json", "ffn.safetensors"])
def test_a_file_that_is_no_regular_file_is_refused_by_name(sealed: Contribution, name: str, kind: str) -> None:
    (sealed.path / name).unlink()
    plant(sealed.path / name, kind)
    with pytest.raises(MalformedContribution) as caught:
        read(sealed.path)
    assert caught.value.what == f"file '{name}'"
    assert f"it is a {kind}" in caught.value.why


def test_a_link_to_the_true_file_is_refused_too(sealed: Contribution, tmp_path: Path) -> None:
    (sealed.path / "ffn.safetensors").rename(tmp_path / "true")
    (sealed.path / "ffn.safetensors").symlink_to(tmp_path / "true")
    with pytest.raises(MalformedContribution, match="it is a symbolic link"):
        read(sealed.path)


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        (".hidden", "regular file"),
        ("README.md", "regular file"),
        ("extra.safetensors", "regular file"),
        ("ffn.safetensors.pkl", "regular file"),
        ("a\nb", "regular file"),
        *((f"extra-{kind}", kind) for kind in KINDS),
    ],
)
def test_an_undeclared_entry_is_refused_by_name(sealed: Contribution, name: str, kind: str) -> None:
    if kind == "regular file":
        (sealed.path / name).write_bytes(b"")
    else:
        plant(sealed.path / name, kind)
    with pytest.raises(MalformedContribution) as caught:
        read(sealed.path)
    assert caught.value.what == f"{name!a} (a {kind})"
    assert caught.value.why == "the manifest does not declare it"


def test_a_name_that_is_no_text_is_refused(sealed: Contribution) -> None:
    with open(os.fsencode(sealed.path) + b"/\xff\xfe", "wb"):
        pass
    with pytest.raises(MalformedContribution, match="does not declare it"):
        read(sealed.path)


def test_a_crowded_directory_is_refused(sealed: Contribution) -> None:
    for i in range(70):
        (sealed.path / f"extra{i}").touch()
    with pytest.raises(MalformedContribution, match="more than 64 entries"):
        read(sealed.path)


@pytest.mark.parametrize("name", ["contribution.json", "ffn.safetensors"])
def test_a_missing_file_is_refused_by_name(sealed: Contribution, name: str) -> None:
    (sealed.path / name).unlink()
    with pytest.raises(MalformedContribution, match=f"file '{name}'"):
        read(sealed.path)


def test_what_is_no_directory_is_refused(sealed: Contribution, tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(sealed.path)
    (tmp_path / "file").touch()
    os.mkfifo(tmp_path / "pipe")
    for name, why in (
        ("link", "it is a symbolic link"),
        ("link/", "it is a symbolic link"),
        ("file", "it is not a directory"),
        ("pipe", "it is not a directory"),
        ("nowhere", "it cannot be opened (no such file or directory)"),
        ("file/below", "it cannot be opened (not a directory)"),
        ("nul\0nul", "it cannot be opened (embedded null byte)"),
        ("x" * 5000, "it cannot be opened (file name too long)"),
    ):
        with pytest.raises(MalformedContribution) as caught:
            read(f"{tmp_path}/{name}")
        assert caught.value.why == why
        assert ("to which the link points" in caught.value.mend) == ("link" in name)
    (tmp_path / "real").mkdir()
    (tmp_path / "real" / "parent").symlink_to(sealed.path.parent)
    assert read(tmp_path / "real" / "parent" / "acme") == sealed  # parents may be links


def test_permission_denied_is_a_refusal(sealed: Contribution, monkeypatch: pytest.MonkeyPatch) -> None:
    true_open = os.open
    for denied in ("acme", "contribution.json", "ffn.safetensors"):

        def refuse(path: Any, *args: Any, denied: str = denied, **kwargs: Any) -> int:
            if Path(path).name == denied:
                raise PermissionError(errno.EACCES, "Permission denied")
            return true_open(path, *args, **kwargs)

        with monkeypatch.context() as patched:
            patched.setattr(os, "open", refuse)
            with pytest.raises(MalformedContribution, match=r"\(permission denied\)") as caught:
                read(sealed.path)
        assert denied in caught.value.what


def test_a_disk_that_fails_while_reading_is_a_refusal(sealed: Contribution, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*args: Any) -> None:
        raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr(payload, "verify", fail)
    with pytest.raises(MalformedContribution, match=r"it cannot be read \(input/output error\)"):
        read(sealed.path)


def test_a_file_swapped_after_the_check_is_not_followed(sealed: Contribution, monkeypatch: pytest.MonkeyPatch) -> None:
    true_kind = Directory.kind

    def swap(self: Directory, name: str) -> str:
        kind = true_kind(self, name)
        if name == "ffn.safetensors":
            (sealed.path / name).unlink()
            (sealed.path / name).symlink_to("/etc/passwd")
        return kind

    monkeypatch.setattr(Directory, "kind", swap)
    with pytest.raises(MalformedContribution, match=r"file 'ffn.safetensors': it cannot be read \(too many levels"):
        read(sealed.path)


def test_max_bytes_is_checked_before_the_payload(sealed: Contribution, monkeypatch: pytest.MonkeyPatch) -> None:
    assert read(sealed.path, max_bytes=sealed.bytes) == sealed
    monkeypatch.setattr(payload, "verify", None)
    with pytest.raises(UnsupportedContribution, match=f"{sealed.bytes} bytes, and the limit given is"):
        read(sealed.path, max_bytes=sealed.bytes - 1)
    with pytest.raises(InvalidOption, match="max_bytes=-1"):
        read(sealed.path, max_bytes=-1)


def test_descriptors_are_closed_whatever_happens(sealed: Contribution) -> None:
    before = len(os.listdir("/proc/self/fd")) if Path("/proc/self/fd").exists() else 0
    for _ in range(3):
        read(sealed.path)
        (sealed.path / "extra").touch()
        with pytest.raises(MalformedContribution):
            read(sealed.path)
        (sealed.path / "extra").unlink()
    after = len(os.listdir("/proc/self/fd")) if Path("/proc/self/fd").exists() else 0
    assert after == before
