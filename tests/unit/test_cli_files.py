"""Files that commands write: whole or not at all, through links, and straight into what is no regular file."""

from __future__ import annotations

import errno
import fcntl
import os
import stat
import tempfile
import threading
from contextlib import suppress
from pathlib import Path

import pytest

from pushsvc.cli.devices.files import FileRecord
from pushsvc.cli.devices.importing import FileIdentity, FilePosition, Notes, Rejects, identify
from pushsvc.cli.files import (
    FileFailed,
    is_regular,
    open_private,
    reading,
    replacing,
    shared_folder,
    temporary_folder,
    write_whole,
)
from pushsvc.errors import Fault


def test_a_file_appears_when_it_is_whole_and_only_for_its_owner(tmp_path: Path) -> None:
    file = tmp_path / "e.csv"
    with replacing(file) as stream:
        stream.write(b"x" * 100_000)
        assert not file.exists()
    assert file.read_bytes() == b"x" * 100_000
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    with suppress(SystemExit), replacing(file) as stream:
        stream.write(b"half")
        raise SystemExit(129)  # as SIGHUP and SIGTERM do
    assert file.read_bytes() == b"x" * 100_000
    assert list(tmp_path.iterdir()) == [file]


def test_a_link_stays_a_link(tmp_path: Path) -> None:
    target, link = tmp_path / "real" / "devices.csv", tmp_path / "e.csv"
    target.parent.mkdir()
    target.write_text("old")
    link.symlink_to(target)
    write_whole(link, b"new")
    assert link.is_symlink()
    assert target.read_text() == "new"
    dangling = tmp_path / "later.csv"
    dangling.symlink_to(tmp_path / "made.csv")
    write_whole(dangling, b"new")
    assert dangling.is_symlink()
    assert (tmp_path / "made.csv").read_text() == "new"


def test_a_fifo_is_written_into_and_stays(tmp_path: Path) -> None:
    fifo = tmp_path / "f.csv"
    os.mkfifo(fifo, 0o644)
    found: list[bytes] = []
    reader = threading.Thread(target=lambda: found.append(fifo.read_bytes()))
    reader.start()
    write_whole(fifo, b"rows")
    reader.join(30)
    assert found == [b"rows"]
    assert stat.S_ISFIFO(fifo.stat().st_mode)
    assert stat.S_IMODE(fifo.stat().st_mode) == 0o644
    assert not is_regular(fifo)


def test_a_device_is_written_into_and_stays() -> None:
    before = os.stat("/dev/full")
    with pytest.raises(FileFailed, match=r"^/dev/full cannot be written: No space left on device$"):
        write_whole(Path("/dev/full"), b"x" * 100_000)
    write_whole(Path(os.devnull), b"x")
    with Rejects(Path(os.devnull), kept=0) as rejects:
        rejects.add(FileRecord(1, "x"), [Fault("token", "is missing")])
    after = os.stat("/dev/full")
    assert (after.st_mode, after.st_rdev) == (before.st_mode, before.st_rdev)
    assert stat.S_ISCHR(os.stat(os.devnull).st_mode)


@pytest.mark.parametrize("name", ["none/e.csv", "file/e.csv", "."])
def test_a_place_that_cannot_be_written_is_named(name: str, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(FileFailed, match=f"^{tmp_path / name} cannot be (written|looked at): "):
        write_whole(tmp_path / name, b"")
    with pytest.raises(FileFailed, match="--rejects names another place"), Rejects(tmp_path / name, kept=0):
        pass


def test_what_cannot_be_read_is_named(tmp_path: Path) -> None:
    with pytest.raises(FileFailed, match=f"^{tmp_path} cannot be read: Is a directory$"), reading(str(tmp_path)):
        pass


def test_rejects_stay_only_when_there_are_any(tmp_path: Path) -> None:
    file = tmp_path / "bad"
    file.write_text("of an earlier run\n")
    with Rejects(file, kept=0):
        pass
    assert not file.exists()
    with Rejects(file, kept=0) as rejects:
        rejects.add(FileRecord(1, "one"), [Fault("token", "is missing")])
        rejects.add(FileRecord(2, "two"), [Fault("token", "is missing")])
    with Rejects(file, kept=1) as rejects:
        rejects.add(FileRecord(3, "three"), [Fault("token", "is missing")])
    assert [line[8:9] for line in file.read_text().splitlines()] == ["1", "3"]


def test_a_position_belongs_to_one_version_of_one_file(tmp_path: Path) -> None:
    file = tmp_path / "d.ndjson"

    def now() -> FileIdentity:
        with file.open("rb") as stream:
            return identify(stream)

    file.write_text("one\ntwo\n")
    first = now()
    notes = Notes(tmp_path / "d.ndjson.position")
    notes.write(FilePosition("shop", first, records=1))
    assert notes.read("shop", now()).records == 1
    times = file.stat()
    file.write_text("six\ntwo\n")  # of the same size, and of the same time
    os.utime(file, ns=(times.st_atime_ns, times.st_mtime_ns))
    with pytest.raises(FileFailed, match="another version of the file: import without --resume"):
        notes.read("shop", now())


def test_a_position_that_cannot_be_kept_does_not_end_the_import(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    notes = Notes(tmp_path / "none" / "d.position")
    for _ in range(2):
        notes.write(FilePosition("shop", FileIdentity(0, 0, "")))
    assert capsys.readouterr().err.count("cannot be resumed") == 1


def test_private_files_keep_what_is_asked_for(tmp_path: Path) -> None:
    file = tmp_path / "x"
    file.write_bytes(b"12345")
    file.chmod(0o644)
    with open_private(file, keep=2) as stream:
        stream.write(b"!")
    assert file.read_bytes() == b"12!"
    assert stat.S_IMODE(file.stat().st_mode) == 0o600


def test_a_temporary_folder_is_found_where_only_the_data_folder_can_be_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "read-only"))
    with temporary_folder("pushsvc-", tmp_path) as folder:
        assert folder.parent == tmp_path
    assert not folder.exists()
    with pytest.raises(FileFailed, match="cannot be written"), temporary_folder("pushsvc-", tmp_path / "none"):
        pass


def test_a_shared_folder_stays_while_any_process_has_it_and_is_removed_by_the_next_call(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    (tmp_path / "x-of-others").mkdir()
    with shared_folder("x-", tmp_path) as (folder, descriptor):
        passed = os.dup(descriptor)  # as to a child that outlives this process
        kept = folder.rename(tmp_path / "x-killed")  # nor does its end remove it
        folder.mkdir()
    assert not folder.exists()
    with shared_folder("x-", tmp_path) as (second, _), shared_folder("x-", tmp_path) as (third, _):
        assert {each.name for each in tmp_path.iterdir()} == {kept.name, second.name, third.name, "x-of-others"}
    os.close(passed)
    with shared_folder("x-", tmp_path) as (folder, _):
        assert {each.name for each in tmp_path.iterdir()} == {folder.name, "x-of-others"}


def test_a_folder_that_cannot_be_locked_is_never_removed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(*given: object) -> None:
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    with monkeypatch.context() as without:
        without.setattr(fcntl, "flock", refused)
        unlocked = shared_folder("x-", tmp_path)
        folder, _ = unlocked.__enter__()
    with shared_folder("x-", tmp_path):
        assert folder.exists()
    unlocked.__exit__(None, None, None)
