"""Checks who asks: basic and digest authentication of HTTP and RTSP (RFC 2617, RFC 7616)."""

import hashlib
import re
import secrets
from base64 import b64decode
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

Scheme = Literal["basic", "digest", "digest-sha-256"]
REALM = "camera"
_HASHES = {"MD5": hashlib.md5, "SHA-256": hashlib.sha256}
_PARAMETER = re.compile(r'(\w+)=(?:"((?:[^"\\]|\\.)*)"|([^\s,]+))')


@dataclass(frozen=True)
class Login:
    """One attempt. A digest does not show its password."""

    scheme: str
    user: str
    password: str | None
    accepted: bool


@dataclass
class Accounts:
    """Who may watch. Without any user everybody may."""

    passwords: Mapping[str, str] = field(default_factory=dict)
    schemes: tuple[Scheme, ...] = ("digest",)  # offered in this order
    logins: list[Login] = field(default_factory=list)
    nonce: str = field(default_factory=lambda: secrets.token_hex(16))

    def list_challenges(self) -> list[str]:
        """Returns the values of WWW-Authenticate. Like most cameras, MD5 is offered without `qop`."""
        challenges = {
            "basic": f'Basic realm="{REALM}"',
            "digest": f'Digest realm="{REALM}", nonce="{self.nonce}"',
            "digest-sha-256": f'Digest realm="{REALM}", nonce="{self.nonce}", qop="auth", algorithm=SHA-256',
        }
        return [challenges[scheme] for scheme in self.schemes]

    def admit(self, method: str, authorization: str) -> bool:
        """Checks the value of an Authorization header, which is empty if there was none."""
        if not self.passwords:
            return True
        scheme, _, rest = authorization.partition(" ")
        if not rest:
            return False
        login = self._check_basic(rest) if scheme.lower() == "basic" else self._check_digest(method, rest)
        self.logins.append(login)
        return login.accepted

    def _check_basic(self, rest: str) -> Login:
        try:
            user, _, password = b64decode(rest).decode().partition(":")
        except ValueError:
            return Login("basic", "", None, False)
        return Login("basic", user, password, "basic" in self.schemes and self.passwords.get(user) == password)

    def _check_digest(self, method: str, rest: str) -> Login:
        given = {
            name.lower(): bare or re.sub(r"\\(.)", r"\1", quoted) for name, quoted, bare in _PARAMETER.findall(rest)
        }
        user, algorithm = given.get("username", ""), given.get("algorithm", "MD5").upper()
        scheme: Scheme = "digest-sha-256" if algorithm == "SHA-256" else "digest"
        accepted = (
            scheme in self.schemes
            and algorithm in _HASHES
            and user in self.passwords
            and given.get("nonce") == self.nonce
            and given.get("response") == _respond(algorithm, method, self.passwords[user], given)
        )
        return Login(scheme, user, None, accepted)


def _respond(algorithm: str, method: str, password: str, given: Mapping[str, str]) -> str:
    """RFC 2617, 3.2.2: what a client that knows the password answers."""

    def digest(*parts: str) -> str:
        return _HASHES[algorithm](":".join(parts).encode()).hexdigest()

    secret = digest(given["username"], REALM, password)
    request = digest(method, given.get("uri", ""))
    names = ("nonce", "nc", "cnonce", "qop") if "qop" in given else ("nonce",)
    return digest(secret, *(given.get(name, "") for name in names), request)
