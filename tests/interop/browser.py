"""A page opened in Chromium, and what it answers."""

import json
import shutil
import subprocess
import threading
import urllib.parse
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
PACKAGES = ROOT / "build" / "node" / "web" / "node_modules"
LONGEST = 300.0
"""Seconds until a page that does not answer is given up."""


def chromium() -> str | None:
    """The program, where there is one."""
    return shutil.which("chromium") or shutil.which("chromium-browser")


class Site(ThreadingHTTPServer):
    """Serves one folder on this machine alone, and keeps what a page posts."""

    answered: threading.Event
    answer: dict[str, Any]


class Handler(SimpleHTTPRequestHandler):
    """Files, and one answer."""

    extensions_map = SimpleHTTPRequestHandler.extensions_map | {
        ".mjs": "text/javascript",
        ".wasm": "application/wasm",
    }
    server: Site

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        self.server.answer = json.loads(body)
        self.send_response(204)
        self.end_headers()
        self.server.answered.set()

    def log_message(self, *_: Any) -> None:
        """Nothing."""


def ask(page: str, models: Path, scratch: Path, **said: str) -> dict[str, Any]:
    """What tests/node/PAGE answers to these words; `models` is /models/, `scratch` is empty."""
    site = scratch / "site"
    if not site.exists():
        site.mkdir()
        (site / "npm").symlink_to(PACKAGES)
        (site / "models").symlink_to(models)
    shutil.copy(ROOT / "tests" / "node" / page, site)
    server = Site(("127.0.0.1", 0), partial(Handler, directory=str(site)))
    server.answered, server.answer = threading.Event(), {"error": "no answer"}
    threading.Thread(target=server.serve_forever, daemon=True).start()
    url = f"http://127.0.0.1:{server.server_port}/{page}?{urllib.parse.urlencode(said)}"
    # its sandbox does not start for root
    flags = [
        "--headless=new",
        "--no-sandbox",
        "--disable-gpu",
        f"--user-data-dir={scratch / 'user'}",
    ]
    program = subprocess.Popen(
        [str(chromium()), *flags, url],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        server.answered.wait(LONGEST)
    finally:
        program.terminate()
        program.wait()
        server.shutdown()
        server.server_close()
    return server.answer
