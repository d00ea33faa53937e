import errno

import pytest

from hounsfield.data.folder import whole_folder
from hounsfield.errors import PlatformError


def write_and_fail(out, error):
    with whole_folder(out, "done") as folder:
        (folder / "done").write_text("half")
        raise error


def test_a_full_disk_is_said_and_nothing_is_left(tmp_path):
    with pytest.raises(PlatformError, match="no space is left"):
        write_and_fail(tmp_path / "out", OSError(errno.ENOSPC, "No space left on device"))
    assert list(tmp_path.iterdir()) == []


def test_ctrl_c_keeps_the_older_folder(tmp_path):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "done").write_text("older")
    with pytest.raises(KeyboardInterrupt):
        write_and_fail(tmp_path / "out", KeyboardInterrupt())
    assert (tmp_path / "out" / "done").read_text() == "older"
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def test_a_finished_folder_takes_the_place_of_the_older_one(tmp_path):
    for content in ("older", "newer"):
        with whole_folder(tmp_path / "out", "done") as folder:
            (folder / "done").write_text(content)
    assert (tmp_path / "out" / "done").read_text() == "newer"
