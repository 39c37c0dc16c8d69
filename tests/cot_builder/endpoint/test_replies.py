"""Replies of a server: those that are answers, and those that end a request or a run."""

from pathlib import Path
from typing import Any

import pytest

from cot_builder.endpoint.client import EndpointClient
from cot_builder.endpoint.replies import Answer, NotAnsweredError, StopError
from tests.helpers.endpoint_client import (
    KEY_VARIABLE,
    TOKENS_A_USD,
    ask,
    ask_all,
    counted,
    echo,
    outcomes,
    question,
    questions,
    spent,
    use,
)
from tests.servers.chat_server import CUT, FILTERED, NO_USAGE, REFUSED, Fault, chat_server, in_turn, status, text_of

pytestmark = pytest.mark.usefixtures("key")


@pytest.mark.parametrize(
    ("fault", "reason", "text"),
    [
        (REFUSED, "refusal", "I cannot help with that."),
        (FILTERED, "content_filter", ""),
        (CUT, "length", "answer to what is here?"),
    ],
)
def test_a_refusal_a_filter_and_a_cut_are_kept_as_answers(store: Path, fault: Fault, reason: str, text: str) -> None:
    with chat_server(echo, in_turn(fault)) as server:
        answers = [ask(question(), server.url, store) for _ in range(2)]
        assert len(server.requests) == 1
    assert [(answer.finish_reason, answer.text) for answer in answers] == [(reason, text)] * 2


def test_an_answer_without_usage_is_booked_at_no_less_than_it_may_have_cost(store: Path) -> None:
    with chat_server(echo, in_turn(NO_USAGE)) as server:
        answer = ask(question(), server.url, store)
    assert answer.usage.output == question().max_tokens
    assert answer.usage.total >= server.tokens
    assert answer.usd == pytest.approx(answer.usage.total / TOKENS_A_USD)
    assert spent(store) == (pytest.approx(answer.usd), answer.usage.total)


@pytest.mark.parametrize(
    "usage",
    [
        None,
        [],
        {"prompt_tokens": None},
        {"prompt_tokens_details": None},
        "unknown",
        7,
        {"prompt_tokens": "many", "completion_tokens": 3},
        {"prompt_tokens": 5, "completion_tokens": 60, "prompt_tokens_details": "none"},
    ],
    ids=str,
)
def test_a_usage_that_is_none_is_no_crash(store: Path, usage: Any) -> None:
    with chat_server(echo, in_turn(Fault(change=lambda completion: completion | {"usage": usage}))) as server:
        assert ask(question(), server.url, store).usage.output == question().max_tokens


def test_half_a_character_is_no_crash(store: Path) -> None:
    with chat_server(lambda _: "cut within \ud83d") as server:
        first = ask(question(), server.url, store)
        assert ask(question(), server.url, store)._replace(is_cached=False) == first
        # As it goes on into the next question.
        ask(question(f"you said: {first.text}"), server.url, store)
        assert len(server.requests) == 2


@pytest.mark.parametrize("code", [400, 413, 422])
def test_a_request_that_is_wrong_is_not_sent_again(store: Path, code: int) -> None:
    fault = status(code, message="image too large")
    with chat_server(echo, lambda body, _: fault if "002" in text_of(body) else None) as server:
        results = ask_all(questions(4), server.url, store)
        assert len(server.requests) == 4
    assert isinstance(results[2], NotAnsweredError)
    assert str(code) in str(results[2])
    assert "image too large" in str(results[2])
    assert counted(store) == 3


@pytest.mark.parametrize(
    ("fault", "advice"),
    [
        (status(401, message="Incorrect API key"), "check the key"),
        (status(402), "top up"),
        (status(403), "rights"),
        (status(404, message="no such model"), "teacher.model"),
        (status(429, message="You exceeded your quota", error_code="insufficient_quota"), "top up"),
    ],
    ids=["401", "402", "403", "404", "insufficient_quota"],
)
def test_what_every_request_would_meet_stops_all(store: Path, fault: Fault, advice: str) -> None:
    async def work(client: EndpointClient) -> list[Answer | BaseException]:
        return [*await outcomes(client, questions(10)), *await outcomes(client, [question("later"), question("kept")])]

    with chat_server(echo, lambda body, _: None if text_of(body) == "kept" else fault) as server:
        ask(question("kept"), server.url, store)
        *stopped, last = use(work, server.url, store, concurrency=1)
        assert len(server.requests) == 2
    assert isinstance(last, Answer), "what is kept is still given"
    for error in stopped:
        assert isinstance(error, StopError)
        assert advice in str(error)
        assert "127.0.0.1" in str(error)
        assert "stored" in str(error)


def test_the_stop_does_not_lose_what_is_under_way(store: Path) -> None:
    def faults(body: dict[str, Any], number: int) -> Fault | None:
        return status(401) if "000" in text_of(body) else Fault(drip_s=0.3)

    with chat_server(echo, faults) as server:
        results = ask_all(questions(8), server.url, store, concurrency=4)
        assert len(server.requests) == 4
        assert len(server.answered) == 3
    assert sum(isinstance(result, Answer) for result in results) == 3
    assert counted(store) == 3


def test_a_missing_key_is_told_by_the_name_of_its_variable(store: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(KEY_VARIABLE, "")
    with pytest.raises(StopError, match=KEY_VARIABLE):
        ask(question(), "http://127.0.0.1:9/v1", store)
