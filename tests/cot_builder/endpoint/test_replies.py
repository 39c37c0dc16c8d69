"""Responses of a server: answers, and errors that end a request or a run."""

from pathlib import Path
from typing import Any

import pytest

from cot_builder.endpoint.client import EndpointClient
from cot_builder.endpoint.replies import Answer, NotAnsweredError, StopError
from tests.helpers.endpoint_client import (
    KEY_VARIABLE,
    TOKENS_PER_USD,
    ask,
    ask_all,
    count_answers,
    echo,
    gather_outcomes,
    make_question,
    make_questions,
    read_spend,
    run_in_client,
)
from tests.servers.chat_server import (
    CUT,
    FILTERED,
    NO_USAGE,
    REFUSED,
    Fault,
    chat_server,
    faults_in_turn,
    get_text,
    status_fault,
)

pytestmark = pytest.mark.usefixtures("key")


@pytest.mark.parametrize(
    ("fault", "reason", "text"),
    [
        (REFUSED, "refusal", "I cannot help with that."),
        (FILTERED, "content_filter", ""),
        (CUT, "length", "answer to what is here?"),
    ],
)
def test_refused_filtered_and_truncated_answers_are_stored(store: Path, fault: Fault, reason: str, text: str) -> None:
    with chat_server(echo, faults_in_turn(fault)) as server:
        answers = [ask(make_question(), server.url, store) for _ in range(2)]
        assert len(server.requests) == 1
    assert [(answer.finish_reason, answer.text) for answer in answers] == [(reason, text)] * 2


def test_missing_usage_is_booked_at_upper_bound(store: Path) -> None:
    with chat_server(echo, faults_in_turn(NO_USAGE)) as server:
        answer = ask(make_question(), server.url, store)
    assert answer.usage.output == make_question().max_tokens
    assert answer.usage.total >= server.tokens
    assert answer.usd == pytest.approx(answer.usage.total / TOKENS_PER_USD)
    assert read_spend(store) == (pytest.approx(answer.usd), answer.usage.total)


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
def test_invalid_usage_falls_back_to_estimate(store: Path, usage: Any) -> None:
    with chat_server(echo, faults_in_turn(Fault(change=lambda completion: completion | {"usage": usage}))) as server:
        assert ask(make_question(), server.url, store).usage.output == make_question().max_tokens


def test_lone_surrogate_is_replaced(store: Path) -> None:
    with chat_server(lambda _: "cut within \ud83d") as server:
        first = ask(make_question(), server.url, store)
        assert ask(make_question(), server.url, store)._replace(is_cached=False) == first
        # The text can be sent back in the next request.
        ask(make_question(f"you said: {first.text}"), server.url, store)
        assert len(server.requests) == 2


@pytest.mark.parametrize("code", [400, 413, 422])
def test_invalid_request_is_not_retried(store: Path, code: int) -> None:
    fault = status_fault(code, message="image too large")
    with chat_server(echo, lambda body, _: fault if "002" in get_text(body) else None) as server:
        results = ask_all(make_questions(4), server.url, store)
        assert len(server.requests) == 4
    assert isinstance(results[2], NotAnsweredError)
    assert str(code) in str(results[2])
    assert "image too large" in str(results[2])
    assert count_answers(store) == 3


@pytest.mark.parametrize(
    ("fault", "advice"),
    [
        (status_fault(401, message="Incorrect API key"), "check the key"),
        (status_fault(402), "top up"),
        (status_fault(403), "rights"),
        (status_fault(404, message="no such model"), "teacher.model"),
        (status_fault(429, message="You exceeded your quota", error_code="insufficient_quota"), "top up"),
    ],
    ids=["401", "402", "403", "404", "insufficient_quota"],
)
def test_fatal_status_stops_all_requests(store: Path, fault: Fault, advice: str) -> None:
    async def work(client: EndpointClient) -> list[Answer | BaseException]:
        return [
            *await gather_outcomes(client, make_questions(10)),
            *await gather_outcomes(client, [make_question("later"), make_question("kept")]),
        ]

    with chat_server(echo, lambda body, _: None if get_text(body) == "kept" else fault) as server:
        ask(make_question("kept"), server.url, store)
        *stopped, last = run_in_client(work, server.url, store, concurrency=1)
        assert len(server.requests) == 2
    assert isinstance(last, Answer), "a stored answer is still returned"
    for error in stopped:
        assert isinstance(error, StopError)
        assert advice in str(error)
        assert "127.0.0.1" in str(error)
        assert "stored" in str(error)


def test_fatal_error_keeps_requests_in_flight(store: Path) -> None:
    def faults(body: dict[str, Any], number: int) -> Fault | None:
        return status_fault(401) if "000" in get_text(body) else Fault(drip_s=0.3)

    with chat_server(echo, faults) as server:
        results = ask_all(make_questions(8), server.url, store, concurrency=4)
        assert len(server.requests) == 4
        assert len(server.answered) == 3
    assert sum(isinstance(result, Answer) for result in results) == 3
    assert count_answers(store) == 3


def test_missing_key_names_its_variable(store: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(KEY_VARIABLE, "")
    with pytest.raises(StopError, match=KEY_VARIABLE):
        ask(make_question(), "http://127.0.0.1:9/v1", store)
