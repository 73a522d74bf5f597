"""The app on a port, with a model of NumPy whose classes have names that are no markup."""

from __future__ import annotations

import dataclasses
import gc
import threading
import time
import warnings

import pytest
from runs import models


@pytest.fixture(scope="session")
def address(tmp_path_factory):
    """Where the app listens."""
    pytest.importorskip("gradio", reason='needs Gradio: pip install "gradcam[app]"')
    uvicorn = pytest.importorskip("uvicorn")
    from gradcam.app.server import application, free_port
    from gradcam.app.session import Session

    labels = ("dark", "red", "<b>green</b><img src=x onerror=alert(1)>")
    session = Session(dataclasses.replace(models.model(), labels=labels))
    folder = tmp_path_factory.mktemp("examples")
    port = free_port(0)
    config = uvicorn.Config(
        application(session, examples=folder), host="127.0.0.1", port=port, log_level="warning"
    )
    server = uvicorn.Server(config)
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    while not server.started:
        assert thread.is_alive()
        time.sleep(0.05)
    yield f"http://127.0.0.1:{port}"
    server.should_exit = True
    thread.join(30)
    session.close()


@pytest.fixture(scope="module", autouse=True)
def _swept():
    """What Gradio and its server leave open is closed here, and not in somebody else's test."""
    yield
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        gc.collect()
