"""The rewriter `server`: any endpoint that speaks OpenAI's protocol, asked concurrently, with retries and a limit."""

from __future__ import annotations

import asyncio
import logging
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from harmonize.data.corpus import content_hash
from harmonize.data.prefill import unit_hash
from harmonize.data.unify.endpoint import Endpoint
from harmonize.data.unify.prompts import Prompts
from harmonize.data.unify.replies import UNREADABLE, parse_reply
from harmonize.data.unify.task import Failure, Keep, Pair, Task
from harmonize.errors import ConfigError, ModelError, nearest

# Requests of one call of `rewrite` for each that may be open: enough that the slowest few do not matter.
BATCH_PER_REQUEST = 8
LONGEST_WAIT = 60.0  # seconds before a retry, also where the server asks for more
# Tasks that fail one after the other on the server's side before all is stopped: it is not the tasks then.
GIVE_UP_AFTER = 20
TIMED_OUT, DROPPED, NO_ANSWER = "timed out", "connection lost", "unreadable answer"
CUT_OFF = "reply cut off"
_RETRIED = frozenset({408, 409, 429})
_VERSION = 1


class Server:
    """Asks a server for every task.

    A task that fails is a counted `Failure`; a server that cannot be reached, refuses the key or does not know the
    model ends the run. Neither the key nor any text is ever part of a message or a log.

    Args:
        base_url: Up to `/v1`.
        model: Name of the model on that server.
        api_key_env: Environment variable that holds the key; null sends none.
        allow_remote: Whether the material may leave this machine.
        prompts: A folder of prompts of one's own; see `Prompts.load`.
        max_tokens: Longest reply in tokens; null leaves it to the server.
        temperature: null leaves it to the server.
        extra_body: Further parameters of the request.
        concurrency: Requests open at once.
        timeout: Seconds for one request.
        retries: Further attempts after a timeout, a lost connection, 408, 409, 429 or 5xx.
        backoff: Seconds before the first retry; doubled for each further one, times 0.5 to 1.5 by task.
        max_requests_per_minute: null = no limit of our own.
        input_price, output_price: Per million tokens; null = no cost report.

    Raises:
        ConfigError: All settings that cannot be used.
    """

    name = "server"
    cached = True

    def __init__(
        self,
        *,
        base_url: str,
        model: str,
        api_key_env: str | None = None,
        allow_remote: bool = False,
        prompts: str | None = None,
        max_tokens: int | None = 1024,
        temperature: float | None = 0.0,
        extra_body: Mapping[str, Any] | None = None,
        concurrency: int = 8,
        timeout: float = 120.0,
        retries: int = 4,
        backoff: float = 1.0,
        max_requests_per_minute: float | None = None,
        input_price: float | None = None,
        output_price: float | None = None,
    ) -> None:
        self.endpoint = Endpoint(base_url, api_key_env, allow_remote)
        problems = self.endpoint.problems() + _range_problems(
            at_least_one={"concurrency": concurrency, "max_tokens": max_tokens},
            above_zero={"timeout": timeout, "max_requests_per_minute": max_requests_per_minute},
            not_negative={
                "retries": retries, "backoff": backoff, "input_price": input_price, "output_price": output_price,
            },
        )  # fmt: skip
        if problems:
            raise ConfigError(problems)
        self.prompts = Prompts.load(prompts)
        self.model, self.timeout, self.retries, self.backoff = model, timeout, int(retries), backoff
        self.concurrency, self.prices = int(concurrency), (input_price, output_price)
        self.batch = BATCH_PER_REQUEST * self.concurrency
        self._interval = 60.0 / max_requests_per_minute if max_requests_per_minute else 0.0
        options = {"temperature": temperature, "max_tokens": max_tokens, "extra_body": extra_body}
        self._options = {k: v for k, v in options.items() if v is not None}
        self.fingerprint = content_hash(
            "server", _VERSION, str(base_url).rstrip("/"), model, self._options, self.prompts.hashes
        )
        self.requests = 0
        self._next_start = 0.0
        self._failed_in_a_row: Counter[str] = Counter()

    def rewrite(self, tasks: Sequence[Task], keep: Keep | None = None) -> list[list[Pair] | Failure]:
        """See `SlowRewriter`.

        Raises:
            ModelError: The server cannot be reached, refuses the key, does not know the model, or fails task after
                task. What was answered before has been handed to `keep`.
        """
        return asyncio.run(self._all(tasks, keep))

    async def _all(self, tasks: Sequence[Task], keep: Keep | None) -> list[list[Pair] | Failure]:
        openai = _library()
        gate = asyncio.Semaphore(self.concurrency)
        # Off-machine proxies and redirects would carry the material away unseen.
        local = self.endpoint.on_this_machine
        transport = openai.DefaultAsyncHttpxClient(trust_env=not local, follow_redirects=False)
        async with openai.AsyncOpenAI(
            base_url=self.endpoint.base_url,
            api_key=self.endpoint.key,
            timeout=self.timeout,
            max_retries=0,
            http_client=transport,
        ) as client:
            # The library takes these from the environment; they belong to another server's account.
            client.organization = client.project = None

            stopped = asyncio.Event()

            async def one(task: Task) -> list[Pair] | Failure:
                async with gate:
                    if stopped.is_set():
                        raise asyncio.CancelledError
                    try:
                        return await self._task(client, task, keep)
                    except ModelError:
                        stopped.set()  # before the next one in line is let through
                        raise

            running = [asyncio.create_task(one(task)) for task in tasks]
            try:
                return list(await asyncio.gather(*running))
            except BaseException:
                for item in running:
                    item.cancel()
                await asyncio.gather(*running, return_exceptions=True)
                raise

    async def _task(self, client: Any, task: Task, keep: Keep | None) -> list[Pair] | Failure:
        message = [{"role": "user", "content": self.prompts.render(task)}]
        failure = Failure(NO_ANSWER)
        for attempt in range(self.retries + 1):
            await self._slot()
            try:
                answer = await client.chat.completions.create(
                    model=self.model, messages=message, **self._options
                )
            except Exception as error:
                found, again = await self._judged(client, error, last=attempt == self.retries)
                if not again:
                    return self._failed(found)
                failure, wait = found, self._wait(task, attempt, error)
            else:
                read = _read(answer)
                if read is not None:
                    self._failed_in_a_row.clear()
                    return self._parsed(task, *read, keep)
                failure, wait = Failure(NO_ANSWER), self._wait(task, attempt, None)
            if attempt < self.retries:
                await asyncio.sleep(wait)
        return self._failed(failure)

    def _parsed(
        self, task: Task, text: str, finish: str, tokens: tuple[int, int], keep: Keep | None
    ) -> list[Pair] | Failure:
        pairs = parse_reply(text)
        if isinstance(pairs, Failure):
            return Failure(CUT_OFF, "raise rewriter.max_tokens") if finish == "length" else pairs
        if keep is not None:
            keep(task, pairs, tokens)
        return pairs

    async def _slot(self) -> None:
        """Waits for this request's turn under the rate limit."""
        now = time.monotonic()
        start = max(now, self._next_start)
        self._next_start = start + self._interval
        if start > now:
            await asyncio.sleep(start - now)
        self.requests += 1

    def _wait(self, task: Task, attempt: int, error: Exception | None) -> float:
        """Exponential backoff with jitter by task, so that many do not come back at once; or what the server asks."""
        jitter = 0.5 + unit_hash("retry", task.key, attempt)
        wait = min(LONGEST_WAIT, self.backoff * 2**attempt * jitter)
        asked = _retry_after(error)
        if asked is None:
            return wait
        asked = min(asked, LONGEST_WAIT)
        # Those that have not been sent yet need not run into the same refusal.
        self._next_start = max(self._next_start, time.monotonic() + asked)
        return asked

    async def _judged(self, client: Any, error: Exception, last: bool) -> tuple[Failure, bool]:
        """A failure and whether to try again.

        Raises:
            ModelError: Nothing that a further task would find otherwise.
        """
        openai = _library()
        status = getattr(error, "status_code", None)
        cause = type(error.__cause__).__name__
        if isinstance(error, openai.APITimeoutError) and cause != "ConnectTimeout":
            return Failure(TIMED_OUT), True
        if isinstance(error, openai.APIConnectionError):
            if last and cause in ("ConnectError", "ConnectTimeout"):
                raise self._stop("cannot be reached. Is it running?") from None
            return Failure(DROPPED), True
        if status in (401, 403):
            hint = (
                f"Check the key in {self.endpoint.api_key_env}."
                if self.endpoint.api_key_env
                else "Name the environment variable that holds the key: rewriter.api_key_env=OPENAI_API_KEY."
            )
            raise self._stop(f"refuses access (status {status}). {hint}") from None
        if status == 404:
            raise self._stop(await self._unknown_model(client)) from None
        if status is not None:
            again = status in _RETRIED or status >= 500
            return Failure(f"server error {status}" if again else f"refused with status {status}"), again
        if isinstance(error, openai.OpenAIError | ValueError | TypeError):
            return Failure(NO_ANSWER), True
        raise error

    async def _unknown_model(self, client: Any) -> str:
        try:
            offered = sorted(str(m.id) for m in (await client.models.list()).data)
        except Exception:
            offered = []
        close = nearest(self.model, offered)
        listed = f" It offers: {', '.join(offered[:8])}." if offered else ""
        hint = f" Did you mean rewriter.model={close}?" if close else ""
        return (
            f"has no model '{self.model}', or base_url is not the address of an OpenAI-compatible API (status 404)."
            f"{hint}{listed} Set rewriter.model, or end rewriter.base_url with /v1."
        )

    def _failed(self, failure: Failure) -> Failure:
        self._failed_in_a_row[failure.reason] += 1
        if self._failed_in_a_row.total() >= GIVE_UP_AFTER:
            counts = ", ".join(f"{reason}: {n}" for reason, n in self._failed_in_a_row.most_common())
            self._failed_in_a_row.clear()
            raise self._stop(f"failed {GIVE_UP_AFTER} tasks in a row ({counts}). See its own log.")
        return failure

    def _stop(self, what: str) -> ModelError:
        return ModelError(f"The rewriter's server {self.endpoint.base_url} {what}")


def _library() -> Any:
    try:
        import openai
    except ImportError:
        raise ConfigError(
            "rewriter=server needs the package openai: pip install 'harmonize[server]', or use rewriter=rules."
        ) from None
    # A line for every request; with OPENAI_LOG=debug all of the material.
    for name in ("openai", "httpx", "httpx2"):
        logging.getLogger(name).setLevel(logging.WARNING)
    return openai


def _read(answer: Any) -> tuple[str, str, tuple[int, int]] | None:
    """(text, finish reason, tokens) of an answer, or None if it is none."""
    try:
        choice = answer.choices[0]
        text = choice.message.content
    except (AttributeError, IndexError, TypeError, KeyError):
        return None
    if not isinstance(text, str):
        return None
    usage = getattr(answer, "usage", None)
    counts = (getattr(usage, f"{kind}_tokens", None) for kind in ("prompt", "completion"))
    prompt, reply = (n if isinstance(n, int) else 0 for n in counts)
    return text, str(getattr(choice, "finish_reason", "")), (prompt, reply)


def _retry_after(error: Exception | None) -> float | None:
    """Seconds that the server asks for; dates in that header are left to our own backoff."""
    headers = getattr(getattr(error, "response", None), "headers", None) or {}
    try:
        seconds = float(headers.get("retry-after", ""))
    except ValueError:
        return None
    return seconds if 0 <= seconds < float("inf") else None


def _range_problems(
    at_least_one: Mapping[str, Any], above_zero: Mapping[str, Any], not_negative: Mapping[str, Any]
) -> list[str]:
    wrong = [(k, v, "at least 1", 1) for k, v in at_least_one.items() if v is not None and v < 1]
    wrong += [(k, v, "above 0", 60) for k, v in above_zero.items() if v is not None and v <= 0]
    wrong += [(k, v, "at least 0", 1) for k, v in not_negative.items() if v is not None and v < 0]
    return [
        f"rewriter.{k}={v} must be {span}. For example rewriter.{k}={example}."
        for k, v, span, example in wrong
    ]


__all__ = ["CUT_OFF", "DROPPED", "NO_ANSWER", "TIMED_OUT", "UNREADABLE", "Server"]
