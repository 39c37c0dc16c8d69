"""A request: its key, and what of it goes over the wire."""

import base64
import hashlib
import json
from pathlib import Path

import pytest

from cot_builder.endpoint.request import ImageFile, Request
from tests.helpers.endpoint_client import KEY, ask, ask_all, echo, given, question
from tests.servers.chat_server import chat_server

pytestmark = pytest.mark.usefixtures("key")


def test_every_part_that_shapes_an_answer_makes_another_key() -> None:
    def shown(digest: str) -> Request:
        image = ImageFile(digest, 64, 64, lambda: (b"", "image/png"))
        return Request("describe", "small", [{"role": "user", "content": [image.content_part]}], {digest: image})

    requests = [
        question(),
        question("what is there?"),
        question(max_tokens=61),
        question(temperature=0.0),
        question(temperature=0.7),
        question(candidate=1),
        question(candidate=2),
        question(response_format={"type": "json_object"}),
        Request("describe", "large", question().messages, max_tokens=60),
        Request("describe", "small", [{"role": "system", "content": "what is here?"}], max_tokens=60),
        shown("a" * 64),
        shown("b" * 64),
    ]
    assert len({request.key for request in requests}) == len(requests)


def test_the_key_knows_no_order_of_fields_and_no_step() -> None:
    schema = {"type": "json_schema", "json_schema": {"name": "n", "schema": {"a": 1, "b": 2}}}
    turned = {"json_schema": {"schema": {"b": 2, "a": 1}, "name": "n"}, "type": "json_schema"}
    one = Request("describe", "small", [{"role": "user", "content": "x"}], response_format=schema)
    other = Request("audit", "small", [{"content": "x", "role": "user"}], response_format=turned)
    assert one.key == other.key
    # Of a store that is in use: another key would pay for every answer again.
    assert Request("", "m", [{"role": "user", "content": "é"}], max_tokens=5).key.startswith("8fcfdf66")


def test_another_candidate_is_sent_and_kept_on_its_own(store: Path) -> None:
    requests = [question(candidate=number) for number in range(3)]
    with chat_server(lambda _: f"draw {len(server.requests)}") as server:
        first = {answer.text for answer in given(ask_all(requests, server.url, store, concurrency=1))}
        again = {answer.text for answer in given(ask_all(requests, server.url, store))}
        assert len(server.requests) == 3
    assert first == again == {"draw 1", "draw 2", "draw 3"}


def test_what_goes_over_the_wire_is_the_body_whatever_a_text_says() -> None:
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
    # Answers that users have kept are found by it.
    whole = json.dumps([{"max_tokens": 1024, "messages": asked.messages, "model": "small"}, 2], sort_keys=True)
    assert asked.key == hashlib.sha256(whole.encode()).hexdigest()


def test_images_arrive_intact_and_are_loaded_once_and_only_if_sent(store: Path) -> None:
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
        given(ask_all([about("one"), about("two"), about("three")], server.url, store))
        assert len(loaded) == 1
        again = ImageFile("c" * 64, 640, 480, load)
        image = again
        given(ask_all([about("one"), about("two")], server.url, store))
        assert len(loaded) == 1
        assert len(server.requests) == 3
        for body in server.requests:
            first, shown, last = body["messages"][0]["content"]
            assert (first["text"] in {"one", "two", "three"}, last["text"]) == (True, "above")
            header, encoded = shown["image_url"]["url"].split(",")
            assert header == "data:image/jpeg;base64"
            assert base64.b64decode(encoded, validate=True) == data


def test_what_is_sent_is_what_was_asked_and_no_more(store: Path) -> None:
    with chat_server(echo) as server:
        ask(question(temperature=0.25, candidate=3, response_format={"type": "json_object"}), server.url, store)
        ask(question(), server.url, store)
    plain = {"model": "small", "messages": [{"role": "user", "content": "what is here?"}], "max_tokens": 60}
    assert server.requests == [plain | {"temperature": 0.25, "response_format": {"type": "json_object"}}, plain]
    assert set(server.keys) == {f"Bearer {KEY}"}
