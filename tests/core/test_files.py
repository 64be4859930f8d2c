"""A file appears whole or not at all."""

from pathlib import Path

import pytest

from planner.core.files import write_atomically


def test_a_file_is_replaced_and_readable_by_others(tmp_path):
    place = tmp_path / "a.json"
    write_atomically(place, b"old")
    write_atomically(place, b"new")
    assert place.read_bytes() == b"new"
    assert place.stat().st_mode & 0o777 == 0o644
    assert list(tmp_path.iterdir()) == [place]


def test_an_interrupted_write_keeps_the_old_file_and_leaves_nothing(tmp_path, monkeypatch):
    place = tmp_path / "a.json"
    place.write_bytes(b"old")

    def interrupt(self, target):
        raise KeyboardInterrupt

    monkeypatch.setattr(Path, "replace", interrupt)
    with pytest.raises(KeyboardInterrupt):
        write_atomically(place, b"new")
    assert place.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [place]


def test_a_missing_folder_is_an_os_error(tmp_path):
    with pytest.raises(OSError, match="none"):
        write_atomically(tmp_path / "none" / "a.json", b"")
