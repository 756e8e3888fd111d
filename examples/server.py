"""A server that encodes and decodes, for any WSGI server. With gunicorn, from this folder:

    ICMH_NUM_THREADS=1 gunicorn --preload --workers 4 --timeout 30 server:application
    curl --data-binary @kodim23.png localhost:8000/encode > a.icmh
    curl --data-binary @a.icmh localhost:8000/decode > a.png

Encoder and decoder are made once. `--preload` makes them before the workers are forked, which
share their memory then; a GPU must not be used before that, so leave it out with
ICMH_SERVER_DEVICE=cuda. One thread for each worker, since there is a worker for each core. A
request that takes longer than `--timeout` seconds ends with its worker, and another takes its
place: what cannot be asked to stop can be ended.
"""

from __future__ import annotations

import io
import os
from collections.abc import Callable, Iterable
from http import HTTPStatus
from typing import Any

from PIL import Image

import icmh_rt
from icmh_rt.images import load_image_bytes

MAX_PIXELS = 2**24  # of strangers' images and streams
MAX_BYTES = 4 * MAX_PIXELS

options = {
    "model": os.environ.get("ICMH_SERVER_MODEL", "default"),
    "device": os.environ.get("ICMH_SERVER_DEVICE", "cpu"),
    "max_pixels": MAX_PIXELS,
}
encoder = icmh_rt.Encoder(width=1.0, **options)
decoder = icmh_rt.Decoder(**options)


def encode(body: bytes) -> bytes:
    return encoder.encode(load_image_bytes(body, "the image", max_pixels=MAX_PIXELS))


def decode(body: bytes) -> bytes:
    file = io.BytesIO()
    Image.fromarray(decoder.decode(body)).save(file, "PNG")
    return file.getvalue()


ROUTES = {"/encode": (encode, "application/octet-stream"), "/decode": (decode, "image/png")}

THEIRS = icmh_rt.ImageError, icmh_rt.BitstreamError, icmh_rt.ModelMismatchError, icmh_rt.OptionError


class Refused(Exception):
    """With a status for the client."""


def answer(environ: dict[str, Any]) -> tuple[bytes, str]:
    """The body of a response and its type."""
    if environ["PATH_INFO"] not in ROUTES:
        raise Refused(HTTPStatus.NOT_FOUND, f"POST to {' or '.join(ROUTES)}")
    if environ["REQUEST_METHOD"] != "POST":
        raise Refused(HTTPStatus.METHOD_NOT_ALLOWED, "POST it")
    length = environ.get("CONTENT_LENGTH", "")
    if not (length.isascii() and length.isdigit() and len(length) < 20):
        raise Refused(HTTPStatus.LENGTH_REQUIRED, "say its Content-Length")
    if int(length) > MAX_BYTES:
        raise Refused(HTTPStatus.REQUEST_ENTITY_TOO_LARGE, f"at most {MAX_BYTES} bytes")
    work, kind = ROUTES[environ["PATH_INFO"]]
    try:
        return work(environ["wsgi.input"].read(int(length))), kind
    except THEIRS as error:
        raise Refused(HTTPStatus.BAD_REQUEST, str(error)) from error


def application(environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
    try:
        status, (body, kind) = HTTPStatus.OK, answer(environ)
    except Refused as refused:
        status, text = refused.args
        body, kind = f"{text}\n".encode(), "text/plain; charset=utf-8"
    headers = [("Content-Type", kind), ("Content-Length", str(len(body)))]
    start_response(f"{status.value} {status.phrase}", headers)
    return [body]
