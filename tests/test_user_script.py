"""The script that type checkers read runs, so that what they accept is what is there."""

from __future__ import annotations

import inspect
import re

import pytest

import gradcam


def test_a_users_script_with_every_keyword_runs(tmp_path):
    pytest.importorskip("torch")
    import user_script

    user_script.main(tmp_path)


def test_the_script_leaves_no_keyword_out():
    pytest.importorskip("torch")
    import user_script

    text = inspect.getsource(user_script)
    for name in gradcam.__all__:
        function = getattr(gradcam, name)
        if not inspect.isfunction(function) or name == "bench":  # which takes a model of a module
            continue
        assert re.search(rf"gradcam\.{name}\(", text), name
        for parameter in inspect.signature(function).parameters.values():
            if parameter.kind is inspect.Parameter.KEYWORD_ONLY:
                assert f"{parameter.name}=" in text, f"{name}: {parameter.name}"
