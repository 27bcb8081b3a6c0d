"""The embedded Valkey: it starts with what a power cut left of its file."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import redis

from portal.stack.valkey import EmbeddedValkey


@pytest.fixture
def server(tmp_path: Path) -> Iterator[EmbeddedValkey]:
    made = EmbeddedValkey(tmp_path / "valkey")
    yield made
    made.stop()


def test_an_end_that_was_never_written_is_cut_off(server: EmbeddedValkey):
    remember(server, "before", "kept")
    with find_file(server).open("ab") as file:
        file.write(bytes(56))  # as ext4 leaves it: the file had grown, its last block had not been written
    server.start()
    with redis.Redis.from_url(server.url) as client:
        assert client.get("before") == b"kept"
        assert client.set("after", "taken")


def test_a_hole_leaves_what_was_before_it(server: EmbeddedValkey):
    remember(server, "before", "kept")
    end = find_file(server).stat().st_size
    remember(server, "hole", "x" * 100)
    with find_file(server).open("r+b") as file:
        file.seek(end)
        file.write(bytes(80))
    server.start()
    with redis.Redis.from_url(server.url) as client:
        assert client.get("before") == b"kept"
        assert client.get("hole") is None


@pytest.mark.parametrize("damage", ["empty", "zeros", "gone"])
@pytest.mark.parametrize("part", ["*.manifest", "*.base.rdb", "*.incr.aof"])
def test_it_starts_whatever_is_left(server: EmbeddedValkey, part: str, damage: str):
    remember(server, "before", "maybe kept")
    [file] = (server.home / "appendonlydir").glob(part)
    if damage == "gone":
        file.unlink()
    else:
        file.write_bytes(bytes(file.stat().st_size) if damage == "zeros" else b"")
    server.start()
    with redis.Redis.from_url(server.url) as client:
        assert client.set("after", "taken")


def remember(server: EmbeddedValkey, key: str, value: str) -> None:
    server.start()
    with redis.Redis.from_url(server.url) as client:
        client.set(key, value)
    server.stop()


def find_file(server: EmbeddedValkey) -> Path:
    [file] = (server.home / "appendonlydir").glob("*.incr.aof")
    return file
