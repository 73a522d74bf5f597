"""What it costs to tell a model by its weights, which `evaluate` does once, beside a forward pass.

    python benchmarks/hashing.py

Random weights, a batch of 32 images of 224 x 224, medians of calls that are taken in turn.
"""

from __future__ import annotations

import jax
import torch
from common import Quartiles, argument_parser, in_turn, table
from flax import nnx
from networks import Network, flax_network
from zoo import random_weights

from gradcam import backends
from gradcam.identity import identity

BATCH = 32


def row(name: str, model: object, repeats: int) -> list[str]:
    """Megabytes, seconds of the hash and of a pass, megabytes a second, and the ratio."""
    images = Network(name, model, "").inputs(BATCH)
    adapted = backends.adapt(model, None)
    size = sum(array.nbytes for array in adapted.state()[1].values()) / 1e6
    if isinstance(model, torch.nn.Module):
        x = torch.from_numpy(images)

        def forward() -> None:
            with torch.inference_mode():
                model(x)
    else:
        compiled, y = nnx.jit(lambda model, x: model(x)), jax.numpy.asarray(images)

        def forward() -> None:
            jax.block_until_ready(compiled(model, y))

    seconds = in_turn(lambda: identity(model), forward, repeats)
    of_hash, of_pass = (Quartiles.of(column).median for column in seconds.T)
    numbers = f"{size:.0f}", f"{of_hash:.2f}", f"{of_pass:.2f}", f"{size / of_hash:.0f}"
    return [name, *numbers, str(Quartiles.of(seconds[:, 0] / seconds[:, 1]))]


def main() -> None:
    parser = argument_parser(__doc__, repeats=3)
    parser.add_argument("--only", help="one of the models")
    options = parser.parse_args()
    models = {
        "resnet50": lambda: random_weights("resnet50"),
        "vit_l_16": lambda: random_weights("vit_l_16"),
        "resnet50 (Flax)": lambda: flax_network("resnet50").model,
    }
    if options.only:
        models = {options.only: models[options.only]}
    rows = [row(name, make(), options.repeats) for name, make in models.items()]
    head = ("model", "MB", "hash, s", "pass, s", "MB/s", "hash / pass")
    print("\n".join(table(head, rows)))


if __name__ == "__main__":
    main()
