"""The rewriter `server` against real server processes: one that works (transformers serve), one that misbehaves."""

from __future__ import annotations

import logging
import socket
import sys
import time
import urllib.request
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from harmonize.data.unify.endpoint import is_loopback
from harmonize.data.unify.replies import UNREADABLE
from harmonize.data.unify.server import CUT_OFF, DROPPED, NO_ANSWER, TIMED_OUT, Server
from harmonize.data.unify.task import Failure, Pair, Task
from harmonize.errors import ConfigError, ModelError

GOOD = [Pair("What is it?", "SECRETREPLY")]


@pytest.fixture
def prompts(replying: ModuleType, tmp_path: Path) -> str:
    return str(replying.prompts(tmp_path / "prompts"))


def task(text: str) -> Task:
    return Task("passage", text=text)


def make(bad: Any, prompts: str, **settings: Any) -> Server:
    quick = {"timeout": 20.0, "retries": 2, "backoff": 0.01, **settings}
    return Server(base_url=bad.url, model="m", prompts=prompts, **quick)


def test_failures_of_single_tasks_are_counted_and_the_rest_goes_on(bad: Any, prompts: str) -> None:
    """Every kind at once, in order, with what was answered handed over."""
    kinds = {
        "good 1": GOOD,
        "broken a": Failure("server error 500"),
        "twice a": GOOD,
        "garbage a": Failure(NO_ANSWER),
        "types a": Failure(NO_ANSWER),
        "nulls a": Failure(NO_ANSWER),
        "half a": Failure(UNREADABLE),
        "cut a": Failure(CUT_OFF, "raise rewriter.max_tokens"),
        "prose a": Failure(UNREADABLE),
        "drop a": Failure(DROPPED),
        "bad a": Failure("refused with status 400"),
        "moved a": Failure("refused with status 307"),
        "good 2": GOOD,
    }
    rewriter = make(bad, prompts)
    kept: dict[str, tuple[int, int]] = {}
    found = rewriter.rewrite([task(k) for k in kinds], lambda t, p, n: kept.update({t.text: n}))
    assert dict(zip(kinds, found, strict=True)) == kinds
    assert kept == dict.fromkeys(["good 1", "twice a", "good 2"], (100, 20))
    tried = {k: len(bad.requests(k)) for k in kinds}
    once = dict.fromkeys(["good 1", "good 2", "half a", "cut a", "prose a", "bad a", "moved a"], 1)
    assert tried == {k: once.get(k, 3) for k in kinds}
    assert rewriter.requests == sum(tried.values())


def test_a_timeout_is_a_failure_and_next_time_is_another_chance(bad: Any, prompts: str) -> None:
    rewriter = make(bad, prompts, timeout=0.3, retries=1)
    assert rewriter.rewrite([task("hang a"), task("good 3")]) == [Failure(TIMED_OUT), GOOD]
    assert len(bad.requests("hang a")) == 2
    assert make(bad, prompts, timeout=20.0).rewrite([task("hang a")]) == [GOOD]


def test_the_server_may_say_when_to_come_back(bad: Any, prompts: str) -> None:
    assert make(bad, prompts).rewrite([task("limited a")]) == [GOOD]
    first, second = bad.requests("limited a")
    assert 0.45 < second["at"] - first["at"] < 5


def test_requests_keep_to_the_limit_and_to_the_concurrency(bad: Any, prompts: str) -> None:
    rewriter = make(bad, prompts, max_requests_per_minute=1200, concurrency=4)
    start = time.monotonic()
    rewriter.rewrite([task(f"rate {i}") for i in range(8)])
    assert time.monotonic() - start >= 7 * 0.05 and len(bad.requests("rate")) == 8
    start = time.monotonic()
    make(bad, prompts, concurrency=2).rewrite([task(f"slow {i}") for i in range(8)])
    assert time.monotonic() - start >= 4 * 0.15


def test_backoff_doubles_and_is_a_function_of_the_task(bad: Any, prompts: str) -> None:
    rewriter = make(bad, prompts, backoff=1.0)
    waits = [[rewriter._wait(task(name), n, None) for n in range(9)] for name in ("a", "a", "b")]
    assert waits[0] == waits[1] != waits[2]
    assert all(0.5 * 2**n <= min(w, 60) or w == 60 for n, w in enumerate(waits[0]))
    assert max(waits[0]) <= 60


@pytest.mark.parametrize(
    ("kind", "message"),
    [
        ("denied", "refuses access (status 401). Name the environment variable"),
        ("unknown", "has no model 'm', or base_url is not the address"),
    ],
)
def test_what_no_task_would_survive_ends_the_run(bad: Any, prompts: str, kind: str, message: str) -> None:
    kept: list[str] = []
    rewriter = make(bad, prompts, concurrency=1)
    with pytest.raises(ModelError) as caught:
        rewriter.rewrite(
            [task(f"good {kind}"), task(kind), task("good never")], lambda t, p, n: kept.append(t.text)
        )
    assert message in str(caught.value)
    assert ("It offers: model-a" in str(caught.value)) == (kind == "unknown")
    assert kept == [f"good {kind}"] and not bad.requests("good never")


def test_a_server_that_only_fails_is_given_up(bad: Any, prompts: str) -> None:
    with pytest.raises(ModelError, match=r"failed 20 tasks in a row \(server error 500: 20\)"):
        make(bad, prompts, retries=0).rewrite([task(f"broken {i}") for i in range(40)])
    # Replies that cannot be read are the model's doing and stop nothing.
    assert len(set(make(bad, prompts).rewrite([task(f"prose {i}") for i in range(30)]))) == 1


def test_no_server_at_all(prompts: str) -> None:
    with socket.socket() as held:
        held.bind(("127.0.0.1", 0))
        port = held.getsockname()[1]
        rewriter = Server(
            base_url=f"http://localhost:{port}/v1", model="m", prompts=prompts, retries=1, backoff=0.01
        )
        with pytest.raises(ModelError, match=r"cannot be reached\. Is it running\?"):
            rewriter.rewrite([task("a"), task("b")])


def test_neither_key_nor_text_nor_reply_is_told(
    bad: Any, prompts: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("MY_KEY", "SECRETKEY")
    monkeypatch.setenv("OPENAI_API_KEY", "SECRETKEY-of-another-server")
    monkeypatch.setenv("OPENAI_ORG_ID", "SECRETORG")
    monkeypatch.setenv("OPENAI_LOG", "debug")
    caplog.set_level(logging.DEBUG)
    kinds = [*"good broken garbage types half prose drop bad denied unknown".split()]
    told = []
    for kind in kinds:
        for variable in ("MY_KEY", None):
            rewriter = make(bad, prompts, api_key_env=variable, retries=1)
            try:
                told.append(repr(rewriter.rewrite([task(f"{kind} SECRETPROMPT {variable}")])))
            except ModelError as error:
                told.append("".join([str(error), repr(error.__cause__)]))
    assert [r["key"] for r in bad.requests("good SECRETPROMPT")] == ["Bearer SECRETKEY", "Bearer none"]
    assert {r["organization"] for r in bad.requests()} == {None}
    assert "SECRETREPLY" in told[0]  # the pairs themselves are the result
    text = "\n".join([*told[2:], caplog.text])
    assert "SECRET" not in text.replace(repr(GOOD), "")


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"base_url": "https://192.0.2.1/v1"}, "add rewriter.allow_remote=true"),
        ({"base_url": "https://no-such-host.invalid/v1"}, "add rewriter.allow_remote=true"),
        ({"base_url": "http://127.0.0.1.example.invalid/v1"}, "add rewriter.allow_remote=true"),
        ({"base_url": "localhost:8000"}, "is no address of a server"),
        ({"base_url": "http://me:SECRET@localhost/v1"}, "holds a user name, a password"),
        ({"api_key_env": "sk-SECRET"}, "not the name of an environment variable"),
        ({"api_key_env": "NOT_SET_ANYWHERE"}, "Type: export NOT_SET_ANYWHERE="),
        (
            {"base_url": "http://192.0.2.1/v1", "allow_remote": True, "api_key_env": "HOME"},
            "would send the key unencrypted",
        ),
        ({"concurrency": 0}, "rewriter.concurrency=0 must be at least 1"),
        ({"timeout": 0}, "rewriter.timeout=0 must be above 0"),
    ],
)
def test_settings_that_are_refused(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        Server(**{"base_url": "http://localhost:1/v1", "model": "m", **settings})
    assert message in str(caught.value)
    assert "SECRET" not in str(caught.value)


def test_what_counts_as_this_machine() -> None:
    assert all(is_loopback(host) for host in ("localhost", "127.0.0.1", "127.1.2.3", "::1"))
    assert not any(is_loopback(host) for host in ("192.0.2.1", "0.0.0.0", "::ffff:192.0.2.1", "x.invalid"))
    Server(base_url="https://192.0.2.1/v1", model="m", allow_remote=True)


def test_the_fingerprint_follows_what_decides_the_reply(bad: Any, prompts: str) -> None:
    base = make(bad, prompts)
    assert make(bad, prompts, concurrency=3, retries=0, timeout=1.0).fingerprint == base.fingerprint
    others = [make(bad, prompts, max_tokens=7), make(bad, prompts, temperature=0.5)]
    others.append(Server(base_url=bad.url, model="m"))
    others.append(Server(base_url=bad.url, model="n", prompts=prompts))
    assert len({r.fingerprint for r in (base, *others)}) == 5


def test_against_transformers_serve(
    processes: ModuleType, replying: ModuleType, json_model: Path, prompts: str, tmp_path: Path
) -> None:
    """The real protocol, end to end: a real model behind the server that transformers ships."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    program = Path(sys.executable).with_name("transformers")
    options = ["--host", "127.0.0.1", "--port", str(port), "--device", "cpu", "--log-level", "error"]
    server = processes.Process([str(program), "serve", str(json_model), *options], tmp_path / "serve.log")
    try:
        deadline = time.monotonic() + 120
        while True:
            assert time.monotonic() < deadline and server.process.poll() is None, server.log.read_text()
            try:
                urllib.request.urlopen(f"http://127.0.0.1:{port}/health", timeout=5).close()
                break
            except OSError:
                time.sleep(0.2)
        rewriter = Server(
            base_url=f"http://127.0.0.1:{port}/v1",
            model=str(json_model),
            prompts=prompts,
            max_tokens=200,
            concurrency=3,
            retries=0,
        )
        kept: list[tuple[int, int]] = []
        found = rewriter.rewrite(replying.passages(), lambda t, p, n: kept.append(n))
        assert found == [
            [Pair("What is Toto?", "a dog")],
            [Pair("What has Oz?", "a road")],
            Failure(UNREADABLE),
        ]
        assert len(kept) == 2 and all(0 < a < 40 and 20 < b < 200 for a, b in kept)
    finally:
        server.stop()
