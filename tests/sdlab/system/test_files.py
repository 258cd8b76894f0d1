"""Files are written whole or not at all, and one process at a time holds a run directory."""

import errno
import fcntl
import os
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from sdlab.system.errors import RunError
from sdlab.system.files import add, check_writable, file_words, make_folder, replacing
from sdlab.system.lock import locked


def test_a_file_that_cannot_be_written_leaves_the_old_one_and_no_draft(tmp_path: Path):
    (tmp_path / "table.md").write_text("old")

    def write() -> None:
        with replacing(tmp_path / "table.md") as draft:
            draft.write_text("half of the n")
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with pytest.raises(RunError, match=r"table.md: no space left on device$"):
        write()
    assert [path.read_text() for path in tmp_path.iterdir()] == ["old"]


@pytest.mark.parametrize("write", [check_writable, lambda path: replacing(path).__enter__()], ids=["check", "replace"])
def test_a_file_replaces_no_folder_and_no_device(tmp_path: Path, write: Callable[[Path], object]):
    """The system would let a user with all rights put a file in the place of /dev/full."""
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "link").symlink_to("pipe")
    for name, reason in (("pipe", "not a regular file"), ("link", "not a regular file"), (".", "a folder")):
        with pytest.raises(RunError, match=f"^cannot write .*: it is {reason}$"):
            write(tmp_path / name)
    with pytest.raises(RunError, match=r"^cannot write \.: it is a folder$"):
        write(Path())
    assert sorted(path.name for path in tmp_path.iterdir()) == ["link", "pipe"]


def test_cleaning_up_hides_no_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    def refuse(*_: object, **__: object) -> None:
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))

    monkeypatch.setattr(Path, "unlink", refuse)
    for name in ("table.md", "n" * 300):
        with pytest.raises(RunError, match=f"{name}: no space left on device$"), replacing(tmp_path / name):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def test_a_name_that_is_too_long_is_an_error_of_one_line(tmp_path: Path):
    with pytest.raises(RunError, match=r"\.png: file name too long$"):
        add(tmp_path / f"{'n' * 300}.png", lambda draft: draft.write_text("x"))
    assert list(tmp_path.iterdir()) == []


def test_a_name_as_long_as_the_system_takes_can_be_written(tmp_path: Path):
    path = tmp_path / f"{'n' * 251}.png"
    assert add(path, lambda draft: draft.write_text("x")) == path
    with replacing(path) as draft:
        draft.write_text("y")
    assert path.read_text() == "y"


def test_file_words_are_safe_and_no_longer_than_asked():
    assert file_words("ddim · karras rho=7 · cfg scale=3", 100) == "ddim-karras-rho=7-cfg-scale=3"
    assert file_words("../../etc/passwd", 100) == "etc-passwd"
    assert file_words("a\x1b[31m\u202e/\\b", 100) == "a-31m-b"
    assert file_words("漢字" * 100, 20) == "漢字漢字漢字"
    assert file_words("..", 100) == file_words(" \n", 100) == ""


def test_a_link_instead_of_the_lock_is_not_followed(tmp_path: Path):
    (tmp_path / "secret").write_text("keep me")
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / ".lock").symlink_to(tmp_path / "secret")
    with pytest.raises(RunError, match=r"\.lock is a link; remove it$"), locked(tmp_path / "run"):
        pass
    assert (tmp_path / "secret").read_text() == "keep me"


@pytest.mark.parametrize("code", [errno.ENOSYS, errno.ENOLCK, errno.EOPNOTSUPP])
def test_without_locks_the_user_is_asked_to_take_care(
    code: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    def flock(*_: object) -> None:
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(fcntl, "flock", flock)
    with locked(tmp_path):
        pass
    note = f"note: the file system of {tmp_path} has no locks; use it from one process at a time\n"
    assert capsys.readouterr().err == note


def test_another_fault_of_the_lock_is_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    def flock(*_: object) -> None:
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    monkeypatch.setattr(fcntl, "flock", flock)
    with pytest.raises(RunError, match=r"^cannot lock the run directory .*: input/output error$"), locked(tmp_path):
        pass


def test_a_folder_is_made_with_its_parents_and_may_exist(tmp_path: Path):
    for _ in range(2):
        make_folder(tmp_path / "a" / "b")
    assert (tmp_path / "a" / "b").is_dir()


def test_a_folder_that_cannot_be_made_is_an_error_of_one_line(tmp_path: Path):
    (tmp_path / "taken").write_text("a file")
    with pytest.raises(RunError) as caught:
        make_folder(tmp_path / "taken" / "b")
    assert str(caught.value) == f"cannot make the folder {tmp_path}/taken/b: not a directory"


def test_the_lock_is_free_again_after_the_block(tmp_path: Path):
    taken = pytest.raises(RunError, match=f"is in use by process {os.getpid()}$")
    with locked(tmp_path / "run"), taken, locked(tmp_path / "run"):
        pass
    with locked(tmp_path / "run"):
        pass


@pytest.mark.skipif(sys.platform != "linux", reason="other systems may not let a locked file be emptied")
def test_a_lock_without_a_process_id_is_held_by_another_process(tmp_path: Path):
    with locked(tmp_path):
        os.truncate(tmp_path / ".lock", 0)
        with pytest.raises(RunError, match=r"is in use by another process$"), locked(tmp_path):
            pass
