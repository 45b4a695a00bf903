"""Served models against a server that fails as told, and against `transformers serve`."""

import asyncio
import logging
import signal
import sys
import threading
import time
from pathlib import Path

import pytest
from llm_servers import FaultyServer, Reply, completion, error, free_port

from rmtkit.llm.cases import FAILURES, Answer, Case, Prompt
from rmtkit.llm.served import DETAIL_SIZE, HIDDEN, NOT_GREEDY, ServedModel

openai = pytest.importorskip("openai", reason="served models need the package openai: pip install rmtkit[llm]")
import anyio  # noqa: E402

KEY = "sk-canary-3f9a71c05d"
BACKBONE = Path(__file__).parents[1] / "outputs/reference/backbone"
CHAT_TEMPLATE = (
    "{% for m in messages %}{{ m['role'] }}: {{ m['content'] }}\n{% endfor %}"
    "{% if add_generation_prompt %}assistant:{% endif %}"
)


def ask(text, *, system=None):
    case = Case("qa1", "0k", 0, context="", question="", target="")
    return Prompt(case, text, system)


def serve(server, **settings):
    return ServedModel("tiny", **{"base_url": server.base_url, "max_attempts": 3, "timeout": 20, **settings})


def only_answer(server, *, text="where?", **settings):
    ((_, answer),) = serve(server, **settings).answer([ask(text)])
    return answer


@pytest.fixture
def pauses(monkeypatch):
    """The pauses between attempts, in seconds; none is made."""
    made = []

    async def sleep(seconds):
        made.append(seconds)
        await anyio.lowlevel.checkpoint()

    monkeypatch.setattr(anyio, "sleep", sleep)
    return made


@pytest.fixture(autouse=True)
def no_key(monkeypatch):
    for name in ("OPENAI_API_KEY", "HTTP_PROXY", "http_proxy", "ALL_PROXY", "all_proxy"):
        monkeypatch.delenv(name, raising=False)


def test_answer_has_text_and_counts_of_the_server():
    with FaultyServer() as server:
        answer = only_answer(server)
    assert answer == Answer("kitchen", None, "", "stop", num_prompt_tokens=11, num_answer_tokens=2, num_attempts=1)


def test_odd_values_of_a_server_become_what_a_table_can_hold():
    reply = Reply(
        '{"choices": [{"message": {"content": "kit\\ud83d"}, "finish_reason": 3}], "usage": {"prompt_tokens": "9"}}'
    )
    with FaultyServer(otherwise=reply) as server:
        answer = only_answer(server)
    assert answer == Answer("kit?", None, "", "3", num_prompt_tokens=None, num_answer_tokens=None, num_attempts=1)


def test_chat_request_is_greedy_and_has_the_system_message():
    with FaultyServer() as server:
        list(serve(server, max_answer_tokens=7).answer([ask("where?", system="Be short.")]))
    messages = [{"role": "system", "content": "Be short."}, {"role": "user", "content": "where?"}]
    assert server.requests == [{"model": "tiny", "messages": messages, "temperature": 0, "max_tokens": 7}]
    assert server.paths == ["/v1/chat/completions"]


def test_plain_request_is_one_text():
    with FaultyServer() as server:
        ((_, answer),) = serve(server, chat=False).answer([ask("where?", system="Be short.")])
    request = {"model": "tiny", "prompt": "Be short.\n\nwhere?", "temperature": 0, "max_tokens": 20}
    assert (server.requests, server.paths, answer.text) == ([request], ["/v1/completions"], "kitchen")


FINAL = {  # replies that end a prompt at once
    "malformed: broken JSON": ("malformed", Reply('{"choices": [{"mess')),
    "malformed: no JSON": ("malformed", Reply("<html>welcome</html>", headers={"Content-Type": "text/html"})),
    "malformed: no choices": ("malformed", Reply({"object": "chat.completion"})),
    "malformed: empty choices": ("malformed", Reply({"choices": []})),
    "malformed: null choices": ("malformed", Reply({"choices": None})),
    "malformed: no message": ("malformed", Reply({"choices": [{"finish_reason": "stop"}]})),
    "malformed: a list": ("malformed", Reply([1, 2])),
    "malformed: text is a number": ("malformed", completion(7)),
    "malformed: an error of status 200": ("malformed", Reply({"error": {"message": "overloaded"}})),
    "empty": ("empty", completion("")),
    "empty: blanks": ("empty", completion(" \n")),
    "empty: null": ("empty", completion(None)),
    "refused: content filter": ("refused", completion("kit", finish_reason="content_filter")),
    "refused: by the model": ("refused", completion(None, refusal="I will not say.")),
    "refused: by status 400": ("refused", error(400, code="content_filter")),
    "client_error: 400": ("client_error", error(400)),
    "client_error: 401": ("client_error", error(401)),
    "client_error: 404": ("client_error", error(404)),
    "client_error: 422": ("client_error", Reply({"detail": "no such field"}, 422)),
}


@pytest.mark.parametrize("failure, reply", FINAL.values(), ids=FINAL)
def test_final_failure_is_named_and_sent_once(failure, reply, pauses):
    with FaultyServer(otherwise=reply) as server:
        answer = only_answer(server)
    assert (answer.failure, answer.text, answer.num_attempts) == (failure, "", 1)
    assert len(server.requests) == 1 and pauses == []
    assert failure in FAILURES and answer.detail


PASSING = {  # replies that are tried again
    "rate_limit": ("rate_limit", error(429)),
    "server_error": ("server_error", error(500)),
    "server_error: bad gateway": ("server_error", Reply("<html>502</html>", 502)),
    "connection: cut": ("connection", Reply(completion().body, cut=True)),
    "timeout: no answer": ("timeout", Reply(held=True)),
    "timeout: an answer without an end": ("timeout", Reply(dripping=True)),
}


@pytest.mark.parametrize("failure, reply", PASSING.values(), ids=PASSING)
@pytest.mark.parametrize("num_failing", [1, 2, 3])
def test_passing_failure_is_tried_again_and_every_attempt_counted(failure, reply, num_failing, pauses):
    timeout = 0.3 if failure == "timeout" else 20
    with FaultyServer({"where?": [reply] * num_failing + [completion()]}) as server:
        answer = only_answer(server, timeout=timeout, max_attempts=3)
    expected = (failure, "", 3) if num_failing == 3 else (None, "kitchen", num_failing + 1)
    assert (answer.failure, answer.text, answer.num_attempts) == expected
    assert len(server.requests) == answer.num_attempts == len(pauses) + 1


def test_server_that_is_not_there_is_a_connection_failure(pauses):
    model = ServedModel("tiny", base_url=f"http://127.0.0.1:{free_port()}/v1", max_attempts=4)
    ((_, answer),) = model.answer([ask("where?")])
    assert (answer.failure, answer.num_attempts, len(pauses)) == ("connection", 4, 3)


def test_retry_after_is_waited_for(pauses):
    replies = [error(429, headers={"Retry-After": "7"}), error(503, headers={"Retry-After": "0.5"}), completion()]
    with FaultyServer({"where?": replies}) as server:
        answer = only_answer(server)
    assert (answer.text, answer.num_attempts, pauses) == ("kitchen", 3, [7.0, 0.5])


def test_pauses_double_up_to_eight_seconds_and_are_jittered(pauses):
    with FaultyServer(otherwise=error(500)) as server:
        only_answer(server, max_attempts=8)
    longest = [0.5, 1, 2, 4, 8, 8, 8]
    assert all(0.75 * most <= made <= most for made, most in zip(pauses, longest, strict=True))
    assert len({made / most for made, most in zip(pauses, longest, strict=True)}) > 1


def test_failure_says_what_the_server_said():
    with FaultyServer(otherwise=error(404, "no model\nof this name")) as server:
        assert only_answer(server).detail == "status 404: no model of this name"
    with FaultyServer(otherwise=Reply({"detail": "x" * 999}, 422)) as server:
        assert len(only_answer(server).detail) == DETAIL_SIZE


def test_one_failure_leaves_the_other_answers_alone(pauses):
    script = {"3": [error(500)], "5": [error(401)], "6": [Reply("{")], "7": [error(429), completion("hall")]}
    with FaultyServer(script) as server:
        answers = dict(serve(server).answer([ask(str(place)) for place in range(10)]))
    failures = {place: answer.failure for place, answer in answers.items() if answer.failure}
    assert failures == {3: "server_error", 5: "client_error", 6: "malformed"}
    assert answers[7].text == "hall" and sorted(answers) == list(range(10))
    assert server.num_sent == {str(place): answer.num_attempts for place, answer in answers.items()}


def test_requests_at_once_reach_the_limit_and_never_pass_it():
    with FaultyServer(wait_for=4) as server:
        answers = dict(serve(server, concurrency=4).answer([ask(str(place)) for place in range(20)]))
    assert server.most_at_once == 4
    assert sorted(answers) == list(range(20)) and set(server.num_sent.values()) == {1}


def test_answers_come_as_they_are_ready_with_the_place_of_their_prompt():
    with FaultyServer({"0": [Reply(completion("late").body, held=True)]}) as server:
        arriving = serve(server, concurrency=2).answer([ask(str(place)) for place in range(5)])
        first = [next(arriving)[0] for _ in range(4)]
        server.released.set()
        assert sorted(first) == [1, 2, 3, 4]
        assert [(place, answer.text) for place, answer in arriving] == [(0, "late")]


def test_prompt_beyond_the_window_is_not_sent(tokenizer):
    texts = ["word " * 30, "where?", "word " * 60, "and where?"]
    with FaultyServer() as server:
        model = serve(server, window=60, max_answer_tokens=20, tokenizer=tokenizer, chat=False, concurrency=1)
        answers = dict(model.answer([ask(text) for text in texts]))
    assert [answers[place].failure for place in range(4)] == ["too_long", None, "too_long", None]
    assert set(server.num_sent) == {"where?", "and where?"}
    assert answers[0].num_attempts == 0 and str(answers[0].num_prompt_tokens) in answers[0].detail


def test_window_holds_prompt_and_answer_to_the_token(tokenizer):
    size = len(tokenizer("Where is Mary?")["input_ids"])
    with FaultyServer() as server:
        for window, failure in ((size + 20, None), (size + 19, "too_long")):
            answer = only_answer(server, text="Where is Mary?", window=window, tokenizer=tokenizer, chat=False)
            assert answer.failure == failure


def test_tokens_are_those_of_the_chat_template(tokenizer, monkeypatch):
    monkeypatch.setattr(tokenizer, "chat_template", CHAT_TEMPLATE)
    model = ServedModel("tiny", base_url="http://localhost/v1", tokenizer=tokenizer)
    text = "system: Be short.\nuser: Where is Mary?\nassistant:"
    assert model.num_tokens(ask("Where is Mary?", system="Be short.")) == len(tokenizer(text)["input_ids"])


def test_estimate_without_tokenizer_is_too_high_and_says_that_it_is_one():
    from transformers import AutoTokenizer

    text = "Mary went to the kitchen. John moved to the garden. Where is Mary?" * 50
    with FaultyServer() as server:
        answer = only_answer(server, text=text, window=100)
        guess = serve(server).num_tokens(ask(text))
    assert guess > len(AutoTokenizer.from_pretrained(BACKBONE)(text)["input_ids"])
    assert answer.failure == "too_long" and "estimated" in answer.detail


def test_model_that_refuses_limit_and_temperature_is_asked_as_it_wants():
    limit = error(400, code="unsupported_parameter", param="max_tokens")
    temperature = error(400, code="unsupported_value", param="temperature")
    with FaultyServer({"where?": [limit, temperature, completion()]}) as server:
        model = serve(server, max_answer_tokens=9)
        ((_, first),) = model.answer([ask("where?")])
        ((_, second),) = model.answer([ask("and now?")])
    assert (first.text, first.num_attempts, first.detail) == ("kitchen", 3, NOT_GREEDY)
    assert second.num_attempts == 1 and model.options == {"max_completion_tokens": 9}
    assert "max_tokens" not in server.requests[1] and "temperature" not in server.requests[-1]


def test_answer_works_inside_a_running_loop():
    async def as_jupyter(model):
        return sorted(place for place, _ in model.answer([ask("0"), ask("1")]))

    with FaultyServer() as server:
        assert asyncio.run(as_jupyter(serve(server))) == [0, 1]


def threads_of_loops():
    return [thread for thread in threading.enumerate() if "portal" in thread.name]


def wait_until(is_true):
    end = time.monotonic() + 20
    while not is_true() and time.monotonic() < end:
        time.sleep(0.01)
    assert is_true()


def test_leaving_the_iterator_ends_what_is_in_flight(pauses):
    with FaultyServer({"0": [completion()]}, otherwise=Reply(held=True)) as server:
        for _ in serve(server, concurrency=3).answer([ask(str(place)) for place in range(20)]):
            break
        wait_until(lambda: server.num_hung_up == len(server.requests) - 1)
        assert len(server.requests) <= 4 and threads_of_loops() == pauses == []


@pytest.fixture
def heeding_interrupts():
    """Interrupts as on a terminal: a process that a shell has put in the background ignores them."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


def test_interrupt_ends_what_is_in_flight(pauses, heeding_interrupts):
    with FaultyServer(otherwise=Reply(held=True)) as server:

        def interrupt():
            wait_until(lambda: len(server.requests) == 3)
            signal.pthread_kill(threading.main_thread().ident, signal.SIGINT)

        threading.Thread(target=interrupt, daemon=True).start()
        with pytest.raises(KeyboardInterrupt):
            list(serve(server, concurrency=3).answer([ask(str(place)) for place in range(20)]))
        wait_until(lambda: server.num_hung_up == 3)
        assert len(server.requests) == 3 and threads_of_loops() == pauses == []


def test_caller_who_stops_taking_stops_the_sending():
    with FaultyServer() as server:
        arriving = serve(server, concurrency=3).answer([ask(str(place)) for place in range(20)])
        next(arriving)
        wait_until(lambda: len(server.requests) >= 3)
        time.sleep(0.1)
        assert len(server.requests) == 3
        arriving.close()


ECHOES = {
    "an error": error(401, f"wrong key {KEY} given", code="invalid_api_key"),
    "an error that is cut off within it": error(401, "x" * (DETAIL_SIZE - 20) + KEY),
    "a page": Reply(f"<b>{KEY}</b>", 500),
    "an answer": completion(f"your key is {KEY}"),
    "a broken answer": Reply(f'{{"Authorization": "Bearer {KEY}"'),
    "a refusal": completion(None, refusal=f"not with {KEY}"),
    "a reason to end": completion(finish_reason=f"stop {KEY}"),
}


@pytest.mark.parametrize("reply", ECHOES.values(), ids=ECHOES)
def test_key_is_sent_and_appears_nowhere(reply, monkeypatch, pauses, capfd, caplog):
    monkeypatch.setenv("OTHER_KEY", KEY)
    caplog.set_level(logging.INFO)
    with FaultyServer(otherwise=reply) as server:
        model = serve(server, api_key_variable="OTHER_KEY")
        ((_, answer),) = model.answer([ask("where?")])
    assert server.headers[0]["Authorization"] == f"Bearer {KEY}"
    seen = "".join(map(repr, (answer, model, vars(model)))) + "".join(capfd.readouterr()) + caplog.text
    assert KEY[:12] not in seen and HIDDEN[:4] in repr(answer)


def test_key_comes_from_the_named_variable_alone(monkeypatch):
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    with FaultyServer() as server:
        only_answer(server, api_key_variable="OTHER_KEY")
        only_answer(server, api_key_variable=None)
    assert all(KEY not in headers["Authorization"] for headers in server.headers)


def test_key_that_cannot_be_sent_is_refused_unseen(monkeypatch):
    monkeypatch.setenv("OPENAI_API_KEY", KEY + "\n\u2019")
    with FaultyServer() as server, pytest.raises(ValueError, match="OPENAI_API_KEY") as caught:
        only_answer(server)
    assert KEY not in str(caught.value) and server.requests == []


def test_placeholder_for_a_key_is_no_secret(monkeypatch):
    monkeypatch.setenv("OPENAI_API_KEY", "none")
    with FaultyServer(otherwise=completion("none")) as server:
        assert only_answer(server).text == "none"


@pytest.mark.parametrize(
    "settings, message",
    [
        ({"base_url": "localhost:8000"}, "not an address"),
        ({"base_url": "https://me:secret@host/v1"}, "password"),
        ({"base_url": "https://host/v1?key=secret"}, "query"),
        ({"concurrency": 0}, "concurrency 0"),
        ({"max_attempts": 0}, "max_attempts 0"),
        ({"timeout": -1}, "timeout -1"),
    ],
)
def test_wrong_setting_is_refused(settings, message):
    with pytest.raises(ValueError, match=message) as caught:
        ServedModel("tiny", **{"base_url": "http://localhost/v1", **settings})
    assert "secret" not in str(caught.value)


def test_missing_client_is_one_clear_line(monkeypatch):
    monkeypatch.setitem(sys.modules, "openai", None)
    with pytest.raises(ImportError, match=r"pip install 'rmtkit\[llm\]'"):
        next(ServedModel("tiny", base_url="http://localhost/v1").answer([ask("where?")]))


@pytest.mark.parametrize("models", [None, error(404), Reply("no JSON"), Reply({"data": []})])
def test_check_passes_a_server_that_lists_the_model_or_none(models):
    with FaultyServer() as server:
        server.models = models or server.models
        serve(server).check()


@pytest.mark.parametrize(
    "models, said",
    [
        (Reply({"data": [{"id": "large"}]}), "has no model 'tiny'; it has large"),
        (error(401, KEY), "refuses the key in OPENAI_API_KEY .status 401.; set that variable"),
    ],
)
def test_check_refuses_in_one_line_without_the_key(models, said, monkeypatch):
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    with FaultyServer() as server, pytest.raises(ValueError, match=said) as found:
        server.models = models
        serve(server).check()
    assert KEY not in str(found.value) and "\n" not in str(found.value)


def test_check_says_that_nobody_answers():
    with pytest.raises(ValueError, match="no answer from the server at .*; is it running?"):
        ServedModel("tiny", base_url=f"http://127.0.0.1:{free_port()}/v1").check()
