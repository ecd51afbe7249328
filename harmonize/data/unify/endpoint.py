"""Where a rewriter's server is, and whether material may be sent there: loopback freely, elsewhere on consent."""

from __future__ import annotations

import ipaddress
import os
import re
import socket
from dataclasses import dataclass
from urllib.parse import SplitResult, urlsplit

_VARIABLE = re.compile(r"[A-Z][A-Z0-9_]*")
_EXAMPLE = "rewriter.base_url=http://localhost:8000/v1"


@dataclass(frozen=True)
class Endpoint:
    """A server and the right to use it.

    Attributes:
        base_url: Up to `/v1`, without credentials.
        api_key_env: Name of the environment variable that holds the key.
        allow_remote: Whether material may leave this machine.
    """

    base_url: str
    api_key_env: str | None = None
    allow_remote: bool = False

    def problems(self) -> list[str]:
        """What is wrong with it, in sentences that never repeat what could be a secret."""
        url = self._url()
        if url is None:
            return [f"rewriter.base_url is no address of a server. Write it as in {_EXAMPLE}."]
        if url.username or url.password or url.query:
            return [
                "rewriter.base_url holds a user name, a password or parameters, which would be recorded with the "
                "data. Put the key into an environment variable: rewriter.api_key_env=OPENAI_API_KEY."
            ]
        return [*self._key_problems(url), *self._place_problems(str(url.hostname))]

    @property
    def key(self) -> str:
        """The key from the environment. Never the library's own default, which may belong to another server."""
        return os.environ.get(self.api_key_env, "") if self.api_key_env else "none"

    @property
    def on_this_machine(self) -> bool:
        """Whether every address of the host is a loopback one."""
        url = self._url()
        return url is not None and is_loopback(str(url.hostname))

    def _url(self) -> SplitResult | None:
        try:
            url = urlsplit(str(self.base_url))
            return url if url.scheme in ("http", "https") and url.hostname and url.port != 0 else None
        except ValueError:
            return None

    def _key_problems(self, url: SplitResult) -> list[str]:
        if self.api_key_env is None:
            return []
        if not _VARIABLE.fullmatch(str(self.api_key_env)):
            return [
                "rewriter.api_key_env is not the name of an environment variable (capitals, digits and underscores). "
                "Keys are never part of a configuration: write rewriter.api_key_env=OPENAI_API_KEY."
            ]
        if not self.key:
            return [
                f"rewriter.api_key_env={self.api_key_env}: this environment variable is not set. "
                f"Type: export {self.api_key_env}=<your key>"
            ]
        if url.scheme == "http" and not is_loopback(str(url.hostname)):
            return [
                "rewriter.base_url would send the key unencrypted. Use https, or rewriter.api_key_env=null."
            ]
        return []

    def _place_problems(self, host: str) -> list[str]:
        if self.allow_remote or is_loopback(host):
            return []
        return [
            f"rewriter.base_url is not on this machine ({host}), and the raw material would be sent there. If that "
            "is what you want, add rewriter.allow_remote=true."
        ]


def is_loopback(host: str) -> bool:
    """Whether a host name or address leads nowhere but to this machine; a name that cannot be resolved does not."""
    try:
        found = {str(entry[4][0]) for entry in socket.getaddrinfo(host, None, type=socket.SOCK_STREAM)}
    except (OSError, UnicodeError):
        return False
    return bool(found) and all(_local(address) for address in found)


def _local(address: str) -> bool:
    ip = ipaddress.ip_address(address.partition("%")[0])
    mapped = getattr(ip, "ipv4_mapped", None)
    return bool((mapped or ip).is_loopback)
