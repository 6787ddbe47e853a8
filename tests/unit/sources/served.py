"""A server on this machine, what it serves, and the resources that point at it."""

import hashlib
import io
import tarfile
import time
import zipfile
from http.server import BaseHTTPRequestHandler

from toolkit.sources import PackageMember, Resource, Url

CONTENT = bytes(range(256)) * 4096  # 1 MiB


def digest(content):
    return hashlib.sha256(content).hexdigest()


class Page:
    """One file of the server: how it answers, and what was asked of it."""

    def __init__(self, content, *, ranges=True, etag='"v1"', breaks=0, status=(), delay=0.0, kind=None):
        self.content, self.ranges, self.etag, self.kind = content, ranges, etag, kind
        self.breaks = breaks  # how many answers stop halfway through what is left
        self.status = list(status)  # answered first, one a request
        self.delay = delay
        self.asked = []


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_GET(self):
        page = self.server.pages.get(self.path)
        if page is None:
            self.send_error(404, "Not here")
            return
        page.asked.append(dict(self.headers))
        time.sleep(page.delay)
        if page.status:
            self.send_response(page.status.pop(0))
            self.send_header("Content-Length", "0")
            self.end_headers()
            return
        start, wanted = 0, self.headers.get("Range")
        if wanted and page.ranges and self.headers.get("If-Range", page.etag) == page.etag:
            start = int(wanted.removeprefix("bytes=").rstrip("-"))
        if start and start >= len(page.content):
            self.send_response(416)
            self.send_header("Content-Range", f"bytes */{len(page.content)}")
            self.send_header("Content-Length", "0")
            self.end_headers()
            return
        self.send_response(206 if start else 200)
        if start:
            self.send_header("Content-Range", f"bytes {start}-{len(page.content) - 1}/{len(page.content)}")
        body = page.content[start:]
        self.send_header("Content-Length", str(len(body)))
        if page.etag:
            self.send_header("ETag", page.etag)
        if page.kind:
            self.send_header("Content-Type", page.kind)
        self.end_headers()
        if page.breaks:
            page.breaks -= 1
            self.wfile.write(body[: len(body) // 2])
            self.wfile.flush()
            self.close_connection = True
            return
        self.wfile.write(body)

    def log_message(self, *args):
        pass


def put(server, page, path="/file"):
    server.pages[path] = page
    return Url(url=server.home + path)


def resource(*sources, content=CONTENT, name="set/file"):
    return Resource(name=name, sha256=digest(content), sources=sources)


def part_of(wanted, content):
    part = wanted.path.with_name(wanted.path.name + ".part")
    part.parent.mkdir(parents=True, exist_ok=True)
    part.write_bytes(content)
    return part


def sdist(members):
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz") as tape:
        for name, content in members.items():
            entry = tarfile.TarInfo(name)
            if content is None:
                entry.type, entry.linkname = tarfile.SYMTYPE, "/etc/passwd"
            else:
                entry.size = len(content)
            tape.addfile(entry, io.BytesIO(content or b""))
    return buffer.getvalue()


def wheel(members):
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as bundle:
        for name, content in members.items():
            bundle.writestr(name, content)
    return buffer.getvalue()


def publish(server, archive, *, file="some_pack-1.0.tar.gz", sum_of=None, index="/simple"):
    """Serve a simple index with one package, and return the page of the archive."""
    page = server.pages[f"/files{index}/{file}"] = Page(archive)
    link = f'<a href="/files{index}/{file}#sha256={digest(sum_of or archive)}">{file}</a>'
    old = '<a href="/files/old">some_pack-0.9.tar.gz</a>'
    html = f"<!DOCTYPE html><html><body>{old}{link}</body></html>".encode()
    server.pages[f"{index}/some-pack/"] = Page(html, kind="text/html", etag=None)
    return page


def member(archive, *, kind="sdist", name="some_pack-1.0/data/a"):
    return PackageMember(package="some-pack", version="1.0", archive=kind, member=name, sha256=digest(archive))
