"""Atomic writes, also to links, pipes and devices."""

import os
from pathlib import Path

import pytest

from srcli.errors import SrcliError
from srcli.io.atomic import atomic_write, check_writable


def test_a_pipe_is_not_replaced_by_a_file(tmp_path: Path) -> None:
    pipe = tmp_path / "pipe.txt"
    os.mkfifo(pipe)
    with pytest.raises(SrcliError, match=r"pipe\.txt: No such device or address"), atomic_write(pipe) as part:
        part.write_bytes(b"nobody reads this")
    reader = os.open(pipe, os.O_RDONLY | os.O_NONBLOCK)
    with atomic_write(pipe, overwrite=False) as part:
        part.write_bytes(b"content")
    assert os.read(reader, 100) == b"content"
    os.close(reader)
    assert pipe.is_fifo()
    check_writable(Path("/dev/null"), overwrite=False)
    with atomic_write(Path("/dev/null")) as part:
        part.write_bytes(b"content")
    assert Path("/dev/null").is_char_device()
