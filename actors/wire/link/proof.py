"""How an orchestrator and a node prove to each other that they are who they were, without ever sending what
proves it.

Each pair of them has a secret of 32 random-looking bytes. They have agreed on it once (see `Offer`), by
Diffie-Hellman over a group that is published (RFC 3526, group 14). Who agrees with whom is settled by a key
that both have: what a join token yields; without one it is empty, and the first who comes is believed.

A proof is an HMAC over all that a link begins with: who is who, a fresh number from each side, the link's
number and the boot of the node's machine. So none is good for another link, another pair, or the other side.
Of the secret and the same things comes a key with which requests beside the link are proved, each by a number
that counts once.
"""

from __future__ import annotations

import hashlib
import hmac
import secrets
from dataclasses import dataclass
from typing import Final
from urllib.parse import unquote

from actors.wire.errors import WireError

SECRET: Final = 32
NONCE: Final = 32
"""Hex digits."""
PUBLIC: Final = 512
"""Hex digits."""

_PRIME: Final = int(
    "FFFFFFFFFFFFFFFFC90FDAA22168C234C4C6628B80DC1CD129024E088A67CC74020BBEA63B139B22514A08798E3404DD"
    "EF9519B3CD3A431B302B0A6DF25F14374FE1356D6D51C245E485B576625E7EC6F44C42E9A637ED6B0BFF5CB6F406B7ED"
    "EE386BFB5A899FA5AE9F24117C4B1FE649286651ECE45B3DC2007CB8A163BF0598DA48361C55D39A69163FA8FD24CF5F"
    "83655D23DCA3AD961C62F356208552BB9ED529077096966D670C354E4ABC9804F1746C08CA18217C32905E462E36CE3B"
    "E39E772C180E86039B2783A2EC07A28FB5C55DF06F4C52C9DE2BCBF6955817183995497CEA956AE515D2261898FA0510"
    "15728E5A8AACAA68FFFFFFFFFFFFFFFF",
    16,
)
_GENERATOR: Final = 2
_EXPONENT: Final = 320
"""Bits: more than twice what the group is worth."""


class NotProved(WireError):
    """Whoever it is does not have the secret."""


@dataclass(frozen=True, slots=True)
class Meeting:
    """What a link begins with, of both sides: `asked` is the orchestrator's nonce, `answered` the node's."""

    owner: str
    node_id: str
    asked: str
    answered: str
    number: int
    boot: str

    def proof(self, secret: bytes, role: str) -> str:
        """Of the side with that role."""
        return self._mac(secret, "proof", role).hex()

    def session_key(self, secret: bytes) -> bytes:
        """With which requests beside this link are proved."""
        return self._mac(secret, "requests")

    def _mac(self, key: bytes, what: str, role: str = "") -> bytes:
        parts = (what, role, self.owner, self.node_id, self.asked, self.answered, str(self.number), self.boot)
        return mac(key, *parts)


class Offer:
    """One side's half of an agreement. Making one and agreeing each take about 3 ms of a CPU, and no other
    thread goes on meanwhile: one of its own would be of no use."""

    def __init__(self) -> None:
        self._private = secrets.randbits(_EXPONENT) | 1 << (_EXPONENT - 1)
        self.public: Final = f"{pow(_GENERATOR, self._private, _PRIME):0{PUBLIC}x}"
        """To be sent to the other side."""

    def agree(self, theirs: str, meeting: Meeting, key: str) -> bytes:
        """The secret. Raises NotProved for what is no other side's half."""
        other = parse_public(theirs)
        shared = f"{pow(other, self._private, _PRIME):0{PUBLIC}x}"
        # In an order that both sides know.
        publics = sorted((self.public, theirs))
        who = (meeting.owner, meeting.node_id, meeting.asked, meeting.answered)
        return mac(key.encode(), "node secret", *who, *publics, shared)


def parse_public(text: str) -> int:
    """Raises NotProved."""
    if len(text) != PUBLIC or not _is_hex(text) or not 1 < (number := int(text, 16)) < _PRIME - 1:
        raise NotProved("what it offers for a secret is none")
    return number


def join_key(token_hash: str, said: str) -> str:
    """The key that a token yields for the pair that joins by it: of the hash of the token, as the server
    keeps it, and a nonce that the node said when it joined. Whoever steals the token later has no use of
    it for this pair."""
    return mac(token_hash.encode(), "join", said).hex()


def hash_of(token: str) -> str:
    """Of a token, 64 hex digits. It is random enough for a plain one."""
    return hashlib.sha256(token.encode("utf-8", "surrogateescape")).hexdigest()


def new_nonce() -> str:
    return secrets.token_hex(NONCE // 2)


def is_nonce(text: object) -> bool:
    return isinstance(text, str) and len(text) == NONCE and _is_hex(text)


def is_same(one: str, other: str) -> bool:
    """Whether two proofs are alike; how long that takes does not tell where they differ."""
    return hmac.compare_digest(one.encode("utf-8", "replace"), other.encode("utf-8", "replace"))


def mac(key: bytes, *parts: str) -> bytes:
    """HMAC-SHA256 over texts, each with its length: no two lists of them are alike."""
    encoded = [text.encode("utf-8", "surrogateescape") for text in parts]
    data = b"".join(len(part).to_bytes(4, "big") + part for part in encoded)
    return hmac.digest(key, data, "sha256")


def _is_hex(text: str) -> bool:
    return all(letter in "0123456789abcdef" for letter in text)


# ---------------------------------------------------------------------- requests beside a link

PROOF_HEADER: Final = "X-Link-Proof"
_WINDOW: Final = 4096
"""Numbers for which a request may come late: they overtake each other on their connections."""


class Prover:
    """Proves the requests of one link."""

    def __init__(self, owner: str, number: int, key: bytes) -> None:
        self._who = f"{owner}:{number}"
        self._key = key
        self._count = 0

    def header(self, method: str, path: str, query: str = "") -> str:
        """The value of `PROOF_HEADER` for one request; the path begins with `/v1`."""
        self._count += 1
        return f"{self._who}:{self._count}:{_proof(self._key, method, path, query, self._count)}"


class Judge:
    """Judges the requests of one link."""

    def __init__(self, number: int, key: bytes) -> None:
        self.number: Final = number
        self._key = key
        self._newest = 0
        self._seen = 0
        """Which of the `_WINDOW` numbers up to the newest have come: the lowest bit is the newest."""

    def judge(self, claim: Claim, method: str, path: str, query: str = "") -> None:
        """Take a request's number. Raises NotProved: also for one that has come before, or far too late."""
        if claim.number != self.number:
            raise NotProved("it is of another link")
        if not is_same(claim.proof, _proof(self._key, method, path, query, claim.count)):
            raise NotProved("it does not prove this request")
        if not self._count(claim.count):
            raise NotProved("its number has come before")

    def _count(self, count: int) -> bool:
        ahead = count - self._newest
        if ahead > 0:
            self._seen = ((self._seen << min(ahead, _WINDOW)) | 1) & ((1 << _WINDOW) - 1)
            self._newest = count
            return True
        if -ahead >= _WINDOW or self._seen >> -ahead & 1:
            return False
        self._seen |= 1 << -ahead
        return True


@dataclass(frozen=True, slots=True)
class Claim:
    """What a request says of itself."""

    owner: str
    number: int
    count: int
    proof: str

    @classmethod
    def parse(cls, text: str) -> Claim:
        """Raises NotProved."""
        parts = text.split(":")
        if len(parts) != 4 or not all(_is_number(part) for part in parts[1:3]):
            raise NotProved(f"{PROOF_HEADER} is none")
        return cls(parts[0], int(parts[1]), int(parts[2]), parts[3])


def prove_join(secret: bytes, method: str, path: str, body: str, challenge: str) -> str:
    """That a node asks which has the secret; `body` is the SHA-256 of the request's body, in hex."""
    return mac(secret, "join", method, path, body, challenge).hex()


def _is_number(text: str) -> bool:
    return text.isascii() and text.isdigit() and len(text) <= 20


def _proof(key: bytes, method: str, path: str, query: str, count: int) -> str:
    # Whatever stands between both may write a path in another way.
    return mac(key, "request", method, unquote(path), query, str(count)).hex()
