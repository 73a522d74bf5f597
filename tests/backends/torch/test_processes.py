"""Explaining for long, in many threads and in other processes."""

from __future__ import annotations

import gc
import pickle
import subprocess
import sys
import threading
import weakref
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

import gradcam

torch = pytest.importorskip("torch")

from torch import nn  # noqa: E402

ROOT = Path(gradcam.__file__).parent.parent
METHODS = (
    "grad-cam", "grad-cam++", "xgrad-cam", "hires-cam", "layer-cam", "eigen-cam",
    "eigen-grad-cam", "fem", "shapley-cam", "ablation-cam", "score-cam", "full-grad",
)  # fmt: skip
IMAGES = torch.linspace(-1, 1, 2 * 3 * 6 * 6).reshape(2, 3, 6, 6)

pytestmark = pytest.mark.filterwarnings("ignore::gradcam.BlankMapWarning")


def network():
    torch.manual_seed(0)
    layers = nn.Conv2d(3, 4, 3), nn.Tanh(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 5)
    return nn.Sequential(*layers).eval()


def explained(model, method, target=1):
    return gradcam.explain(model, IMAGES, "0", target, method, relu=False).maps


def test_sixteen_threads_of_twelve_methods_get_1600_right_maps():
    model = network()
    expected = {(m, t): explained(model, m, t) for m in METHODS for t in range(2)}
    jobs = list(expected)
    start = threading.Barrier(16)

    def work(worker):
        start.wait()
        right = 0
        for n in range(100):
            job = jobs[(worker * 7 + n) % len(jobs)]
            right += torch.allclose(explained(model, *job), expected[job], rtol=1e-4, atol=1e-6)
        return right

    with ThreadPoolExecutor(16) as pool:
        assert sum(pool.map(work, range(16))) == 1600


WORKERS = """
import torch
from torch.utils.data import DataLoader, Dataset
import gradcam

images = torch.linspace(-1, 1, 216).reshape(2, 3, 6, 6)

class Explained(Dataset):
    def __init__(self):
        torch.manual_seed(0)
        head = torch.nn.AdaptiveAvgPool2d(1), torch.nn.Flatten(), torch.nn.Linear(4, 5)
        model = torch.nn.Sequential(torch.nn.Conv2d(3, 4, 3), torch.nn.Tanh(), *head).eval()
        self.explainer = gradcam.Explainer(model, "0", relu=False)

    def __len__(self):
        return 2

    def __getitem__(self, n):
        return self.explainer(images[n : n + 1], 1).maps[0]

if __name__ == "__main__":
    data = Explained()
    expected = data.explainer(images, 1).maps
    # where there is a GPU, autograd has threads, and PyTorch refuses it in forked processes
    starts = ["spawn"] if torch.cuda.is_available() else ["fork", "spawn"]
    for start in starts:
        loader = DataLoader(data, None, num_workers=2, multiprocessing_context=start)
        torch.testing.assert_close(torch.stack(list(loader)), expected)
        print(start)
    print("all of", *starts)
"""


def test_workers_of_a_data_loader_explain(tmp_path):
    """In a process of its own: one that has threads, as JAX's, is not to be forked."""
    script = tmp_path / "workers.py"
    script.write_text(WORKERS)
    done = subprocess.run(
        [sys.executable, str(script)], capture_output=True, text=True, timeout=300, cwd=ROOT
    )
    *started, said = done.stdout.splitlines()
    assert said == f"all of {' '.join(started)}", done.stderr


def test_an_explainer_and_an_explanation_can_be_pickled():
    explainer = gradcam.Explainer(network(), "0")
    explanation = explainer(IMAGES, 1)
    again = pickle.loads(pickle.dumps(explainer))
    assert torch.equal(again(IMAGES, 1).maps, explanation.maps)
    assert torch.equal(pickle.loads(pickle.dumps(explanation)).maps, explanation.maps)


def test_an_explanation_keeps_neither_model_nor_inputs():
    model, images = network(), IMAGES.clone()
    kept = weakref.ref(model), weakref.ref(images)
    explanation = gradcam.explain(model, images, "0", 1, relu=False)
    del model, images
    gc.collect()
    assert [reference() for reference in kept] == [None, None]
    assert explanation.maps.shape == (2, 4, 4)


def test_calls_and_fresh_models_leave_no_objects():
    def objects():
        gc.collect()
        return len(gc.get_objects())

    for _ in range(3):
        explained(network(), "grad-cam")
    before = objects()
    for _ in range(20):
        explained(network(), "grad-cam")
    assert objects() - before < 20  # less than one for each


def test_a_parallel_model_is_explained_without_its_process_group(tmp_path):
    model = network()
    torch.distributed.init_process_group(
        "gloo", init_method=f"file://{tmp_path}/group", rank=0, world_size=1
    )
    try:
        parallel = nn.parallel.DistributedDataParallel(model)
        assert torch.equal(explained(parallel, "grad-cam"), explained(model, "grad-cam"))
    finally:
        torch.distributed.destroy_process_group()


RANKS = """
import sys
import torch
import gradcam

rank, group = int(sys.argv[1]), sys.argv[2]
torch.distributed.init_process_group("gloo", init_method=f"file://{group}", rank=rank, world_size=2)
torch.manual_seed(0)
head = torch.nn.AdaptiveAvgPool2d(1), torch.nn.Flatten(), torch.nn.Linear(4, 5)
model = torch.nn.Sequential(torch.nn.Conv2d(3, 4, 3), torch.nn.BatchNorm2d(4), *head).eval()
parallel = torch.nn.parallel.DistributedDataParallel(model)
images = torch.linspace(-1, 1, 216).reshape(2, 3, 6, 6)
if rank == 0:  # alone: the other process takes part in nothing
    found = gradcam.explain(parallel, images, "0", 1, relu=False).maps
    assert torch.equal(found, gradcam.explain(model, images, "0", 1, relu=False).maps)
    gradcam.verify(parallel, images, "0", 1).assert_passed()
torch.distributed.barrier()
torch.distributed.destroy_process_group()
print("done")
"""


def test_one_of_two_parallel_processes_explains(tmp_path):
    command = [sys.executable, "-c", RANKS]
    ranks = [
        subprocess.Popen(
            [*command, str(rank), str(tmp_path / "group")],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            cwd=ROOT,
        )
        for rank in range(2)
    ]
    try:
        for process in ranks:
            out, errors = process.communicate(timeout=120)
            assert out.split() == ["done"], errors
    finally:
        for process in ranks:
            process.kill()
