"""The app on a port: on this machine alone unless told, with limits to what is sent to it."""

from __future__ import annotations

import json
import socket
import tempfile
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path
from typing import Any

from gradcam.app.session import Session
from gradcam.classifier import Classifier
from gradcam.pictures.images import MOST_PIXELS

__all__ = ["LOCAL", "application", "free_port", "serve"]

LARGEST = 16 * 1024**2
"""Bytes of an upload; a larger one is answered with 413."""

MOST_JSON = 1024**2
"""Bytes of a call that is no upload."""

UPLOAD = "/gradio_api/upload"
"""Where files are sent, whose size Gradio limits itself."""

LOCAL = ("127.0.0.1", "localhost")

EXAMPLES = ("chelsea", "coffee", "camera", "rocket")
"""Photographs of scikit-image, where that is installed."""


def application(
    session: Session, hosts: Sequence[str] = LOCAL, examples: Path | None = None
) -> Any:
    """The app as an ASGI application.

    hosts: the names by which it may be asked for. examples: a folder for the examples.
    """
    from fastapi import FastAPI
    from gradio import mount_gradio_app, themes
    from PIL import Image
    from starlette.middleware.trustedhost import TrustedHostMiddleware

    from gradcam.app.page import CSS, build

    Image.MAX_IMAGE_PIXELS = MOST_PIXELS  # Gradio opens what is uploaded too
    fonts = ["system-ui", "sans-serif"]
    found = FastAPI(docs_url=None, redoc_url=None, openapi_url=None)
    mount_gradio_app(
        found,
        build(session, _examples(examples)),
        "/",
        theme=themes.Default(font=fonts, font_mono=["ui-monospace", "monospace"]),
        css=CSS,
        max_file_size=LARGEST,
        allowed_paths=[],
        footer_links=[],
        show_error=True,
        ssr_mode=False,
        enable_monitoring=False,
    )
    found.add_middleware(_Bounded)
    found.add_middleware(TrustedHostMiddleware, allowed_hosts=list(hosts))
    return found


def serve(
    classifier: Classifier,
    host: str = "127.0.0.1",
    port: int = 7860,
    started: Callable[[str], Any] = print,
) -> None:
    """Serve the app until it is stopped.

    started: called with the address when it is there. A host other than this machine's lets
    everybody in who can reach it.
    """
    import uvicorn

    session = Session(classifier)
    hosts = LOCAL if host in LOCAL else ("*",)
    with tempfile.TemporaryDirectory(prefix="gradcam-examples-") as folder:
        config = uvicorn.Config(
            application(session, hosts, Path(folder)), host=host, port=port, log_level="warning"
        )
        server = uvicorn.Server(config)
        started(f"http://{'127.0.0.1' if host == '0.0.0.0' else host}:{port}")
        try:
            server.run()
        finally:
            session.close()


def free_port(wanted: int = 7860) -> int:
    """`wanted`, or another port of this machine where that is taken."""
    for port in (wanted, 0):
        with socket.socket() as found:
            try:
                found.bind(("127.0.0.1", port))
            except OSError:
                continue
            return int(found.getsockname()[1])
    raise OSError("no port of this machine is free")


def _examples(folder: Path | None) -> list[Path]:
    """The example photographs, written to the folder."""
    if folder is None:
        return []
    try:
        from PIL import Image

        from gradcam.zoo.demo import photograph
    except ImportError:
        return []
    paths = []
    for name in EXAMPLES:
        try:
            picture = Image.fromarray(photograph(name))
        except ImportError:  # scikit-image is not there
            return []
        path = folder / f"{name}.jpg"
        picture.save(path, quality=92)
        paths.append(path)
    return paths


class _Bounded:
    """Refuses calls that are too large, and photographs that the server would have to fetch."""

    def __init__(self, app: Any) -> None:
        self._app = app

    async def __call__(
        self,
        scope: Any,
        receive: Callable[[], Awaitable[Any]],
        send: Callable[[Any], Awaitable[None]],
    ) -> None:
        if scope["type"] != "http" or scope["method"] != "POST" or scope["path"] == UPLOAD:
            await self._app(scope, receive, send)
            return
        body = b""
        more = True
        while more:
            message = await receive()
            if message["type"] == "http.disconnect":
                return
            body += message.get("body", b"")
            more = message.get("more_body", False)
            if len(body) > MOST_JSON:
                await _answer(send, 413, "too large")
                return
        if _fetches(body):
            await _answer(send, 400, "a photograph must be uploaded: addresses are not fetched")
            return
        given = False

        async def again() -> Any:
            nonlocal given
            if given:
                return await receive()
            given = True
            return {"type": "http.request", "body": body, "more_body": False}

        await self._app(scope, again, send)


def _fetches(body: bytes) -> bool:
    """Whether a call names a file by an address."""
    try:
        parts = [json.loads(body)] if body else []
    except (ValueError, RecursionError):
        return False  # no call of Gradio's
    while parts:
        part = parts.pop()
        if isinstance(part, dict):
            path = part.get("path")
            if isinstance(path, str) and "://" in path:
                return True
            parts += part.values()
        elif isinstance(part, list):
            parts += part
    return False


async def _answer(send: Callable[[Any], Awaitable[None]], status: int, text: str) -> None:
    head = [(b"content-type", b"text/plain; charset=utf-8")]
    await send({"type": "http.response.start", "status": status, "headers": head})
    await send({"type": "http.response.body", "body": text.encode()})
