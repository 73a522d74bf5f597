"""Runs from and to object stores, which may be away for a while."""

from __future__ import annotations

import contextlib
import io
import socket
import tarfile
import threading
import time

import pytest

import gradcam

pytest.importorskip("pyarrow")
pytest.importorskip("s3fs")
pytest.importorskip("moto.server")

import fsspec
import pyarrow as pa
import pyarrow.parquet as pq
from moto.server import ThreadedMotoServer
from runs import models
from typer.testing import CliRunner

from gradcam.cli.commands import app
from gradcam.runs import places
from gradcam.runs.places import StoreError, file_of, opened, patient
from gradcam.runs.shard import StoppedError

COUNT = 20


class Door:
    """What stands before the store: it can be shut and opened, and cuts what goes through."""

    def __init__(self, port):
        self._store = ("127.0.0.1", port)
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = self._listener.getsockname()[1]
        self._open = threading.Event()
        self._open.set()
        self._pairs = []
        self.refused = 0
        threading.Thread(target=self._serve, daemon=True).start()

    def _serve(self):
        while True:
            try:
                near, _ = self._listener.accept()
            except OSError:
                return
            if not self._open.is_set():
                self.refused += 1
                near.close()
                continue
            far = socket.create_connection(self._store)
            self._pairs.append((near, far))
            for pair in ((near, far), (far, near)):
                threading.Thread(target=self._pump, args=pair, daemon=True).start()

    def _pump(self, start, end):
        with contextlib.suppress(OSError):
            while data := start.recv(65536):
                end.sendall(data)
        for one in (start, end):
            _close(one)

    def shut(self):
        self._open.clear()
        for pair in self._pairs:
            for one in pair:
                _close(one)
        self._pairs.clear()

    def shut_for(self, seconds):
        self.shut()
        threading.Timer(seconds, self._open.set).start()

    def reopen(self):
        self._open.set()

    def close(self):
        self._listener.close()
        self.shut()


def _close(one):
    with contextlib.suppress(OSError):
        one.shutdown(socket.SHUT_RDWR)
    one.close()


@pytest.fixture(scope="module")
def store():
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    door = Door(server.get_host_and_port()[1])
    settings = {
        "AWS_ACCESS_KEY_ID": "key",
        "AWS_SECRET_ACCESS_KEY": "secret",
        "AWS_DEFAULT_REGION": "us-east-1",
        "AWS_MAX_ATTEMPTS": "1",
        "AWS_ENDPOINT_URL": f"http://127.0.0.1:{door.port}",
    }
    with pytest.MonkeyPatch.context() as patch:
        for name, value in settings.items():
            patch.setenv(name, value)
        yield door
        fsspec.get_filesystem_class("s3").clear_instance_cache()
    door.close()
    server.stop()


@pytest.fixture
def bucket(store, request):
    """A bucket with photographs, and the same in two tar files and in a Parquet file."""
    store.reopen()
    name = request.node.name.replace("_", "-").replace("[", "-").replace("]", "")[-60:].strip("-")
    system = fsspec.filesystem("s3")
    system.mkdir(name)
    return f"s3://{name}"


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("photos")
    models.photographs(folder, COUNT)
    return folder


@pytest.fixture(scope="module")
def expected(folder, tmp_path_factory):
    return gradcam.run(models.model(), folder, tmp_path_factory.mktemp("expected") / "out")


def tar_of(paths):
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w") as tar:
        for n, path in enumerate(paths):
            tar.add(path, f"{n:04d}.png")
    return file.getvalue()


def fill(folder, url, kind):
    """The photographs in a store, as a source of that kind."""
    place = opened(url)
    paths = sorted(folder.rglob("*.png"))
    if kind == "files":
        for path in paths:
            place.write(f"photos/{path.relative_to(folder)}", path.read_bytes())
        return f"{url}/photos"
    if kind == "tar":
        half = COUNT // 2
        place.write("x-000.tar", tar_of(paths[:half]))
        place.write("x-001.tar", tar_of(paths[half:]))
        return f"{url}/x-*.tar"
    file = io.BytesIO()
    table = pa.table({"image": [path.read_bytes() for path in paths]})
    pq.write_table(table, file, row_group_size=8)
    place.write("x.parquet", file.getvalue())
    return f"{url}/x.parquet"


def maps(found):
    return [row.values.tolist() for row in found]


@pytest.mark.parametrize("kind", ["files", "tar", "parquet"])
def test_a_run_from_a_store_to_a_store_goes_on_and_is_read_there(bucket, folder, expected, kind):
    source = fill(folder, bucket, kind)
    out = f"{bucket}/runs/out"
    ended = []
    watch = models.after(12, lambda: ended.append(True))
    watch.stop = lambda: bool(ended)
    with pytest.raises(StoppedError):
        gradcam.run(models.model(), source, out, shard_size=7, batch=3, progress=watch)
    assert opened(out).names("rows") == {"part-00000000.parquet"}
    gradcam.run(models.model(), source, out, shard_size=7)
    found = gradcam.results(out)
    assert maps(found) == maps(expected)
    assert found.counts() == {"photographs": COUNT, "rows": COUNT, "errors": 0, "blank": 0}
    assert found.photograph(found[3]).shape == (24, 32, 3)
    assert opened(out).names() == {"run.json", "plan.parquet", "rows"}


def test_workers_share_a_run_in_a_store(bucket, folder, expected):
    source = fill(folder, bucket, "files")
    found = gradcam.run(
        "runs.models:model", source, f"{bucket}/out", shard_size=5, labels="folder", workers=2
    )
    assert maps(found) == maps(expected)
    assert {row.label for row in found} == {"red", "green"}


@pytest.mark.parametrize(
    ("kind", "photographs", "seconds"),
    [("files", 4, 10), ("tar", 4, 2), ("parquet", 4, 2), ("files", 10, 2)],
    ids=["reading-files", "reading-a-tar", "reading-parquet", "writing"],
)
def test_a_store_that_is_away_for_a_while_costs_no_row(
    store, bucket, folder, expected, kind, photographs, seconds, monkeypatch
):
    source = fill(folder, bucket, kind)
    # A tar file is read in many pieces.
    monkeypatch.setattr(fsspec.filesystem("s3"), "default_block_size", 4000)
    before = store.refused
    watch = models.after(photographs, lambda: store.shut_for(seconds))
    found = gradcam.run(
        models.model(), source, f"{bucket}/out", shard_size=10, batch=2, progress=watch
    )
    assert store.refused > before
    assert maps(found) == maps(expected)
    assert not found.errors()


def test_a_store_that_stays_away_is_an_error_and_the_run_goes_on_later(
    store, bucket, folder, expected, monkeypatch
):
    source = fill(folder, bucket, "files")
    monkeypatch.setattr(places, "PATIENCE", 1.0)
    monkeypatch.setattr(fsspec.filesystem("s3"), "retries", 1)
    with pytest.raises(
        StoreError, match=r"the store does not answer .*; run again, and it goes on"
    ):
        gradcam.run(
            models.model(),
            source,
            f"{bucket}/out",
            shard_size=5,
            batch=2,
            progress=models.after(9, store.shut),
        )
    arguments = [source, "-o", f"{bucket}/out", "--model", "runs.models:model", "--workers", "0"]
    result = CliRunner().invoke(app, ["run", *arguments, "--shard-size", "5"])
    assert result.exit_code == 1
    assert "s3: the store does not answer" in result.output.replace("\n", " ")
    store.reopen()
    assert opened(f"{bucket}/out").names("rows") == {"part-00000000.parquet"}
    found = gradcam.run(models.model(), source, f"{bucket}/out", shard_size=5)
    assert maps(found) == maps(expected)


def test_what_a_store_lacks_or_forbids_is_told_at_once(bucket, folder, monkeypatch):
    start = time.monotonic()
    with pytest.raises(FileNotFoundError, match=r"there is no such file or folder"):
        gradcam.run(models.model(), f"{bucket}/nothing", f"{bucket}/out")
    with pytest.raises(FileNotFoundError, match=r"holds no run; gradcam.run writes one"):
        gradcam.results(f"{bucket}/out")
    place = opened(bucket)
    for name, data in (("list.txt", b"no.png\nyes.png"), ("yes.png", b"no image")):
        place.write(name, data)
    with pytest.raises(ValueError, match=r"none of the first 2 photographs can be read; no.png"):
        gradcam.run(models.model(), f"{bucket}/list.txt", f"{bucket}/out")
    assert time.monotonic() - start < places.PATIENCE / 2

    class NoCredentialsError(Exception):
        pass

    def ask():
        raise NoCredentialsError("unable to locate credentials")

    with pytest.raises(PermissionError, match=r"s3: no access to the store .unable to locate"):
        patient(fsspec.filesystem("s3"), ask)


class Flaky(fsspec.get_filesystem_class("memory")):
    """A store in which every second reading fails."""

    protocol = "flaky"
    cachable = False
    reads = 0

    def open(self, path, mode="rb", **kwargs):
        file = super().open(path, mode, **kwargs)
        system = self

        class Reader:
            size = file.size
            seek = file.seek

            def read(self, count=-1):
                type(system).reads += 1
                if type(system).reads % 2:
                    file.seek(3)  # anywhere
                    raise ConnectionResetError("cut")
                return file.read(count)

            def close(self):
                pass

        return Reader()


def test_a_file_is_read_on_where_it_was_cut(monkeypatch):
    monkeypatch.setattr(places, "WAITS", (0.0,))
    system = Flaky()
    data = bytes(range(256)) * 9
    system.pipe_file("/cut/file", data)
    with file_of(system, "/cut/file") as file:
        assert file.read(100) == data[:100]
        assert file.seek(-50, io.SEEK_END) == len(data) - 50
        assert file.read() == data[-50:]
        assert file.seek(200) == file.tell() == 200
        file.seek(10, io.SEEK_CUR)
        assert file.read(7) == data[210:217]
    assert Flaky.reads == 6
