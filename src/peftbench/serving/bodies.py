"""The images in the body of a request: files of a form, or base64 in JSON."""

from __future__ import annotations

import base64
import binascii
import json
from typing import Any, NamedTuple

from starlette.concurrency import run_in_threadpool
from starlette.datastructures import UploadFile
from starlette.exceptions import HTTPException
from starlette.requests import Request

from peftbench.common.foreign_text import shortened
from peftbench.serving.limits import Limits, Refused


class Sent(NamedTuple):
    """An image as it came: its number from 1, the name of its file where it has one, and its bytes."""

    number: int
    file: str
    data: bytes

    @property
    def named(self) -> str:
        """What messages call it."""
        return f"image {self.number} ({self.file})" if self.file else f"image {self.number}"


MULTIPART, JSON = "multipart/form-data", "application/json"
_LARGE = 200_000  # bytes of JSON that would keep other requests waiting while they are read
EXAMPLE = '{"images": ["<base64>"]}'
OPENAPI: dict[str, Any] = {
    "requestBody": {
        "required": True,
        "content": {
            MULTIPART: {
                "schema": {
                    "type": "object",
                    "properties": {
                        "images": {"type": "array", "items": {"type": "string", "format": "binary"}},
                    },
                }
            },
            JSON: {
                "schema": {
                    "type": "object",
                    "required": ["images"],
                    "properties": {"images": {"type": "array", "items": {"type": "string", "format": "byte"}}},
                }
            },
        },
    }
}
"""What OpenAPI says of such a body."""


async def read_images(request: Request, limits: Limits) -> list[Sent]:
    """The images that a request sent, one or several.

    Raises:
        Refused: another kind of body (415), none or too many images (422, 413), or what is no JSON (422).
    """
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind == MULTIPART:
        sent = await _of_form(request, limits)
    elif kind == JSON:
        body = await request.body()
        sent = _of_json(body) if len(body) < _LARGE else await run_in_threadpool(_of_json, body)
    else:
        raise Refused(
            415,
            f"Content-Type {shortened(kind, 80) or 'is missing, and'} is not taken; send {MULTIPART} with files, or "
            f"{JSON} with {EXAMPLE}.",
        )
    if not sent:
        raise Refused(422, f"no image was sent; send files as {MULTIPART}, or {EXAMPLE} as {JSON}.")
    if len(sent) > limits.images:
        raise Refused(413, f"{len(sent)} images were sent, and a request may hold {limits.images}; send several.")
    return sent


async def _of_form(request: Request, limits: Limits) -> list[Sent]:
    try:
        async with request.form(max_files=limits.images + 1, max_fields=16) as form:
            files = [value for _, value in form.multi_items() if isinstance(value, UploadFile)]
            return [
                Sent(i, shortened(file.filename or "", 80), await file.read()) for i, file in enumerate(files, start=1)
            ]
    except HTTPException as problem:  # as Starlette says it inside an application
        if "Too many files" in str(problem.detail):
            raise Refused(413, f"a request may hold {limits.images} images; send several requests.") from None
        raise Refused(422, f"the form cannot be read ({str(problem.detail).rstrip('.')}).") from None


def _of_json(body: bytes) -> list[Sent]:
    try:
        content = json.loads(body)
    except (ValueError, RecursionError) as problem:
        raise Refused(422, f"the body is no JSON ({shortened(str(problem), 100)}); send {EXAMPLE}.") from None
    images = content.get("images") if isinstance(content, dict) else None
    if isinstance(images, str):
        images = [images]
    if not isinstance(images, list) or not all(isinstance(image, str) for image in images):
        raise Refused(422, f'the JSON holds no "images", a list of texts in base64; send {EXAMPLE}.')
    return [Sent(i, "", _decoded(i, image)) for i, image in enumerate(images, start=1)]


def _decoded(number: int, text: str) -> bytes:
    if text.startswith("data:"):  # as a browser writes a file
        text = text.partition(",")[2]
    try:
        return base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError):
        raise Refused(422, f"image {number}: is no base64; send the file of the image in it.") from None
