"""The page at `/` in a real browser: an image is dropped in, and every task's answer is shown."""

from __future__ import annotations

import base64
import json
import os
import subprocess
import time
from pathlib import Path

import pytest

from support.pages import browser
from support.serving import TOKEN, Serving, picture

DROP = """
(() => {
  document.getElementById("token").value = TOKEN;
  const bytes = Uint8Array.from(atob(IMAGE), (letter) => letter.charCodeAt(0));
  const data = new DataTransfer();
  data.items.add(new File([bytes], NAME, { type: "image/png" }));
  document.getElementById("drop").dispatchEvent(new DragEvent("drop", { dataTransfer: data, bubbles: true }));
})()
"""
SEEN = """
JSON.stringify({
  status: document.getElementById("status").textContent,
  tasks: Object.fromEntries([...document.querySelectorAll("article")].map((card) => [
    card.dataset.task, { answer: card.querySelector(".answer").textContent, rows: card.querySelectorAll("tr").length },
  ])),
  asked: performance.getEntriesByType("resource").map((entry) => entry.name),
})
"""


class Page:
    """A page in a headless Chromium, spoken to through its pipe."""

    def __init__(self, profile: Path, url: str) -> None:
        to_browser, self.writes = os.pipe()
        self.reads, from_browser = os.pipe()
        options = [
            "--headless",
            "--no-sandbox",
            "--disable-gpu",
            "--remote-debugging-pipe",
            f"--user-data-dir={profile}",
        ]
        shell = f'exec "$@" 3<&{to_browser} 4>&{from_browser}'
        command = ["bash", "-c", shell, "bash", browser(), *options, "about:blank"]
        quiet = subprocess.DEVNULL
        self.process = subprocess.Popen(command, pass_fds=(to_browser, from_browser), stdout=quiet, stderr=quiet)
        os.close(to_browser)
        os.close(from_browser)
        self.number, self.left, self.session = 0, b"", None
        target = self.call("Target.createTarget", url="about:blank")["targetId"]
        self.session = self.call("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        self.call("Page.enable")
        self.call("Page.navigate", url=url)

    def call(self, method: str, **given: object) -> dict:
        self.number += 1
        message = {"id": self.number, "method": method, "params": given}
        message |= {"sessionId": self.session} if self.session else {}
        os.write(self.writes, json.dumps(message).encode() + b"\0")
        while True:
            while b"\0" not in self.left:
                piece = os.read(self.reads, 1 << 16)
                assert piece, "the browser ended"
                self.left += piece
            answer, _, self.left = self.left.partition(b"\0")
            content = json.loads(answer)
            if content.get("id") == self.number:
                assert "error" not in content, content
                return content["result"]

    def run(self, script: str) -> object:
        found = self.call("Runtime.evaluate", expression=script)
        assert "exceptionDetails" not in found, found
        return found["result"].get("value")

    def wait(self, script: str, seconds: float = 60) -> None:
        end = time.monotonic() + seconds
        while not self.run(script):
            assert time.monotonic() < end, self.run("document.body.innerText")
            time.sleep(0.05)

    def close(self) -> None:
        self.process.kill()
        self.process.wait()
        os.close(self.reads)
        os.close(self.writes)


@pytest.mark.slow
def test_an_image_that_is_dropped_in_is_answered_by_every_task(serving: Serving, tmp_path: Path):
    import httpx

    image = picture(serving)
    headers = {"Authorization": f"Bearer {TOKEN}"}
    expected = httpx.post(f"{serving.url}/v1/predict", files={"images": image}, headers=headers).json()["images"][0]
    page = Page(tmp_path, serving.url)
    try:
        page.wait("document.readyState === 'complete' && !!document.getElementById('drop')")
        words = {"TOKEN": TOKEN, "IMAGE": base64.b64encode(image).decode(), "NAME": "digit.png"}
        drop = "".join(f"const {name} = {json.dumps(value)};" for name, value in words.items()) + DROP
        page.run(f"{{ {drop} }}")
        page.wait("document.getElementById('status').textContent.includes('answered in')")
        page.wait("document.querySelectorAll('article').length === 3")
        seen = json.loads(page.run(SEEN))
        assert {name: task["answer"] for name, task in seen["tasks"].items()} == {
            name: task["class"] for name, task in expected["tasks"].items()
        }
        assert all(task["rows"] == 4 for task in seen["tasks"].values())
        assert seen["asked"] == [f"{serving.url}/v1/predict"], "nothing is fetched from elsewhere"
        page.run(f"{{ {drop.replace(words['IMAGE'], base64.b64encode(b'words').decode())} }}")
        page.wait("document.getElementById('status').className === 'wrong'")
        assert "is no image that can be read" in page.run("document.getElementById('status').textContent")
        page.run(f"{{ {drop.replace(json.dumps(TOKEN), json.dumps('wrong'))} }}")
        page.wait("document.getElementById('status').textContent.includes('token')")
    finally:
        page.close()
