"""Every state of docs/models.md: the right map, or the sentence that says what to do. The page is
made by this run.
"""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest
import states
import states_jax  # noqa: F401
import states_others  # noqa: F401
import states_torch  # noqa: F401

PAGE = Path(__file__).parent.parent.parent / "docs" / "models.md"
ROWS: dict[tuple[str, str, str], str] = {}


def array(value):
    return np.asarray(value.detach().cpu() if hasattr(value, "detach") else value, dtype=np.float64)


@pytest.mark.parametrize("state", states.STATES, ids=lambda s: f"{s.framework}-{s.name}")
def test_a_model_in_this_state_has_the_right_map_or_says_what_is_wrong(state):
    if state.error is not None:
        with pytest.raises(state.error) as raised:
            state.run()
        assert state.says in str(raised.value)
        outcome = f"{state.error.__name__}: …{state.says}…"
    else:
        found, expected = map(array, state.run())
        assert found.shape == expected.shape
        assert np.abs(expected).max() > 0
        assert np.abs(found - expected).max() <= state.tolerance * np.abs(expected).max()
        outcome = "works"
    ROWS[state.framework, state.group, state.name] = outcome


def page():
    lines = []
    for framework in ("JAX", "Equinox", "Haiku", "Keras", "PyTorch"):
        for group in dict.fromkeys(s.group for s in states.STATES if s.framework == framework):
            lines += [
                "",
                f"### {framework}: {group[0].lower()}{group[1:]}",
                "",
                "| state | what happens |",
                "|---|---|",
            ]
            for s in states.STATES:
                if (s.framework, s.group) == (framework, group):
                    lines.append(f"| {s.name} | {ROWS[s.framework, s.group, s.name]} |")
    return "\n".join(lines).strip() + "\n"


def test_the_page_is_what_this_run_found():
    if len(ROWS) < len(states.STATES):
        pytest.skip("not all states were run")
    head, marker, _ = PAGE.read_text(encoding="utf-8").partition("<!-- made by a test run -->\n")
    made = head + marker + "\n" + page()
    if os.environ.get("GRADCAM_WRITE_DOCS"):
        PAGE.write_text(made, encoding="utf-8")
    assert made == PAGE.read_text(encoding="utf-8"), (
        "run: GRADCAM_WRITE_DOCS=1 pytest tests/backends/test_states.py"
    )
