"""Models that nobody here wrote, with no layer named: is the layer right, and are its axes?

    make foreign, or .venv-foreign/bin/python -m benchmarks.foreign [--only WORD ...] [--list]
    [--out FILE]

`axes` says how an output lies and makes a map of it, `oracle` and `oracle_jax` take the layer and
its gradient with hooks of their own, `judge` compares: none of them imports gradcam. `asking` asks
gradcam. The rest are lists of models with the truth about their axes, and what runs them.
"""
