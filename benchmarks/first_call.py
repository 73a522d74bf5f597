"""What it costs to find the layer and its axes: the first call and later ones, in forward passes.

    python benchmarks/first_call.py [--batch 32] [--device cuda] [--repeats N]

Of each of timm's networks, with random weights: how many forward passes the two calls make, and the
median of how many times as long they take as a plain forward pass beside them.
"""

from __future__ import annotations

import torch
from common import Call, Quartiles, argument_parser, in_turn, table
from foreign import torchvision_schemas  # noqa: F401, before timm, which imports torchvision

import timm  # isort: skip

import gradcam
from gradcam.space.memory import forget

NETWORKS = ("resnet50", "vit_base_patch16_224", "swin_tiny_patch4_window7_224")


def finished(call: Call, device: str) -> Call:
    """The call, which returns when the device has done its work."""

    def waits() -> None:
        call()
        if device == "cuda":
            torch.cuda.synchronize()

    return waits


def row(name: str, batch: int, device: str, repeats: int) -> list[str]:
    torch.manual_seed(0)
    model = timm.create_model(name).eval().to(device)
    images = torch.randn(batch, 3, 224, 224, device=device)
    passes: list[int] = []
    hook = model.register_forward_pre_hook(lambda module, inputs: passes.append(1))
    axes = gradcam.explain(model, images).axes
    first = len(passes)
    gradcam.explain(model, images)
    later = len(passes) - first
    hook.remove()

    def plain() -> None:
        with torch.inference_mode():
            model(images)

    def anew() -> None:
        forget(model)
        gradcam.explain(model, images)

    explainer = gradcam.Explainer(model)
    cells = [name, str(axes)]
    for count, call in ((first, anew), (later, lambda: explainer(images))):
        seconds = in_turn(finished(plain, device), finished(call, device), repeats)
        ratio = Quartiles.of(seconds[:, 1] / seconds[:, 0])
        cells += [str(count), f"{ratio.median:.2f}"]
    return cells


def main() -> None:
    parser = argument_parser(__doc__, repeats=7)
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    options = parser.parse_args()
    where = torch.cuda.get_device_name() if options.device == "cuda" else "CPU"
    print(f"{where}, PyTorch {torch.__version__}, batches of {options.batch}\n")
    head = ("network", "layer and axes", "passes, first call", "time", "passes, later", "time")
    rows = [row(name, options.batch, options.device, options.repeats) for name in NETWORKS]
    print("\n".join(table(head, rows)))


if __name__ == "__main__":
    main()
