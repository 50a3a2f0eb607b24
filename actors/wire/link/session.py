"""What is said over a link, without the link: messages cut into frames and put together again, questions and
their answers, and who may speak at all. It waits for nothing and knows no socket, so that the same rules hold
on both ends, in a test and in the simulation.

1. Each side's first message is its `Hello`; nothing else counts before. Who dialled does not matter.
   Whoever puts a nonce into it hears nothing more but what is said for a proof, before the other side has
   proved that it has the secret of both (see `proof`), or is let in without.
2. A message goes out in frames of at most `MAX_FRAME` bytes. Frames of the three lanes alternate, so that
   what is urgent waits for no more than one frame, and orders do not wait for results. Within a lane
   messages arrive in the order in which they were given.
3. A question is *not sent* until the first of its frames is taken to be given to the socket, and from that
   moment on *in doubt* until its answer has come. One that was not sent can be withdrawn.
4. Both sides bound what they take in: a frame, a message of each lane, and the questions that are open.

A frame is one byte (the lane, and 0x80 if it ends a message) and a piece of the message. A message is the
length of its head (4 bytes, big-endian), the head (JSON) and a run of bytes.
"""

from __future__ import annotations

import json
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field, fields
from enum import IntEnum
from typing import Any, Final

from actors.wire.link.proof import PUBLIC, Meeting, NotProved, is_nonce, is_same
from actors.wire.protocol.attempts import Garbled

VERSION: Final = 1
OLDEST: Final = 1
"""The oldest version that is spoken here."""
MAX_FRAME: Final = 64 * 1024
MAX_HEAD: Final = 64 << 20
"""A picture of a node is one head."""
UNPROVED: Final = 16 * 1024
"""Bytes of a message of whoever has not proved who it is."""
OPEN: Final = 256
"""Questions of the other side that may be open."""

_LAST: Final = 0x80
AGREEING: Final = frozenset({"offer", "proof", "closed"})
"""Kinds of messages that are heard before a proof: the node's half of a new secret, a proof, and why there is
no link."""

_to_json: Final = json.JSONEncoder(separators=(",", ":"), allow_nan=False).encode
_from_json: Final = json.JSONDecoder().decode
_NUMBERS: Final = frozenset({"version", "oldest", "number", "each", "window"})


class Lane(IntEnum):
    URGENT = 0
    ORDERS = 1
    RESULTS = 2


_LANES: Final = {lane.value: lane for lane in Lane}


class Role:
    ORCHESTRATOR: Final = "orchestrator"
    NODE: Final = "node"


@dataclass(frozen=True, slots=True)
class Hello:
    """Who is at this end. `name`: the orchestrator's id, or the node's. A node tells the `boot` of its
    machine and its `incarnation`; an orchestrator the `number` of the link, which grows, how many bytes of a
    result may come unasked (`each`), and how many of them it holds at once (`window`).

    `nonce`: fresh for this link; "" of who knows no proofs. `offer`: an orchestrator that has no secret with
    this node says its half of one."""

    role: str
    name: str
    version: int = VERSION
    oldest: int = OLDEST
    boot: str = ""
    incarnation: str = ""
    number: int = 0
    each: int = 0
    window: int = 0
    nonce: str = ""
    offer: str = ""

    def to_json(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Hello:
        """Raises Garbled."""
        given: dict[str, Any] = {one.name: data.get(one.name, one.default) for one in fields(cls)}
        for name, value in given.items():
            if type(value) is not (int if name in _NUMBERS else str):
                raise Garbled(f"hello.{name}: missing or no right value")
        hello = cls(**given)
        if (hello.nonce and not is_nonce(hello.nonce)) or len(hello.offer) > PUBLIC:
            raise Garbled("hello.nonce, hello.offer: no right value")
        return hello


@dataclass(frozen=True, slots=True)
class Message:
    """`asks`: the number of a question, `answers`: that of the question which this answers; 0 is none."""

    kind: str
    body: Mapping[str, Any] = field(default_factory=dict)
    blob: bytes = b""
    asks: int = 0
    answers: int = 0

    def encode(self) -> bytes:
        """Raises ValueError for what JSON does not hold."""
        head = {"kind": self.kind, **self.body}
        if self.asks:
            head["asks"] = self.asks
        if self.answers:
            head["answers"] = self.answers
        data = _to_json(head).encode()
        return b"".join((len(data).to_bytes(4, "big"), data, self.blob))


def decode(data: bytes) -> Message:
    """Raises Garbled."""
    end = 4 + int.from_bytes(data[:4], "big")
    try:
        head = _from_json(str(data[4:end], "utf-8")) if end <= len(data) else None
    except (ValueError, RecursionError):
        head = None
    if type(head) is not dict:
        raise Garbled("a message of the link without a head")
    kind, asks, answers = head.pop("kind", None), head.pop("asks", 0), head.pop("answers", 0)
    if type(kind) is not str or type(asks) is not int or type(answers) is not int:
        raise Garbled("a message of the link without a kind")
    return Message(kind, head, data[end:], asks, answers)


@dataclass(eq=False, slots=True)
class Question:
    """One that was asked. `over` is called once it has its answer, or never will. After the link has ended
    one without an answer was never sent, or is in doubt: `sent` says which."""

    number: int
    over: Callable[[], None]
    sent: bool = False
    answer: Message | None = None


@dataclass(eq=False, slots=True)
class _Outgoing:
    data: bytes
    question: Question | None
    at: int = 0


class Session:
    """One end. `most`: bytes of a message that is taken in, for each lane."""

    def __init__(self, hello: Hello, most: Mapping[Lane, int]) -> None:
        self.peer: Hello | None = None
        """Who is at the other end, once it has said so."""
        self.admitted = not hello.nonce
        """Whether all is heard that it says."""
        self._expected: bytes | None = None
        self._hello = hello
        self._most = most
        self._out: dict[Lane, deque[_Outgoing]] = {lane: deque() for lane in Lane}
        self._turn = Lane.ORDERS
        self._partial: dict[Lane, bytearray] = {lane: bytearray() for lane in Lane}
        self._questions: dict[int, Question] = {}
        self._numbers = 0
        self._theirs: set[int] = set()
        self._closed = False
        self.tell(Message("hello", hello.to_json()), Lane.URGENT)

    # ------------------------------------------------------------------ who is there

    def meeting(self) -> Meeting:
        """What this link has begun with, once both have said who they are."""
        assert self.peer is not None
        both = {one.role: one for one in (self._hello, self.peer)}
        owner, node = both[Role.ORCHESTRATOR], both[Role.NODE]
        return Meeting(owner.name, node.name, owner.nonce, node.nonce, owner.number, node.boot)

    @property
    def proves(self) -> bool:
        """Whether something is proved over this link."""
        return bool(self._hello.nonce and self.peer is not None and self.peer.nonce)

    def expect(self, secret: bytes) -> None:
        """The other side is to prove that it has this; what it says after that is heard."""
        self._expected = secret

    def prove(self, secret: bytes) -> None:
        """Prove to the other side that we have this."""
        proof = self.meeting().proof(secret, self._hello.role)
        self.tell(Message("proof", {"proof": proof}), Lane.URGENT)

    def admit(self) -> None:
        """Hear the other side without a proof."""
        self.admitted = True

    def _judge(self, message: Message) -> None:
        """Raises NotProved."""
        assert self.peer is not None
        if self._expected is None or not self.peer.nonce:
            raise NotProved("it proves what it was not asked for")
        if not is_same(str(message.body.get("proof")), self.meeting().proof(self._expected, self.peer.role)):
            raise NotProved("its proof is wrong: it does not have the secret of both")
        self.admitted = True

    # ------------------------------------------------------------------ out

    def tell(self, message: Message, lane: Lane) -> None:
        if message.answers:
            self._theirs.discard(message.answers)
        self._put(message, lane, None)

    def ask(self, message: Message, lane: Lane, over: Callable[[], None]) -> Question:
        """`message` as a question. Of a link that has ended it is over at once."""
        self._numbers += 1
        question = Question(self._numbers, over)
        if self._closed:
            over()
            return question
        self._questions[question.number] = question
        numbered = Message(message.kind, message.body, message.blob, asks=question.number)
        self._put(numbered, lane, question)
        return question

    def withdraw(self, question: Question) -> None:
        """Its answer is not waited for any more. If it was not sent it never will be."""
        self._questions.pop(question.number, None)
        if not question.sent:
            for lane in Lane:
                self._out[lane] = deque(one for one in self._out[lane] if one.question is not question)

    def _put(self, message: Message, lane: Lane, question: Question | None) -> None:
        if not self._closed:
            self._out[lane].append(_Outgoing(message.encode(), question))

    def queued(self, lane: Lane) -> int:
        """Messages of a lane that are not wholly taken."""
        return len(self._out[lane])

    @property
    def has_frames(self) -> bool:
        return any(self._out.values())

    def take_some(self, size: int) -> list[bytes]:
        """The next frames, until they are so many bytes, or all. Whoever takes them gives them to the socket
        next: what they belong to counts as sent."""
        frames: list[bytes] = []
        while size > 0 and (frame := self.take()) is not None:
            frames.append(frame)
            size -= len(frame)
        return frames

    def take(self) -> bytes | None:
        """The next frame, as `take_some` does."""
        lane = self._next_lane()
        if lane is None:
            return None
        queue = self._out[lane]
        first = queue[0]
        if first.question is not None:
            first.question.sent = True
        at = first.at
        first.at = at + MAX_FRAME - 1
        if first.at < len(first.data):
            return bytes((lane,)) + first.data[at : first.at]
        queue.popleft()
        return bytes((lane | _LAST,)) + first.data[at:]

    def _next_lane(self) -> Lane | None:
        if self._out[Lane.URGENT]:
            return Lane.URGENT
        other = Lane.RESULTS if self._turn is Lane.ORDERS else Lane.ORDERS
        for lane in (self._turn, other):
            if self._out[lane]:
                self._turn = Lane.RESULTS if lane is Lane.ORDERS else Lane.ORDERS
                return lane
        return None

    # ------------------------------------------------------------------ in

    def receive(self, frame: bytes) -> Message | None:
        """Take one frame in: the message that it completes, if it has to be heard. Raises Garbled for what
        may not be said; nothing is to be received after that."""
        size = len(frame)
        if not 0 < size <= MAX_FRAME:
            raise Garbled(f"a frame of {size} bytes")
        first = frame[0]
        lane = _LANES.get(first & ~_LAST)
        if lane is None:
            raise Garbled(f"a frame of no lane ({first & ~_LAST})")
        partial = self._partial[lane]
        most = self._most[lane] if self.admitted else UNPROVED
        if len(partial) + size - 1 > most:
            raise Garbled(f"a message of more than {most} bytes")
        if not partial and first & _LAST:
            return self._hear(decode(frame[1:]))
        partial += memoryview(frame)[1:]
        if not first & _LAST:
            return None
        self._partial[lane] = bytearray()
        return self._hear(decode(bytes(partial)))

    def _hear(self, message: Message) -> Message | None:
        if (message.kind == "hello") is (self.peer is not None):
            raise Garbled(f"{message.kind!r} at the wrong time")
        if self.peer is None:
            self.peer = self._meet(Hello.from_json(message.body))
        elif not self.admitted and (message.kind not in AGREEING or message.asks or message.answers):
            raise Garbled(f"{message.kind!r} before it has proved who it is")
        elif message.kind == "proof":
            self._judge(message)
            self._expected = None
        elif message.answers:
            question = self._questions.pop(message.answers, None)
            if question is not None and question.sent:
                question.answer = message
                question.over()
            return None
        elif message.asks:
            if message.asks in self._theirs or len(self._theirs) >= OPEN:
                raise Garbled("a question that is open already, or too many of them")
            self._theirs.add(message.asks)
        return message

    def _meet(self, peer: Hello) -> Hello:
        if peer.role == self._hello.role:
            raise Garbled(f"it is no {peer.role} that was expected")
        if peer.version < self._hello.oldest or self._hello.version < peer.oldest:
            raise Garbled(
                f"it speaks version {peer.version} of the link, {self._hello.version} is spoken here"
            )
        return peer

    def close(self) -> None:
        """The link has ended: nothing more goes out, and nothing is answered."""
        self._closed = True
        for queue in self._out.values():
            queue.clear()
        questions, self._questions = self._questions, {}
        for question in questions.values():
            question.over()


class Fence:
    """The links of a node, one for each orchestrator. The one with the highest number holds: it ends the one
    before, and while it is open no lower one is let in."""

    def __init__(self) -> None:
        self._open: dict[str, tuple[int, object]] = {}

    def newest(self, owner: str) -> int:
        """The number of the link that is open; 0 for none."""
        return self._open.get(owner, (0, None))[0]

    def enter(self, owner: str, number: int, link: object) -> object | None:
        """`link` holds from now on, its number being higher; which has to end before anything is told on
        it."""
        older = self._open.get(owner, (0, None))[1]
        self._open[owner] = number, link
        return older

    def leave(self, owner: str, link: object) -> None:
        if self._open.get(owner, (0, None))[1] is link:
            del self._open[owner]
