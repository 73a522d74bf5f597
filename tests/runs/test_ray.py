"""Runs that Ray schedules: on one machine, and on a cluster whose parts die."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

import gradcam

pytest.importorskip("ray")
pytest.importorskip("pyarrow")

from PIL import Image
from runs import models

from gradcam.runs.shard import StoppedError

# Ray's own, of its own options.
pytestmark = pytest.mark.filterwarnings(
    "ignore::DeprecationWarning",
    "ignore::FutureWarning",
    "ignore:os.fork",  # Ray starts its processes so, and another test may have loaded JAX
)

TESTS = Path(__file__).parents[1]
PHOTOGRAPHS = 60
SIZE = 10


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Photographs in six shards; the one that kills a process is in none of the first."""
    folder = tmp_path_factory.mktemp("photos")
    models.photographs(folder, PHOTOGRAPHS)
    return folder


@pytest.fixture(scope="module")
def expected(folder, tmp_path_factory):
    out = tmp_path_factory.mktemp("expected")
    return gradcam.run("runs.models:model", folder, out / "out", shard_size=SIZE).to_arrow()


@pytest.fixture(scope="module")
def cluster():
    """Ray on two nodes of one processor each, which notices soon that a node has died."""
    names = {
        "PYTHONPATH": os.pathsep.join([str(TESTS), str(TESTS.parent)]),
        "RAY_USAGE_STATS_ENABLED": "0",
        "RAY_DATA_DISABLE_PROGRESS_BARS": "1",
        "RAY_health_check_initial_delay_ms": "1000",
        "RAY_health_check_period_ms": "500",
        "RAY_health_check_failure_threshold": "2",
    }
    with pytest.MonkeyPatch.context() as patch:
        for name, value in names.items():
            patch.setenv(name, value)
        from ray.cluster_utils import Cluster

        options = {"num_cpus": 1, "object_store_memory": 100 * 2**20, "include_dashboard": False}
        cluster = Cluster(initialize_head=True, head_node_args=options)
        cluster.second = cluster.add_node(num_cpus=1, object_store_memory=100 * 2**20)
        cluster.wait_for_nodes()
        yield cluster
        cluster.shutdown()


def run(model, folder, out, **options):
    return gradcam.run(f"runs.models:{model}", folder, out, shard_size=SIZE, **options)


def leftovers(out):
    """What a run has begun to write and not finished."""
    return [path for path in out.rglob("*") if path.name.endswith((".part", ".lock"))]


def command(*arguments, **options):
    code = "import sys; from gradcam.cli import main; main()"
    path = os.pathsep.join([str(TESTS), str(TESTS.parent)])
    return subprocess.Popen(
        [sys.executable, "-c", code, "run", *map(str, arguments)],
        env={**os.environ, "PYTHONPATH": path},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
        **options,
    )


def test_a_pool_that_takes_all_processors_does_the_same_from_the_command_line(
    folder, expected, tmp_path
):
    out = tmp_path / "out"
    arguments = [folder, "-o", out, "--model", "runs.models:model", "--shard-size", SIZE]
    arguments += ["--engine", "ray", "--workers", os.cpu_count()]
    started = command(*arguments)
    printed, _ = started.communicate(timeout=120)
    assert started.returncode == 0, printed
    assert f"{PHOTOGRAPHS} of {PHOTOGRAPHS} photographs, 0 errors" in printed
    assert "Traceback" not in printed
    assert gradcam.results(out).to_arrow() == expected
    # Nothing is left to do: Ray is not even imported.
    code = (
        "import sys, gradcam\n"
        "if __name__ == '__main__':\n"
        "    gradcam.run('runs.models:model', *sys.argv[1:3], shard_size=10, engine='ray')\n"
        "    print('ray' in sys.modules)\n"
    )
    script = tmp_path / "again.py"
    script.write_text(code)
    again = subprocess.run(
        [sys.executable, script, folder, out],
        env={**os.environ, "PYTHONPATH": f"{TESTS}{os.pathsep}{TESTS.parent}"},
        capture_output=True,
        text=True,
    )
    assert again.stdout == "False\n", again.stderr


@pytest.mark.parametrize("engine", ["ray", "local"])
def test_a_photograph_that_kills_workers_and_a_shard_that_was_given_up_end(
    engine, folder, tmp_path, request
):
    options = {"engine": engine, "workers": 1}
    if engine == "ray":
        options["address"] = request.getfixturevalue("cluster").address
    photos = tmp_path / "photos"
    models.photographs(photos, 30)
    blue = photos / "red" / "000.png"  # the first of its shard
    Image.new("RGB", (32, 24), (0, 0, 255)).save(blue)
    out = tmp_path / "out"
    (out / "attempts").mkdir(parents=True)
    (out / "attempts" / "1.json").write_text(json.dumps({"deaths": 3, "given_up": True}))
    found = gradcam.run("runs.models:deadly", photos, out, shard_size=5, **options)
    assert found.failed == [1]
    assert len(found) == 25
    errors = found.errors()
    assert [row.key for row in errors] == ["red/000.png"]
    assert "the process died twice" in errors[0].error
    assert not leftovers(out)


def test_a_factory_that_kills_every_actor_ends_the_run(cluster, folder, tmp_path):
    with pytest.raises(RuntimeError, match="an actor of the run died 3 times before it had made"):
        run("deadly_factory", folder, tmp_path / "out", engine="ray", address=cluster.address)


# The last one with this cluster, which has one node afterwards.
def test_a_worker_and_then_a_node_that_die_cost_nothing(cluster, folder, expected, tmp_path):
    out = tmp_path / "out"

    killed = []

    def kill():
        import psutil  # which Ray brings along

        raylet = cluster.head_node.all_processes["raylet"][0].process.pid
        for process in psutil.Process(raylet).children(recursive=True):
            if any("MapWorker" in part for part in process.cmdline()):
                process.kill()
                killed.append(process.pid)
        cluster.remove_node(cluster.second, allow_graceful=False)

    found = run(
        "slow", folder, out, engine="ray", address=cluster.address, progress=models.after(20, kill)
    )
    assert len(killed) <= 1  # on a slow machine the pool has none on this node yet
    assert found.to_arrow() == expected
    assert not leftovers(out)


def test_one_engine_goes_on_where_another_was_killed(folder, expected, tmp_path):
    out = tmp_path / "out"
    ended = []
    watch = models.after(20, lambda: ended.append(True))
    watch.stop = lambda: bool(ended)
    with pytest.raises(StoppedError):
        run("slow", folder, out, workers=1, progress=watch)
    done = sorted(path.name for path in (out / "rows").iterdir())
    assert 1 <= len(done) < 6
    arguments = [folder, "-o", out, "--model", "runs.models:slow", "--shard-size", SIZE]
    for number in (signal.SIGTERM, signal.SIGKILL):
        driver = command(*arguments, "--engine", "ray", "--workers", "1")
        wait_for_more(out, len(done), driver)
        driver.send_signal(number)
        printed, _ = driver.communicate(timeout=60)
        assert driver.returncode == (130 if number == signal.SIGTERM else -number), printed
        if number == signal.SIGTERM:
            assert not leftovers(out), printed
        done = sorted(path.name for path in (out / "rows").iterdir())
    assert len(done) < 6
    assert run("slow", folder, out).to_arrow() == expected
    assert not leftovers(out)


def wait_for_more(out, done, process):
    while len(list((out / "rows").glob("*.parquet"))) <= done:
        assert process.poll() is None, process.communicate()[0]
        time.sleep(0.05)
