"""The app: a photograph in, and where the network looked for each class.

    session.py   what is done with a photograph: classes, maps, verification, files; no page
    page.py      the page, in Gradio
    server.py    the page on a port of this machine: limits, and who may ask

Gradio is imported when the page is built.
"""

from gradcam.app.server import serve
from gradcam.app.session import Session

__all__ = ["Session", "serve"]
