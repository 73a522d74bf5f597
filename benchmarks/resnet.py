"""ResNet-50 with torchvision's strides and random weights, in PyTorch and in Flax.

He et al. 2015, https://arxiv.org/abs/1512.03385
"""

from __future__ import annotations

from typing import Any

__all__ = ["flax_resnet50", "torch_resnet50"]

STAGES = ((64, 3, 1), (128, 4, 2), (256, 6, 2), (512, 3, 2))
"""Width, blocks, and stride of the first."""


def torch_resnet50() -> Any:
    """In PyTorch, in evaluation mode: (N, 3, H, W) -> (N, 1000)."""
    import torch
    from torch import nn

    def conv_norm(n_in: int, n_out: int, kernel: int, stride: int = 1) -> nn.Module:
        conv = nn.Conv2d(n_in, n_out, kernel, stride, padding=kernel // 2, bias=False)
        return nn.Sequential(conv, nn.BatchNorm2d(n_out))

    class Bottleneck(nn.Module):
        def __init__(self, n_in: int, width: int, stride: int) -> None:
            super().__init__()
            self.reduce = conv_norm(n_in, width, 1)
            self.filter = conv_norm(width, width, 3, stride)
            self.expand = conv_norm(width, 4 * width, 1)
            self.shortcut = None
            if n_in != 4 * width or stride != 1:
                self.shortcut = conv_norm(n_in, 4 * width, 1, stride)

        def forward(self, x: Any) -> Any:
            y = self.expand(self.filter(self.reduce(x).relu_()).relu_())
            if self.shortcut is not None:
                x = self.shortcut(x)
            return (y + x).relu_()

    torch.manual_seed(0)
    stages = []
    n_in = 64
    for width, depth, stride in STAGES:
        blocks = [Bottleneck(n_in, width, stride)]
        n_in = 4 * width
        blocks += [Bottleneck(n_in, width, 1) for _ in range(depth - 1)]
        stages.append(nn.Sequential(*blocks))
    stem = [conv_norm(3, 64, 7, 2), nn.ReLU(inplace=True), nn.MaxPool2d(3, 2, padding=1)]
    head = [nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(n_in, 1000)]
    return nn.Sequential(*stem, *stages, *head).eval()


def flax_resnet50() -> Any:
    """In flax.nnx: (N, H, W, 3) -> (N, 1000)."""
    from flax import nnx

    rngs = nnx.Rngs(0)

    def conv_norm(n_in: int, n_out: int, kernel: int, stride: int = 1) -> nnx.Module:
        conv = nnx.Conv(
            n_in, n_out, (kernel, kernel), stride, padding=kernel // 2, use_bias=False, rngs=rngs
        )
        return nnx.Sequential(conv, nnx.BatchNorm(n_out, use_running_average=True, rngs=rngs))

    class Bottleneck(nnx.Module):
        def __init__(self, n_in: int, width: int, stride: int) -> None:
            self.reduce = conv_norm(n_in, width, 1)
            self.filter = conv_norm(width, width, 3, stride)
            self.expand = conv_norm(width, 4 * width, 1)
            fits = n_in == 4 * width and stride == 1
            self.shortcut = None if fits else conv_norm(n_in, 4 * width, 1, stride)

        def __call__(self, x: Any) -> Any:
            y = self.expand(nnx.relu(self.filter(nnx.relu(self.reduce(x)))))
            if self.shortcut is not None:
                x = self.shortcut(x)
            return nnx.relu(y + x)

    class ResNet50(nnx.Module):
        def __init__(self) -> None:
            self.stem = conv_norm(3, 64, 7, 2)
            stages = []
            n_in = 64
            for width, depth, stride in STAGES:
                blocks = [Bottleneck(n_in, width, stride)]
                n_in = 4 * width
                for _ in range(depth - 1):
                    blocks.append(Bottleneck(n_in, width, 1))
                stages.append(nnx.Sequential(*blocks))
            self.stages = nnx.List(stages)
            self.fc = nnx.Linear(n_in, 1000, rngs=rngs)

        def __call__(self, x: Any) -> Any:
            x = nnx.max_pool(nnx.relu(self.stem(x)), (3, 3), (2, 2), padding=((1, 1), (1, 1)))
            for stage in self.stages:
                x = stage(x)
            return self.fc(x.mean((1, 2)))

    return ResNet50()
