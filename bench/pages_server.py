"""The pages in a process of their own, for `bench/pages.py`: as served, and with what they cost.

    .venv/bin/python bench/pages_server.py INDEX_URL STORE_URL

Prints the port. `/bench` has the processor time of the process so far, in s, as JSON.
"""

import asyncio
import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
import uvicorn
from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.routing import Route

from opam_ci.app.collector import tune_gc
from opam_ci.clients.logs.store import ArtifactStore
from opam_ci.clients.platform_files import load_platforms
from opam_ci.web.pages import application
from opam_ci.web.site import Site
from opam_ci.web.sources import PageSources


async def serve(index_url: str, store_url: str) -> None:
    store = ArtifactStore.open(store_url)

    async def measured(_request: Request) -> JSONResponse:
        return JSONResponse({"cpu_s": time.process_time()})

    sources = PageSources(index_url=index_url, store=store, platforms=load_platforms(None))
    app = application(Site(sources), [Route("/bench", measured)])
    listener = socket.create_server(("127.0.0.1", 0))
    print(listener.getsockname()[1], flush=True)
    config = uvicorn.Config(app, log_level="error", lifespan="off")
    await uvicorn.Server(config).serve([listener])


@contextmanager
def serving(index_url: str, store_url: str) -> Iterator[str]:
    """Runs the process for the time of a block; yields its address."""
    command = [sys.executable, __file__, index_url, store_url]
    home = str(Path(__file__).parents[1])
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, text=True, env=os.environ | {"PYTHONPATH": home}
    ) as process:
        assert process.stdout is not None
        try:
            port = process.stdout.readline().strip()
            if not port:
                raise SystemExit("the pages do not start")
            address = f"http://127.0.0.1:{port}"
            httpx.get(f"{address}/healthz").raise_for_status()
            yield address
        finally:
            process.terminate()
            try:
                process.wait(10)
            except subprocess.TimeoutExpired:
                process.kill()


if __name__ == "__main__":
    tune_gc()
    asyncio.run(serve(sys.argv[1], sys.argv[2]))
