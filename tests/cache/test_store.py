"""What is kept on disk: found again, bounded, shared by processes, and never trusted when it is damaged."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from planner.cache.store import MAGIC, SUFFIX, Cache
from planner.errors import PlannerError


def quiet(folder: Path, said: list[str] | None = None, limit_bytes: int = 10_000) -> Cache:
    return Cache(folder, limit_bytes, (said if said is not None else []).append)


def test_what_was_put_is_found_by_another_one(tmp_path: Path) -> None:
    assert quiet(tmp_path / "new" / "folder").put("table", "ab12", b"content")
    assert quiet(tmp_path / "new" / "folder").get("table", "ab12") == b"content"
    assert quiet(tmp_path).get("table", "ab12") is None


@pytest.mark.parametrize("damaged", [b"", b"short", MAGIC + b"0" * 32 + b"content", b"\x80\x05another's file" * 9])
def test_damaged_and_foreign_files_are_removed_and_said_once(tmp_path: Path, damaged: bytes) -> None:
    said: list[str] = []
    cache = quiet(tmp_path, said)
    for key in ("aa", "bb"):
        (tmp_path / f"table-{key}{SUFFIX}").write_bytes(damaged)
    assert cache.get("table", "aa") is None
    assert cache.get("table", "bb") is None
    assert len(said) == 1
    assert f"table-aa{SUFFIX} in the cache is damaged" in said[0]
    assert not list(tmp_path.iterdir())


def test_every_flipped_byte_is_noticed(tmp_path: Path) -> None:
    cache = quiet(tmp_path)
    cache.put("table", "aa", b"four")
    path = tmp_path / f"table-aa{SUFFIX}"
    whole = path.read_bytes()
    for at in range(len(whole)):
        path.write_bytes(whole[:at] + bytes([whole[at] ^ 1]) + whole[at + 1:])
        assert cache.get("table", "aa") is None, at


def test_the_bound_is_kept_by_removing_what_was_not_used_for_longest(tmp_path: Path) -> None:
    cache = quiet(tmp_path, limit_bytes=900)
    for n, key in enumerate(("aa", "bb", "cc")):
        cache.put("table", key, bytes(200))
        os.utime(tmp_path / f"table-{key}{SUFFIX}", (n, n))
    assert cache.get("table", "aa") is not None  # used again
    assert cache.put("table", "dd", bytes(200))
    assert [e.path.name for e in cache.entries()] == [f"table-{k}{SUFFIX}" for k in ("cc", "aa", "dd")]
    assert cache.used_bytes() <= 900
    assert not cache.put("table", "ee", bytes(1000))


def test_a_folder_that_cannot_be_written_keeps_nothing_and_says_so_once(tmp_path: Path) -> None:
    said: list[str] = []
    (tmp_path / "file").write_text("in the way")
    cache = quiet(tmp_path / "file", said)
    assert not cache.put("table", "aa", b"content")
    assert not cache.put("table", "bb", b"content")
    assert cache.get("table", "aa") is None
    assert sum("can't be written" in text for text in said) == 1


def test_clearing_leaves_the_files_of_others(tmp_path: Path) -> None:
    cache = quiet(tmp_path)
    cache.put("table", "aa", b"content")
    (tmp_path / f".table-bb{SUFFIX}.x1y2").write_bytes(b"half")
    (tmp_path / "notes.txt").write_text("mine")
    assert cache.clear() > 4
    assert [p.name for p in tmp_path.iterdir()] == ["notes.txt"]


def test_a_negative_bound_is_refused(tmp_path: Path) -> None:
    with pytest.raises(PlannerError, match="0 bytes or more"):
        Cache(tmp_path, -1)


WORKER = """
import sys
from pathlib import Path
from planner.cache.store import Cache

def fail(text):
    raise SystemExit(text)

cache = Cache(Path(sys.argv[1]), 60_000, fail)
mine = int(sys.argv[2])
for turn in range(150):
    key = f"{(turn * 7 + mine) % 20:02x}"
    found = cache.get("table", key)
    if found is not None and found != key.encode() * 2000:
        fail("read another's content")
    cache.put("table", key, key.encode() * 2000)
"""


def test_processes_share_a_folder_that_is_too_small_for_all(tmp_path: Path) -> None:
    """Four write, read and remove the same files: none sees half a file, an error or another's content."""
    running = [subprocess.Popen([sys.executable, "-c", WORKER, str(tmp_path), str(n)], stderr=subprocess.PIPE,
                                cwd=Path(__file__).parents[2], text=True) for n in range(4)]
    for process in running:
        _, error = process.communicate(timeout=120)
        assert process.returncode == 0, error
    cache = Cache(tmp_path, 60_000)
    cache.trim()
    assert 0 < cache.used_bytes() <= 60_000
    assert not [p for p in tmp_path.iterdir() if p.name.startswith(".")]


def test_the_folder_is_looked_through_seldom_and_its_bound_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch
                                                                ) -> None:
    looks: list[int] = []
    entries = Cache.entries
    monkeypatch.setattr(Cache, "entries", lambda self: looks.append(1) or entries(self))
    one, other = quiet(tmp_path), quiet(tmp_path)
    for n in range(60):
        one.put("table", f"a{n}", bytes(50))
        other.put("table", f"b{n}", bytes(50))
        assert sum(f.stat().st_size for f in tmp_path.iterdir()) <= one.limit_bytes
    assert len(looks) < 120
