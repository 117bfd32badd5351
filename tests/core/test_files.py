from __future__ import annotations

import json
import signal
import subprocess
import sys

import pytest

from medexp.core.files import write_atomic, write_json, write_text

WRITES_HALF_AND_WAITS = """
import sys, time
from pathlib import Path
from medexp.core.files import write_atomic

def half(stream):
    stream.write(b"half of the new")
    stream.flush()
    print("half", flush=True)
    time.sleep(60)

write_atomic(Path(sys.argv[1]), half)
"""


def test_a_killed_writer_leaves_the_old_content(tmp_path):
    file = tmp_path / "run.json"
    file.write_text("old")
    command = [sys.executable, "-c", WRITES_HALF_AND_WAITS, str(file)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as writer:
        assert writer.stdout.readline() == "half\n"
        assert file.read_text() == "old"
        writer.send_signal(signal.SIGKILL)
    assert file.read_text() == "old"
    write_text(file, "new")
    assert file.read_text() == "new"


def test_a_reader_of_the_old_content_reads_it_to_the_end(tmp_path):
    file = tmp_path / "run.json"
    file.write_text("old")
    with file.open() as reader:
        write_text(file, "new")
        assert reader.read() == "old"
    assert file.read_text() == "new"


def test_a_failing_writer_leaves_the_old_content_and_no_rest(tmp_path):
    file = tmp_path / "run.json"
    file.write_text("old")

    def fail(stream):
        stream.write(b"half")
        raise OSError("no space left on device")

    with pytest.raises(OSError, match="no space left"):
        write_atomic(file, fail)
    assert [path.name for path in tmp_path.iterdir()] == ["run.json"]
    assert file.read_text() == "old"


def test_the_folder_is_made_and_others_may_read(tmp_path):
    file = tmp_path / "study" / "run" / "log.txt"
    write_text(file, "µ\n")
    assert file.read_bytes() == "µ\n".encode()
    assert file.stat().st_mode & 0o777 == 0o644
    assert list(file.parent.iterdir()) == [file]


def test_json_is_read_back_as_it_was(tmp_path):
    value = {"axes": {"seed": "0"}, "results": [1, None, 0.1]}
    write_json(tmp_path / "run.json", value)
    assert json.loads((tmp_path / "run.json").read_text()) == value
