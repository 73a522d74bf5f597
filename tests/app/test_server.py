"""What the app answers to calls that its page would not make."""

from __future__ import annotations

import json
import threading
import uuid

import numpy as np
import pytest
from PIL import Image
from runs import models

httpx = pytest.importorskip("httpx", reason='needs Gradio: pip install "gradcam[app]"')

pytestmark = pytest.mark.filterwarnings("ignore")  # of Gradio and its server's threads


@pytest.fixture(scope="module")
def client(address):
    with httpx.Client(base_url=address, timeout=60) as found:
        yield found


@pytest.fixture(scope="module")
def photograph(tmp_path_factory):
    folder = tmp_path_factory.mktemp("photographs")
    models.photographs(folder, 2)
    return next((folder / "red").glob("*.png"))


def uploaded(client, photograph):
    with photograph.open("rb") as file:
        answer = client.post("/gradio_api/upload", files={"files": (photograph.name, file)})
    assert answer.status_code == 200
    return answer.json()[0]


def numbered(client):
    """The events, in the order of the page: opened, shown, cleared, four choices, three buttons."""
    return [one["id"] for one in client.get("/config").json()["dependencies"]]


def call(client, event, data, session):
    """The answer to an event: whether it succeeded, and what it gave."""
    joined = client.post(
        "/gradio_api/queue/join",
        json={"data": data, "fn_index": event, "session_hash": session, "event_data": None},
    )
    if joined.status_code != 200:
        return False, joined
    with client.stream("GET", "/gradio_api/queue/data", params={"session_hash": session}) as lines:
        for line in lines.iter_lines():
            if not line.startswith("data:"):
                continue
            message = json.loads(line[5:])
            if message["msg"] == "process_completed":
                return message["success"], message["output"]
    raise AssertionError("no answer")


def events(client):
    """By what they do: the indices of the events that have inputs of the page."""
    found = client.get("/config").json()
    kinds = {one["id"]: one["props"].get("elem_id") for one in found["components"]}
    by = {}
    for one in found["dependencies"]:
        for target, _ in one["targets"]:
            by.setdefault(kinds.get(target), []).append(one["id"])
    return by


def opened(client, photograph):
    session = uuid.uuid4().hex
    path = uploaded(client, photograph)
    event = events(client)["photograph"][0]
    data = [{"path": path, "meta": {"_type": "gradio.FileData"}}]
    done, output = call(client, event, data, session)
    assert done, output
    return session


def test_a_photograph_is_explained(client, photograph):
    session = opened(client, photograph)
    event = events(client)["classes"][0]
    done, output = call(client, event, [None, 1, "", ["grad-cam"], "automatic"], session)
    assert done
    assert "oninput" in output["data"][0]
    assert "data:image/webp" in output["data"][0]


def test_class_names_are_text(client, photograph):
    session = opened(client, photograph)
    event = events(client)["classes"][0]
    done, output = call(client, event, [None, 2, "", ["grad-cam"], "automatic"], session)
    assert done
    assert "<img src=x" not in output["data"][0]
    assert "&lt;b&gt;green" in output["data"][0]


def test_a_large_file_is_refused(client):
    answer = client.post("/gradio_api/upload", files={"files": ("a.png", b"0" * (17 * 1024**2))})
    assert answer.status_code == 413


def test_a_large_call_is_refused(client):
    answer = client.post("/gradio_api/queue/join", content=b"[" + b"0," * 10**6 + b"0]")
    assert answer.status_code == 413


@pytest.mark.parametrize("path", ["/etc/hostname", "pyproject.toml", "gradcam/app/page.py"])
def test_no_file_of_the_machine_is_given(client, path):
    answer = client.get(f"/gradio_api/file={path}")
    assert answer.status_code in (403, 404)
    assert len(answer.content) < 1000


def test_no_file_of_the_machine_is_opened(client):
    event = events(client)["photograph"][0]
    data = [{"path": "/etc/hostname", "meta": {"_type": "gradio.FileData"}}]
    done, output = call(client, event, data, uuid.uuid4().hex)
    assert not done, output


@pytest.mark.parametrize("scheme", ["http", "https", "file", "ftp"])
def test_no_address_is_fetched(client, scheme):
    event = events(client)["photograph"][0]
    data = [{"path": f"{scheme}://127.0.0.1/a.png", "meta": {"_type": "gradio.FileData"}}]
    done, answer = call(client, event, data, uuid.uuid4().hex)
    assert not done
    assert answer.status_code == 400
    assert "addresses are not fetched" in answer.text


def test_no_other_path_is_taken_for_an_upload(client):
    event = events(client)["photograph"][0]
    data = [{"path": "http://127.0.0.1/a.png", "meta": {"_type": "gradio.FileData"}}]
    for path in ("/gradio_api/run/upload", "/gradio_api/call/upload", "/gradio_api/upload/"):
        body = {"data": data, "fn_index": event, "session_hash": "upload"}
        assert client.post(path, json=body).status_code == 400, path
        large = client.post(path, content=b"[" + b"0," * 10**6 + b"0]")
        assert large.status_code == 413, path


@pytest.mark.parametrize("host", ["evil.example", "127.0.0.1.evil.example", ""])
def test_another_host_is_refused(client, host):
    assert client.get("/", headers={"host": host}).status_code == 400
    assert client.get("/config", headers={"host": host}).status_code == 400


def test_another_origin_may_not_read(client):
    answer = client.get("/config", headers={"origin": "http://evil.example"})
    assert answer.headers.get("access-control-allow-origin") not in ("*", "http://evil.example")


def test_events_are_no_open_interface(client):
    found = client.get("/gradio_api/info").json()
    assert not found["named_endpoints"]
    assert not found["unnamed_endpoints"]


@pytest.mark.parametrize(
    "choice",
    [
        [None, 5000, "", ["grad-cam"], "automatic"],
        [None, 1, "", ["nope"], "automatic"],
        [None, 1, "", ["grad-cam"], "nope"],
        [None, 1, "nope", ["grad-cam"], "automatic"],
    ],
)
def test_what_the_page_does_not_offer_is_refused(client, photograph, choice):
    session = opened(client, photograph)
    done, _ = call(client, events(client)["classes"][0], choice, session)
    assert not done


def test_a_file_that_is_no_photograph_is_a_sentence(client, tmp_path):
    path = tmp_path / "a.png"
    path.write_bytes(b"no")
    sent = uploaded(client, path)
    data = [{"path": sent, "meta": {"_type": "gradio.FileData"}}]
    done, output = call(client, events(client)["photograph"][0], data, uuid.uuid4().hex)
    assert not done
    assert "Traceback" not in json.dumps(output)


def test_a_picture_of_too_many_pixels_is_refused(client, tmp_path):
    Image.fromarray(np.zeros((9000, 9000), np.uint8)).save(tmp_path / "a.png")
    sent = uploaded(client, tmp_path / "a.png")
    data = [{"path": sent, "meta": {"_type": "gradio.FileData"}}]
    done, _ = call(client, events(client)["photograph"][0], data, uuid.uuid4().hex)
    assert not done


def test_twenty_calls_at_once_are_answered_or_told_to_wait(client, address, photograph):
    event = events(client)["photograph"][0]
    path = uploaded(client, photograph)
    data = [{"path": path, "meta": {"_type": "gradio.FileData"}}]
    answers = []

    def ask():
        with httpx.Client(base_url=address, timeout=120) as own:
            answers.append(call(own, event, data, uuid.uuid4().hex))

    threads = [threading.Thread(target=ask) for _ in range(20)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(answers) == 20
    done = [output for ok, output in answers if ok]
    refused = [output for ok, output in answers if not ok]
    assert len(done) >= 16
    for output in refused:
        assert "queue" in (output.text if hasattr(output, "text") else json.dumps(output)).lower()
    classes = [json.dumps(output["data"][1]) for output in done]
    assert len(set(classes)) == 1
