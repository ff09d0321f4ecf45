"""The interface of a server: images in, what the tasks say of them out."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exception_handlers import http_exception_handler
from fastapi.responses import HTMLResponse, JSONResponse, Response
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect

from peftbench import __version__
from peftbench.common.errors import UserError, nearest
from peftbench.common.foreign_text import first_sentence
from peftbench.serving.batching import Told
from peftbench.serving.bodies import OPENAPI, Sent, read_images
from peftbench.serving.limits import Refused
from peftbench.serving.pictures import prepared
from peftbench.serving.service import Service
from peftbench.tasks.predictor import Seen

PAGE = Path(__file__).with_name("page.html")
RESERVED = ("predict", "tasks")
"""What no task may be called: paths of the server."""
_POLICY = "default-src 'self' 'unsafe-inline'; img-src 'self' blob: data:"


def application(service: Service) -> FastAPI:
    """The application; `openapi.json` describes it."""
    app = FastAPI(title="peftbench serve", version=__version__, docs_url=None, redoc_url=None)

    @app.exception_handler(Refused)
    async def refused(request: Request, problem: Refused) -> JSONResponse:
        return JSONResponse({"detail": problem.sentence}, problem.status, problem.headers)

    @app.exception_handler(405)
    async def wrong_method(request: Request, problem: HTTPException) -> Response:
        try:
            _refuse_unknown(service, [task for key, task in request.path_params.items() if key == "task"])
        except Refused as unknown:  # no method would do
            return await refused(request, unknown)
        return await http_exception_handler(request, problem)

    @app.get("/", include_in_schema=False)
    async def page() -> HTMLResponse:
        return HTMLResponse(PAGE.read_text(encoding="utf-8"), headers={"Content-Security-Policy": _POLICY})

    @app.get("/healthz", summary="whether it answers")
    async def health() -> JSONResponse:
        stopping = service.stopping
        return JSONResponse({"status": "stopping" if stopping else "ok"}, 503 if stopping else 200)

    @app.get("/metrics", summary="counters, for Prometheus")
    async def metrics() -> Response:
        return Response(service.measures.text(), media_type="text/plain; version=0.0.4; charset=utf-8")

    @app.get("/v1/tasks", summary="what is served")
    async def tasks() -> dict[str, Any]:
        return service.described()

    @app.post("/v1/predict", summary="what several tasks say, from one pass of the backbone", openapi_extra=OPENAPI)
    async def predict(request: Request, tasks: str = "") -> dict[str, Any]:
        names = [name for name in tasks.split(",") if name] or list(service.tasks.tasks)
        sent, found = await _answered(service, request, list(dict.fromkeys(names)))
        return {"images": [{"file": one.file, "tasks": each} for one, each in zip(sent, found, strict=True)]}

    @app.post("/v1/tasks/{task}/reload", summary="takes what its run has learned by now; needs the token")
    async def reload(task: str) -> dict[str, Any]:
        _refuse_unknown(service, [task])
        if not service.token:
            raise Refused(403, "a server without a token reloads on SIGHUP alone; start it with one.")
        try:
            await asyncio.get_running_loop().run_in_executor(None, service.reload, task)
        except UserError as problem:
            raise Refused(503, f"{problem} What was served before is served on.") from None
        return service.described_task(task)

    @app.post("/v1/{task}", summary="what a task says of images", openapi_extra=OPENAPI)
    async def predict_one(request: Request, task: str) -> dict[str, Any]:
        sent, found = await _answered(service, request, [task])
        images = [{"file": one.file, **each[task]} for one, each in zip(sent, found, strict=True)]
        return {"task": task, "images": images}

    return app


async def _answered(
    service: Service, request: Request, names: Sequence[str]
) -> tuple[list[Sent], list[dict[str, Any]]]:
    """What was sent, and what the tasks say of each image. Raises Refused."""
    _refuse_unknown(service, names)
    if service.stopping:
        raise Refused(503, "the server is stopping; ask another one.", retry=True)
    limits = service.limits
    try:
        async with asyncio.timeout(limits.seconds):
            sent = await read_images(request, limits)
    except TimeoutError:
        raise Refused(408, f"the request did not come within {limits.seconds:g} seconds; send it faster.") from None
    except ClientDisconnect:
        raise Refused(400, "the client went away while it sent.") from None
    service.batching.admit(len(sent))
    try:
        async with asyncio.timeout(limits.seconds):
            answers = await asyncio.gather(*(_answer(service, one, names) for one in sent))
    except TimeoutError:
        raise Refused(503, f"no answer within {limits.seconds:g} seconds; ask again later.", retry=True) from None
    finally:
        service.batching.release(len(sent))
    return sent, answers


async def _answer(service: Service, sent: Sent, names: Sequence[str]) -> dict[str, Any]:
    """What each task says of one image. Raises Refused."""
    loop, threads = asyncio.get_running_loop(), service.threads
    transform, most = service.tasks.transform, service.limits.pixels
    pixels, seen = await loop.run_in_executor(threads, prepared, sent.named, sent.data, transform, most)
    future = service.batching.ask(pixels, names)
    try:
        told = await asyncio.wrap_future(future)
    except (RuntimeError, MemoryError) as problem:  # of torch: memory of a GPU, most likely
        raise Refused(500, f"{sent.named}: the model failed on it ({first_sentence(problem)}).") from None
    answer = await _in_words(threads, told, seen)
    for one in names:
        service.measures.images.labels(one).inc()
    return answer


async def _in_words(threads: ThreadPoolExecutor, told: Told, seen: Seen) -> dict[str, Any]:
    return await asyncio.get_running_loop().run_in_executor(threads, _plain, told, seen)


def _plain(told: Told, seen: Seen) -> dict[str, Any]:
    return {name: task.predictor.served(task, answer, seen) for name, (task, answer) in told.items()}


def _refuse_unknown(service: Service, names: Sequence[str]) -> None:
    """Raises Refused (404) where a task is not served."""
    served = service.tasks.tasks
    for name in names:
        if name not in served:
            raise Refused(
                404, f"task {name[:80]!r}: is not served{nearest(name[:80], served)}; there are {', '.join(served)}."
            )


def refuse_names(names: Sequence[str]) -> None:
    """Raises UserError where a name cannot stand in a path."""
    for name in names:
        if name in RESERVED or not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]*", name):
            why = "is a path of the server" if name in RESERVED else "is no word for a path"
            raise UserError(
                f"runs: {name!r} {why}; give the run another name, as in runs=[digits=outputs/RUN], of letters, "
                f"digits, dots, dashes and underscores."
            )
