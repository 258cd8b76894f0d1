"""Files are written whole or not at all, and one process at a time holds a run directory."""

import errno
import os
import sys
from pathlib import Path

import pytest

from sdlab.system.errors import RunError
from sdlab.system.files import make_folder, replacing
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
def test_a_lock_whose_holder_has_written_no_number_is_held_by_another_process(tmp_path: Path):
    with locked(tmp_path):
        os.truncate(tmp_path / ".lock", 0)
        with pytest.raises(RunError, match=r"is in use by another process$"), locked(tmp_path):
            pass
