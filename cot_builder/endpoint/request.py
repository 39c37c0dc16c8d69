"""A request to a model: the body that is sent, and the key under which the answer is stored."""

import base64
import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

Message = dict[str, Any]
IMAGE_SCHEME = "sha256:"
URL_MARK = b'"url": "'
IMAGE_MARK = URL_MARK + IMAGE_SCHEME.encode()


@dataclass(frozen=True)
class ImageFile:
    """An image to send. Its bytes are read and encoded once, and only when a request is sent."""

    sha256: str
    """SHA-256 of the source file; represents the image in the key of a request."""
    width: int
    """Pixels."""
    height: int
    """Pixels."""
    load: Callable[[], tuple[bytes, str]]
    """Returns the bytes and their media type, such as ``image/png``."""

    @cached_property
    def data_url(self) -> bytes:
        """The image as a data URL, in ASCII."""
        data, media_type = self.load()
        return b"data:" + media_type.encode() + b";base64," + base64.b64encode(data)

    def drop_encoded(self) -> None:
        """Free the cached data URL; it is read and encoded again if needed."""
        self.__dict__.pop("data_url", None)

    @property
    def content_part(self) -> Message:
        """The content part of a message that refers to the image by its hash."""
        return {"type": "image_url", "image_url": {"url": f"{IMAGE_SCHEME}{self.sha256}"}}


@dataclass(frozen=True)
class Request:
    """A request for a chat completion."""

    step: str
    """Purpose, such as ``describe``; shown in estimates, not part of the key."""
    model: str
    messages: Sequence[Message]
    """Chat messages; images as :attr:`ImageFile.content_part`."""
    images: Mapping[str, ImageFile] = field(default_factory=dict)
    """The images of ``messages`` by sha256."""
    max_tokens: int = 1024
    """Maximum length of the answer in tokens."""
    temperature: float | None = None
    response_format: Mapping[str, Any] | None = None
    candidate: int = 0
    """Number that distinguishes several answers to the same request."""

    @cached_property
    def key(self) -> str:
        """SHA-256 over everything that affects the answer; images enter by their own SHA-256."""
        return hashlib.sha256(f"[{self._json}, {self.candidate}]".encode()).hexdigest()

    @cached_property
    def _json(self) -> str:
        """The body in ASCII, images by their SHA-256. Encoded once, for the key, the upload and the length."""
        return json.dumps(self._body, sort_keys=True)

    @cached_property
    def _body(self) -> dict[str, Any]:
        body: dict[str, Any] = {
            "model": self.model,
            "messages": list(self.messages),
            "max_tokens": self.max_tokens,
            "temperature": self.temperature,
            "response_format": self.response_format,
        }
        return {name: value for name, value in body.items() if value is not None}

    @cached_property
    def text_bytes(self) -> int:
        """Length in UTF-8 of the body without the images."""
        if "\\u" not in self._json:
            return len(self._json)
        return len(json.dumps(self._body, ensure_ascii=False).encode(errors="replace"))

    def encode_body(self) -> bytes:
        """Return the JSON body to send, with the images as data URLs.

        Images are inserted as bytes: passing a megabyte of base64 through the JSON encoder takes milliseconds of the
        one event loop that all requests share.
        """
        # The mark cannot occur in a text: its quotes would be escaped there.
        first, *segments = self._json.encode().split(IMAGE_MARK)
        parts = [first]
        for segment in segments:
            sha256, quote, after = segment.partition(b'"')
            parts += [URL_MARK, self.images[sha256.decode()].data_url, quote, after]
        return b"".join(parts)
