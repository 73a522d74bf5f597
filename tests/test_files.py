"""Files are whole or not there; a place is held by one at a time."""

from __future__ import annotations

import multiprocessing
import os
import subprocess
import sys
import threading

import pytest

from gradcam._files import held, write_whole


def test_a_file_that_cannot_be_written_leaves_the_old_one(tmp_path):
    path = tmp_path / "a.json"
    write_whole(path, "old")
    code = (
        "import resource, signal, sys; from pathlib import Path; from gradcam._files import *; "
        "signal.signal(signal.SIGXFSZ, signal.SIG_IGN); "
        "resource.setrlimit(resource.RLIMIT_FSIZE, (100, -1)); "
        "write_whole(Path(sys.argv[1]), 'new' * 100)"
    )
    words = [sys.executable, "-c", code, str(path)]
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    assert f"OSError: {path}: could not be written (File too large)" in done.stderr
    assert path.read_text() == "old"
    assert os.listdir(tmp_path) == ["a.json"]


def test_a_link_to_a_file_stays_one(tmp_path):
    (tmp_path / "a").write_text("old")
    (tmp_path / "link").symlink_to(tmp_path / "a")
    write_whole(tmp_path / "link", b"new")
    assert (tmp_path / "link").is_symlink()
    assert (tmp_path / "a").read_bytes() == b"new"


def test_one_holds_it_and_another_is_told(tmp_path):
    path = tmp_path / "lock"
    with (
        held(path, wait=False),
        pytest.raises(BlockingIOError, match="is held by another"),
        held(path, wait=False),
    ):
        pass
    assert not path.exists()
    with held(path, wait=False):  # free again
        pass


def add_one(folder, times):
    for _ in range(times):
        with held(folder / "lock", wait=True):
            count = int((folder / "count").read_text())
            write_whole(folder / "count", str(count + 1))


@pytest.mark.parametrize("kind", [threading.Thread, multiprocessing.get_context("spawn").Process])
def test_those_that_wait_come_one_after_the_other(tmp_path, kind):
    (tmp_path / "count").write_text("0")
    workers = [kind(target=add_one, args=(tmp_path, 25)) for _ in range(4)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert (tmp_path / "count").read_text() == "100"
    assert os.listdir(tmp_path) == ["count"]


def test_a_process_that_is_killed_holds_nothing(tmp_path):
    code = (
        "import sys; from pathlib import Path; from gradcam._files import *\n"
        "with held(Path(sys.argv[1]), wait=False): print('held', flush=True); sys.stdin.read()"
    )
    words = [sys.executable, "-c", code, str(tmp_path / "lock")]
    with subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdout.readline() == b"held\n"
        with pytest.raises(BlockingIOError), held(tmp_path / "lock", wait=False):
            pass
        process.kill()
    with held(tmp_path / "lock", wait=False):
        pass
