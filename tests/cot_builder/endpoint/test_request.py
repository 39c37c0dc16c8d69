"""A request: its key, and the body that is sent."""

import base64
import hashlib
import json
from pathlib import Path

import pytest

from cot_builder.endpoint.request import ImageFile, Request
from tests.helpers.endpoint_client import KEY, ask, ask_all, echo, make_question, require_answers
from tests.servers.chat_server import chat_server

pytestmark = pytest.mark.usefixtures("key")


def test_key_depends_on_every_field() -> None:
    def shown(digest: str) -> Request:
        image = ImageFile(digest, 64, 64, lambda: (b"", "image/png"))
        return Request("describe", "small", [{"role": "user", "content": [image.content_part]}], {digest: image})

    requests = [
        make_question(),
        make_question("what is there?"),
        make_question(max_tokens=61),
        make_question(temperature=0.0),
        make_question(temperature=0.7),
        make_question(candidate=1),
        make_question(candidate=2),
        make_question(response_format={"type": "json_object"}),
        Request("describe", "large", make_question().messages, max_tokens=60),
        Request("describe", "small", [{"role": "system", "content": "what is here?"}], max_tokens=60),
        shown("a" * 64),
        shown("b" * 64),
    ]
    assert len({request.key for request in requests}) == len(requests)


def test_key_ignores_field_order_and_step() -> None:
    schema = {"type": "json_schema", "json_schema": {"name": "n", "schema": {"a": 1, "b": 2}}}
    turned = {"json_schema": {"schema": {"b": 2, "a": 1}, "name": "n"}, "type": "json_schema"}
    one = Request("describe", "small", [{"role": "user", "content": "x"}], response_format=schema)
    other = Request("audit", "small", [{"content": "x", "role": "user"}], response_format=turned)
    assert one.key == other.key
    # A key of existing stores: if it changed, users would pay for every answer again.
    assert Request("", "m", [{"role": "user", "content": "é"}], max_tokens=5).key.startswith("8fcfdf66")


def test_candidates_are_stored_separately(store: Path) -> None:
    requests = [make_question(candidate=number) for number in range(3)]
    with chat_server(lambda _: f"draw {len(server.requests)}") as server:
        first = {answer.text for answer in require_answers(ask_all(requests, server.url, store, concurrency=1))}
        again = {answer.text for answer in require_answers(ask_all(requests, server.url, store))}
        assert len(server.requests) == 3
    assert first == again == {"draw 1", "draw 2", "draw 3"}


def test_encoded_body_survives_any_text() -> None:
    image = ImageFile("c" * 64, 4, 4, lambda: (bytes(range(256)), "image/png"))
    text = '"url": "sha256:' + "c" * 64 + '" \\ Öffnung 孔 \u2028 \ud800'
    content = [image.content_part, {"type": "text", "text": text}, image.content_part]
    asked = Request("describe", "small", [{"role": "user", "content": content}], {image.sha256: image}, candidate=2)
    shown = {
        "type": "image_url",
        "image_url": {"url": f"data:image/png;base64,{base64.b64encode(image.load()[0]).decode()}"},
    }
    messages = [{"role": "user", "content": [shown, {"type": "text", "text": text}, shown]}]
    assert json.loads(asked.encode_body()) == {"model": "small", "messages": messages, "max_tokens": 1024}
    # Existing stores contain answers under this key.
    whole = json.dumps([{"max_tokens": 1024, "messages": asked.messages, "model": "small"}, 2], sort_keys=True)
    assert asked.key == hashlib.sha256(whole.encode()).hexdigest()


def test_images_are_loaded_once_and_intact(store: Path) -> None:
    data = bytes(range(256)) * 400
    loaded = []

    def load() -> tuple[bytes, str]:
        loaded.append(1)
        return data, "image/jpeg"

    image = ImageFile("c" * 64, 640, 480, load)

    def about(text: str) -> Request:
        content = [{"type": "text", "text": text}, image.content_part, {"type": "text", "text": "above"}]
        return Request("describe", "small", [{"role": "user", "content": content}], {image.sha256: image})

    with chat_server(echo) as server:
        require_answers(ask_all([about("one"), about("two"), about("three")], server.url, store))
        assert len(loaded) == 1
        again = ImageFile("c" * 64, 640, 480, load)
        image = again
        require_answers(ask_all([about("one"), about("two")], server.url, store))
        assert len(loaded) == 1
        assert len(server.requests) == 3
        for body in server.requests:
            first, shown, last = body["messages"][0]["content"]
            assert (first["text"] in {"one", "two", "three"}, last["text"]) == (True, "above")
            header, encoded = shown["image_url"]["url"].split(",")
            assert header == "data:image/jpeg;base64"
            assert base64.b64decode(encoded, validate=True) == data


def test_body_contains_only_requested_fields(store: Path) -> None:
    with chat_server(echo) as server:
        ask(make_question(temperature=0.25, candidate=3, response_format={"type": "json_object"}), server.url, store)
        ask(make_question(), server.url, store)
    plain = {"model": "small", "messages": [{"role": "user", "content": "what is here?"}], "max_tokens": 60}
    assert server.requests == [plain | {"temperature": 0.25, "response_format": {"type": "json_object"}}, plain]
    assert set(server.keys) == {f"Bearer {KEY}"}
