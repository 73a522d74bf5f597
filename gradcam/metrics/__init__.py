"""Is the explanation any good? Measures on NumPy arrays and a plain `predict(inputs) -> outputs`; controls."""
