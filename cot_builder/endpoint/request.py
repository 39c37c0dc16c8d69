"""One question to a model: what is sent, and the key under which its answer is kept."""

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
    """An image to send. Its bytes are read and encoded once, and only if a request is really sent."""

    sha256: str
    """Of the file it is made from; stands for the image in the key of a request."""
    width: int
    """Pixels."""
    height: int
    """Pixels."""
    load: Callable[[], tuple[bytes, str]]
    """Returns the bytes and their media type, such as ``image/png``."""

    @cached_property
    def encoded(self) -> bytes:
        """As a data URL, in ASCII."""
        data, media_type = self.load()
        return b"data:" + media_type.encode() + b";base64," + base64.b64encode(data)

    def forget(self) -> None:
        """Hold it no longer; it is read and encoded again should it be sent again."""
        self.__dict__.pop("encoded", None)

    @property
    def part(self) -> Message:
        """The content part that stands for it in a message."""
        return {"type": "image_url", "image_url": {"url": f"{IMAGE_SCHEME}{self.sha256}"}}


@dataclass(frozen=True)
class Request:
    """A chat completion to ask for."""

    step: str
    """What it is for, such as ``describe``; told in estimates, not part of the key."""
    model: str
    messages: Sequence[Message]
    """Chat messages; images as :attr:`ImageFile.part`."""
    images: Mapping[str, ImageFile] = field(default_factory=dict)
    """Every image of ``messages`` by its sha256."""
    max_tokens: int = 1024
    """Longest answer, tokens."""
    temperature: float | None = None
    response_format: Mapping[str, Any] | None = None
    candidate: int = 0
    """Tells apart several answers to one and the same question."""

    @cached_property
    def key(self) -> str:
        """sha256 of everything that shapes the answer, images by their own sha256."""
        return hashlib.sha256(f"[{self._json}, {self.candidate}]".encode()).hexdigest()

    @cached_property
    def _json(self) -> str:
        """In ASCII, images by their sha256. Encoded once: for the key, the wire and the length."""
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
        """UTF-8 length of all that is sent but the images."""
        if "\\u" not in self._json:
            return len(self._json)
        return len(json.dumps(self._body, ensure_ascii=False).encode(errors="replace"))

    def content(self) -> bytes:
        """What goes over the wire: JSON, images as data URLs.

        Images go in as the bytes they are: to encode a megabyte of base64 takes milliseconds, of the one loop that all
        requests share.
        """
        # No text can hold the mark: its quotes would be escaped.
        first, *others = self._json.encode().split(IMAGE_MARK)
        parts = [first]
        for other in others:
            sha256, quote, after = other.partition(b'"')
            parts += [URL_MARK, self.images[sha256.decode()].encoded, quote, after]
        return b"".join(parts)
