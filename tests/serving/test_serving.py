"""`peftbench serve`: what clients ask, and what they get for it."""

from __future__ import annotations

import asyncio
import base64
import importlib.util
import io
import re
import shutil
import socket
import sys
import threading
import time
from urllib.parse import urlsplit

import numpy as np
import pytest
import torch
from PIL import Image

import peftbench
from support.places import ROOT
from support.runs import told_by
from support.serving import TOKEN, Serving, picture

httpx = pytest.importorskip("httpx", reason="pip install httpx")
for library in ("fastapi", "uvicorn", "python_multipart", "prometheus_client"):
    pytest.importorskip(library, reason="pip install 'peftbench[serve]'")
SCRIPT = ROOT / "scripts" / "serve_load.py"


@pytest.fixture
def client(serving: Serving):
    with httpx.Client(base_url=serving.url, headers={"Authorization": f"Bearer {TOKEN}"}, timeout=30) as made:
        yield made


@pytest.fixture(scope="module")
def tool():
    spec = importlib.util.spec_from_file_location("serve_load", SCRIPT)
    module = importlib.util.module_from_spec(spec)
    sys.modules["serve_load"] = module  # dataclasses look it up there
    spec.loader.exec_module(module)
    return module


def png(image: Image.Image | None = None, form: str = "PNG", **options) -> bytes:
    file = io.BytesIO()
    (image or Image.new("RGB", (8, 8), (90, 10, 200))).save(file, form, **options)
    return file.getvalue()


def sent(*contents: bytes):
    return [("images", (f"{i}.png", content)) for i, content in enumerate(contents)]


def test_a_task_answers_as_its_own_model_by_form_and_by_json(client, serving):
    files = sorted((serving.pictures / "test").rglob("*.png"))[::5]
    contents = [file.read_bytes() for file in files]
    for name, folder in serving.folders.items():
        tuned = peftbench.load(folder, merge=False)
        with torch.no_grad():
            expected = tuned(torch.stack([tuned.transform(file) for file in files])).softmax(1)
        by_form = client.post(f"/v1/{name}", files=sent(*contents)).json()
        in_text = [base64.b64encode(content).decode() for content in contents]
        by_json = client.post(f"/v1/{name}", json={"images": in_text}).json()
        assert by_form["task"] == name
        assert [one.pop("file") for one in by_form["images"]] == [f"{i}.png" for i in range(len(files))]
        for answers in (by_form["images"], by_json["images"]):
            rows = [[one["probabilities"][name] for name in tuned.classes] for one in answers]
            np.testing.assert_allclose(rows, expected.numpy(), atol=1e-4)
            assert [one["class"] for one in answers] == [tuned.classes[i] for i in expected.argmax(1)]


def test_one_request_asks_several_tasks_and_the_backbone_runs_once(client, serving):
    calls = []
    block = serving.service.tasks.backbone.net.blocks[0]
    handle = block.register_forward_hook(lambda *_: calls.append("shared"))
    try:
        client.post("/v1/predict?tasks=losa,linear", files=sent(png()))
        assert calls == ["shared"]
    finally:
        handle.remove()
    reply = client.post("/v1/predict?tasks=losa,linear", files=sent(png(), png()))
    assert [list(one["tasks"]) for one in reply.json()["images"]] == [["losa", "linear"]] * 2
    alone = client.post("/v1/linear", files=sent(png())).json()["images"][0]
    together = reply.json()["images"][1]["tasks"]["linear"]["probabilities"]
    assert alone["probabilities"] == pytest.approx(together, abs=1e-4)
    everything = client.post("/v1/predict", files=sent(png())).json()
    assert set(everything["images"][0]["tasks"]) == set(serving.folders)


def test_what_is_served_is_told(client, serving):
    told = {task["name"]: task for task in client.get("/v1/tasks").json()["tasks"]}
    assert set(told) == set(serving.folders)
    assert told["losa"]["run"] == serving.folders["losa"].name
    assert told["losa"]["classes"] == ["one", "three", "two", "zero"]
    assert not told["losa"]["changed"]
    assert client.get("/healthz").json() == {"status": "ok"}
    paths = client.get("/openapi.json").json()["paths"]
    assert {"/v1/{task}", "/v1/predict", "/v1/tasks", "/metrics", "/healthz"} <= set(paths)
    assert "multipart/form-data" in paths["/v1/{task}"]["post"]["requestBody"]["content"]
    client.post("/v1/losa", files=sent(png()))
    measures = client.get("/metrics").text
    assert 'peftbench_requests_total{path="/v1/{task}",status="200"}' in measures
    assert 'peftbench_images_total{task="losa"}' in measures
    assert "peftbench_queue_images 0.0" in measures


FRAMES = [Image.new("L", (8, 8), shade) for shade in (0, 90)]
BAD = {
    "nothing": (b"", 422, "holds no bytes"),
    "text": (b"to be or not to be" * 50, 415, "is no image"),
    "truncated": (png(Image.effect_noise((64, 64), 90))[:900], 422, "cannot be read as an image"),
    "many pixels": (png(Image.new("L", (1001, 1000))), 413, r"1,001 x 1,000 = 1,001,000 pixels"),
    "bomb": (png(Image.new("1", (20_000, 20_000))), 413, "has more than the 1,000,000 pixels"),
    "animation": (png(FRAMES[0], "GIF", save_all=True, append_images=FRAMES[1:]), 415, r"is an animation.*\(GIF\)"),
    "pages": (png(FRAMES[0], "TIFF", save_all=True, append_images=FRAMES[1:]), 415, r"several pages \(TIFF\)"),
    "pickle": (b"\x80\x04K\x01." * 9, 415, "is no image"),
}


@pytest.mark.parametrize("kind", BAD)
def test_what_is_no_image_is_refused_in_one_sentence(client, kind):
    content, status, sentence = BAD[kind]
    reply = client.post("/v1/losa", files=sent(png(), content))
    assert reply.status_code == status, reply.text
    assert reply.json()["detail"].startswith("image 2 (1.png): ")
    assert re.search(sentence, reply.json()["detail"])
    assert client.post("/v1/losa", files=sent(png())).status_code == 200


def test_bodies_that_hold_no_images_are_refused(client):
    kind = {"Content-Type": "application/json"}
    for content, sentence in (
        (b'{"images": ', "is no JSON"),
        (b"[" * 100_000, "is no JSON"),
        (b"{}", 'holds no "images"'),
        (b'{"images": [3]}', 'holds no "images"'),
        (b'{"images": []}', "no image was sent"),
        (b'{"images": ["%%"]}', "image 1: is no base64"),
    ):
        reply = client.post("/v1/losa", content=content, headers=kind)
        assert (reply.status_code, sentence in reply.json()["detail"]) == (422, True), reply.text
    assert client.post("/v1/losa", data={"words": "only"}, files={}).status_code == 415
    form = {"Content-Type": "multipart/form-data; boundary=x"}
    assert client.post("/v1/losa", content=b"--x\r\nbroken", headers=form).status_code == 422
    assert client.post("/v1/losa", content=b"x", headers={"Content-Type": "multipart/form-data"}).status_code == 422
    assert client.post("/v1/losa", content=png(), headers={"Content-Type": "image/png"}).status_code == 415
    assert client.post("/v1/losa", files=sent(*[png()] * 9)).status_code == 413
    assert client.get("/v1/losa").status_code == 405


def test_a_wrong_task_is_named(client):
    for path in ("/v1/loza", "/v1/predict?tasks=linear,loza", "/v1/tasks/loza/reload"):
        reply = client.post(path, files=sent(png()))
        assert reply.status_code == 404
        assert "did you mean 'losa'?" in reply.json()["detail"]
    for method, path in (("GET", "/v1/loza"), ("DELETE", "/v1/loza"), ("GET", "/v1/tasks/loza/reload")):
        reply = client.request(method, path)
        assert reply.status_code == 404, path
        assert "did you mean 'losa'?" in reply.json()["detail"]
    for method, path, right in (
        ("GET", "/v1/predict", "POST"),
        ("PUT", "/v1/losa", "POST"),
        ("PUT", "/healthz", "GET"),
    ):
        reply = client.request(method, path)
        assert (reply.status_code, reply.headers["allow"]) == (405, right), path


def test_only_who_has_the_token_is_answered(serving):
    for headers in ({}, {"Authorization": "Bearer wrong"}, {"Authorization": TOKEN}):
        for path in ("/v1/tasks", "/metrics"):
            reply = httpx.get(serving.url + path, headers=headers)
            assert reply.status_code == 401
            assert reply.headers["www-authenticate"] == "Bearer"
        assert httpx.post(f"{serving.url}/v1/tasks/losa/reload", headers=headers).status_code == 401
    for elsewhere in ({"Origin": "http://elsewhere.example"}, {"Host": "elsewhere.example:8000"}):
        assert httpx.get(serving.url + "/v1/tasks", headers=elsewhere).status_code == 401
        shown = {**elsewhere, "Authorization": f"Bearer {TOKEN}"}
        assert httpx.get(serving.url + "/v1/tasks", headers=shown).status_code == 200
    assert httpx.get(serving.url + "/healthz").status_code == 200
    page = httpx.get(serving.url)
    assert page.status_code == 200
    assert "https://" not in page.text
    assert "default-src 'self'" in page.headers["content-security-policy"]


def test_without_a_token_pages_of_other_servers_cannot_ask(serving, monkeypatch):
    from peftbench.serving.application import application
    from peftbench.serving.gate import Gate

    service = serving.service
    app = Gate(application(service), service.limits, "", frozenset({"127.0.0.1", "localhost"}), service.measures)

    async def statuses():
        async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://localhost:8000") as asks:
            return [
                (await asks.get("/v1/tasks", headers=headers)).status_code
                for headers in (
                    {},
                    {"Origin": "http://localhost:8000"},
                    {"Origin": "http://elsewhere.example"},
                    {"Host": "elsewhere.example:8000"},
                )
            ] + [(await asks.post("/v1/tasks/losa/reload")).status_code]

    monkeypatch.setattr(service, "token", "")
    assert asyncio.run(statuses()) == [200, 200, 403, 403, 403], "and nobody reloads but by a signal"


def test_a_hundred_megabytes_are_refused_before_they_are_read(serving, client):
    address = urlsplit(serving.url)
    with socket.create_connection((address.hostname, address.port), timeout=10) as asks:
        head = f"POST /v1/losa HTTP/1.1\r\nHost: 127.0.0.1\r\nAuthorization: Bearer {TOKEN}\r\n"
        asks.sendall(f"{head}Content-Type: application/json\r\nContent-Length: 100000000\r\n\r\n".encode())
        assert b" 413 " in asks.recv(4096)  # not one byte of the body has been sent
    pieces = []

    def endless():  # no length is told; what comes is counted
        for _ in range(100):
            pieces.append(1)
            yield bytes(1_000_000)

    try:
        reply = client.post("/v1/losa", content=endless(), headers={"Content-Type": "application/json"})
        assert reply.status_code == 413
        assert "larger than 1,000,000 bytes" in reply.json()["detail"]
    except httpx.HTTPError:  # it was told while it sent
        pass
    assert len(pieces) < 30
    assert client.post("/v1/losa", files=sent(bytes(2_000_000))).status_code == 413


def test_slow_clients_are_told_and_their_connections_closed(serving):
    address = urlsplit(serving.url)
    where = (address.hostname, address.port)
    begun = time.monotonic()
    with socket.create_connection(where, timeout=10) as body, socket.create_connection(where, timeout=10) as head:
        words = f"POST /v1/losa HTTP/1.1\r\nHost: 127.0.0.1\r\nAuthorization: Bearer {TOKEN}\r\n"
        body.sendall(f"{words}Content-Type: application/json\r\nContent-Length: 100\r\n\r\n{{".encode())
        head.sendall(b"POST /v1/losa HT")
        assert head.recv(4096) == b""
        assert b" 408 " in body.recv(4096)
    assert 1.5 < time.monotonic() - begun < 8


def test_a_full_queue_is_told(client, serving, monkeypatch):
    service = serving.service
    monkeypatch.setattr(service.batching, "admitted", 60)
    reply = client.post("/v1/losa", files=sent(*[png()] * 5))
    assert (reply.status_code, reply.headers["retry-after"]) == (429, "1")
    assert "60 of at most 64 images wait" in reply.json()["detail"]
    assert client.post("/v1/losa", files=sent(png())).status_code == 200


def test_requests_that_come_together_go_through_the_backbone_together(client, serving):
    batching, sizes = serving.service.batching, []
    observed = batching.observed
    batching.observed = sizes.append
    try:
        with batching._computing:  # as while a batch is being computed
            threads = [
                threading.Thread(target=client.post, args=(f"/v1/{task}",), kwargs={"files": sent(png())})
                for task in ("losa", "linear", "lora", "losa", "linear")
            ]
            for thread in threads:
                thread.start()
            deadline = time.monotonic() + 10
            while sum(sizes) + len(batching._waiting) < 5 and time.monotonic() < deadline:
                time.sleep(0.01)
        for thread in threads:
            thread.join()
    finally:
        batching.observed = observed
    assert sum(sizes) == 5
    assert len(sizes) <= 2


def test_a_delta_that_changes_on_disk_is_told_and_taken_only_when_whole(client, serving):
    folder = serving.folders["losa"]
    file, image = folder / "delta.safetensors", picture(serving)
    before, whole = client.post("/v1/losa", files=sent(image)).json(), file.read_bytes()
    try:
        file.write_bytes(whole[:-100])
        serving.service.watching.look()
        assert any(f"losa: {file} is another file by now" in line for line in serving.said)
        told = {task["name"]: task["changed"] for task in client.get("/v1/tasks").json()["tasks"]}
        assert told == {"losa": True, "linear": False, "lora": False}
        assert 'peftbench_delta_changed{task="losa"} 1.0' in client.get("/metrics").text
        reply = client.post("/v1/tasks/losa/reload")
        assert reply.status_code == 503
        assert "is not a whole safetensors file" in reply.json()["detail"]
        assert client.post("/v1/losa", files=sent(image)).json() == before
    finally:
        file.write_bytes(whole)
    assert client.post("/v1/tasks/losa/reload").json()["changed"] is False
    assert client.post("/v1/losa", files=sent(image)).json() == before


def test_no_answer_is_lost_or_mixed_up_while_a_task_becomes_another(serving, trained, tool):
    """Five hundred requests of four clients; half way the folder of a task holds another run, and is reloaded."""
    folders, data = trained
    url, folder = serving.url, serving.folders["losa"]
    client = tool.Client(url, TOKEN, "losa,linear")
    images = [file.read_bytes() for file in sorted((data / "test").rglob("*.png"))]
    old = tool.known_answers(client, images)
    other = peftbench.load(folders["other"], merge=False)
    with torch.no_grad():
        pixels = torch.stack([other.transform(Image.open(io.BytesIO(image))) for image, _ in old])
        new = [dict(zip(other.classes, row, strict=True)) for row in other(pixels).softmax(1).tolist()]
    seen = {"old": 0, "new": 0}

    def right(index, answer):
        rest = tool.apart(answer["linear"], old[index][1]["linear"]) < 1e-3
        probabilities = answer["losa"]["probabilities"]
        if tool.apart(probabilities, old[index][1]["losa"]["probabilities"]) < 1e-3:
            seen["old"] += 1
        elif tool.apart(probabilities, new[index]) < 1e-3:
            seen["new"] += 1
        else:
            return False
        return rest

    def change():
        while seen["old"] < 150:
            time.sleep(0.01)
        for file in folders["other"].iterdir():
            if file.is_file():
                shutil.copy(file, folder / file.name)
        assert client.reload("losa") == 200

    assert len(old) > 10, "answers tell images apart"
    try:
        changing = threading.Thread(target=change)
        changing.start()
        done = tool.load(url, old, 500, clients=4, token=TOKEN, tasks="losa,linear", right=right)
        changing.join()
    finally:
        for file in folders["losa"].iterdir():
            if file.is_file():
                shutil.copy(file, folder / file.name)
        client.reload("losa")
    assert done.told() | {"statuses": {200: 500}} == done.told(), done.told()
    assert (done.mixed, seen["old"] + seen["new"]) == (0, 500)
    assert seen["new"], seen


def test_the_script_refuses_other_machines(tool):
    with pytest.raises(SystemExit, match="is no server on this machine"):
        tool.Client("http://elsewhere.example:8000")


def test_what_cannot_be_served_is_told_before_a_model_is_built(trained, capsys, monkeypatch, tmp_path):
    folders, _ = trained
    losa, lora = folders["losa"], folders["lora"]
    monkeypatch.delenv("PEFTBENCH_TOKEN", raising=False)
    for words, sentence in (
        ([], "serve: needs runs="),
        (["runs=[]"], "names no run"),
        ([f"runs=[{losa},{losa}]"], "stands for two runs"),
        ([f"runs=[a={tmp_path}]"], "holds no result.json"),
        ([f"runs=[a/b={losa}]"], "'a/b' is no name of a task"),
        ([f"runs=[a={losa}]", "host=0.0.0.0"], "is reached from other machines, and no token is set"),
        ([f"runs=[a={losa}]", "token=two words"], "token: holds a space"),
        ([f"runs=[a={losa}]", "port=70000"], "expected 0 to 65535"),
        ([f"runs=[a={losa}]", "queue=4"], "give queue=32 or more"),
        ([f"runs=[a={losa}]", "timeout=0"], "expected a number above 0"),
        ([f"runs=[predict={lora}]"], "'predict' is a path of the server"),
    ):
        status, _, told = told_by(capsys, "serve", *words)
        assert (status, sentence in told) == (2, True), told
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        status, _, told = told_by(capsys, "serve", f"runs=[a={losa}]", f"port={taken.getsockname()[1]}")
        assert (status, "cannot be taken" in told) == (2, True), told
    monkeypatch.setitem(sys.modules, "fastapi", None)
    status, _, told = told_by(capsys, "serve", f"runs=[a={losa}]")
    assert (status, told) == (2, "peftbench: serve: needs fastapi; pip install 'peftbench[serve]'.\n")
