"""From a model and its inputs to an explanation."""
