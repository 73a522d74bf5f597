"""The app on a port, in a process of its own, with class names that are no markup."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

SERVER = """
import dataclasses, sys, tempfile
from pathlib import Path
import uvicorn
from gradcam.app.server import application, free_port
from gradcam.app.session import Session
from runs import models

labels = ("dark", "red", "<b>green</b><img src=x onerror=alert(1)>")
session = Session(dataclasses.replace(models.model(), labels=labels))
port = free_port(0)
app = application(session, examples=Path(tempfile.mkdtemp()))
print(port, flush=True)
uvicorn.run(app, host="127.0.0.1", port=port, log_level="warning")
"""


@pytest.fixture(scope="session")
def address():
    """Where the app listens."""
    pytest.importorskip("gradio", reason='needs Gradio: pip install "gradcam[app]"')
    httpx = pytest.importorskip("httpx")
    tests = Path(__file__).parents[1]
    env = {**os.environ, "PYTHONPATH": f"{tests}{os.pathsep}{tests.parent}"}
    command = [sys.executable, "-c", SERVER]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=env) as server:
        try:
            assert server.stdout is not None
            found = f"http://127.0.0.1:{int(server.stdout.readline())}"
            with httpx.Client(transport=httpx.HTTPTransport(retries=20)) as client:
                assert client.get(found, timeout=60).status_code == 200
            yield found
        finally:
            server.terminate()
