"""The page of the app, in Gradio: what is on it, and what happens where something is chosen."""

from __future__ import annotations

import html
import os
from collections.abc import Callable, Sequence
from functools import wraps
from pathlib import Path
from typing import Any

from gradcam._faults import FAULTS
from gradcam.app.session import METHODS, Asked, Seen, Session
from gradcam.model import Layer

__all__ = ["CSS", "build"]

os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"  # before the import, which reads it

FIRST = ("grad-cam", "hires-cam", "layer-cam", "eigen-cam", "grad-cam++", "ablation-cam")
"""Methods that the page offers; the others are too slow to be waited for, or say less."""

CSS = """
.gradio-container { max-width: 1240px !important; margin: 0 auto !important; }
#head h1 { font-size: 1.5rem; margin: 0; } #head p { margin: .2rem 0 0; opacity: .8; }
#maps { min-height: 18rem; } #maps .gradcam figcaption { font-size: .85rem; }
#verdict pre { white-space: pre-wrap; }
footer { display: none !important; }
"""

NOTHING = "<p>Drop a photograph, or take an example: the maps appear here.</p>"
AUTOMATIC = "automatic"


def build(session: Session, examples: Sequence[Path] = ()) -> Any:
    """The page for a model, as Gradio's `Blocks`."""
    import gradio as gr

    def guarded(call: Callable[..., Any]) -> Callable[..., Any]:
        """What the model or a photograph may raise, as a sentence on the page."""

        @wraps(call)
        def run(*args: Any) -> Any:
            try:
                return call(*args)
            except FAULTS as error:
                raise gr.Error(html.escape(str(error)), print_exception=False) from error

        return run

    def asked(seen: Seen | None, target: Any, beside: Any, methods: Any, layer: Any) -> Asked:
        if seen is None:
            raise ValueError("drop a photograph first")
        return Asked(
            target=seen.top[0].index if target is None else int(target),
            beside=None if beside in (None, "") else int(beside),
            methods=tuple(methods or ()),
            layer=None if layer in (None, AUTOMATIC) else str(layer),
        )

    @guarded
    def opened(path: str | None) -> Any:
        if path is None:
            return None, gr.Radio(choices=[], value=None), gr.Dropdown(value=None)
        seen = session.see(path)
        choices = [(str(one), one.index) for one in seen.top]
        known = [(_listed(one), one.path) for one in session.layers(seen)]
        return (
            seen,
            gr.Radio(choices=choices, value=seen.top[0].index),
            gr.Dropdown(choices=[AUTOMATIC, *known], value=AUTOMATIC),
        )

    @guarded
    def shown(seen: Seen | None, *choice: Any) -> str:
        if seen is None:
            return NOTHING
        found = session.show(seen, asked(seen, *choice))
        return str(found._repr_html_())

    @guarded
    def verified(seen: Seen | None, *choice: Any) -> Any:
        found = session.verify(*_both(seen, asked(seen, *choice)))
        return found, str(found._repr_html_())

    @guarded
    def bundled(seen: Seen | None, *choice: Any) -> Any:
        return gr.File(value=str(session.bundle(*_both(seen, asked(seen, *choice)))), visible=True)

    @guarded
    def reported(checked: Any, seen: Seen | None, *choice: Any) -> Any:
        path = session.report(*_both(seen, asked(seen, *choice)), checked)
        return gr.File(value=str(path), visible=True)

    def cleared() -> Any:
        """A verdict and files are of what was chosen when they were made, and of nothing else."""
        return None, "", gr.File(visible=False)

    names = [(name, index) for index, name in enumerate(session.classes())]
    private: dict[str, Any] = {"api_visibility": "private"}
    with gr.Blocks(title="gradcam", analytics_enabled=False, delete_cache=(600, 3600)) as page:
        gr.HTML(
            f"<h1>Where did {html.escape(session.name)} look?</h1>"
            "<p>The evidence for a class, over the photograph as the network sees it.</p>",
            elem_id="head",
        )
        state, checked = gr.State(None), gr.State(None)
        with gr.Row():
            with gr.Column(scale=1, min_width=300):
                photograph = gr.Image(
                    type="filepath",
                    sources=["upload"],
                    label="Photograph",
                    height=260,
                    buttons=[],
                    elem_id="photograph",
                )
                if examples:
                    gr.Examples(
                        [[str(path)] for path in examples],
                        photograph,
                        label="Examples",
                        example_labels=[path.stem for path in examples],
                        api_visibility="private",
                    )
                target = gr.Radio(
                    choices=[], label="Highest classes: click one to see where", elem_id="classes"
                )
                beside = gr.Dropdown(
                    choices=[("nothing", ""), *names],
                    value="",
                    label="Compare with another class",
                    filterable=True,
                    visible=bool(names),
                    elem_id="beside",
                )
                methods = gr.CheckboxGroup(
                    choices=[name for name in FIRST if name in METHODS],
                    value=["grad-cam"],
                    label="Methods",
                    elem_id="methods",
                )
                layer = gr.Dropdown(
                    choices=[AUTOMATIC], value=AUTOMATIC, label="Layer", elem_id="layer"
                )
            with gr.Column(scale=3, min_width=320):
                maps = gr.HTML(NOTHING, elem_id="maps")
                with gr.Row():
                    check = gr.Button("Verify the gradients", elem_id="verify")
                    save = gr.Button("Save maps and files", elem_id="save")
                    page_of = gr.Button("Save a report", elem_id="report")
                verdict = gr.HTML("", elem_id="verdict")
                file = gr.File(label="Saved", visible=False, interactive=False, elem_id="file")
        choice = [state, target, beside, methods, layer]
        photograph.change(
            opened, photograph, [state, target, layer], show_progress="minimal", **private
        ).success(shown, choice, maps, show_progress="minimal", **private).success(
            cleared, None, [checked, verdict, file], **private
        )
        for one in (target, beside, methods, layer):
            one.input(shown, choice, maps, show_progress="minimal", **private).then(
                cleared, None, [checked, verdict, file], **private
            )
        check.click(verified, choice, [checked, verdict], **private)
        save.click(bundled, choice, file, **private)
        page_of.click(reported, [checked, *choice], file, **private)
    page.queue(max_size=16, default_concurrency_limit=1)
    return page


def _both(seen: Seen | None, asked: Asked) -> tuple[Seen, Asked]:
    assert seen is not None  # `asked` has seen to it
    return seen, asked


def _listed(layer: Layer) -> str:
    """A layer in the list: its path and shape, and a mark where it cannot be explained."""
    mark = "" if layer.has_space else "✕ no positions: "
    return f"{mark}{layer.path}  ({' x '.join(map(str, layer.shape))})"
