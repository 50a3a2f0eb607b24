r"""The `Content-Disposition` header of a multipart part, both ways.

The same local file goes under different spellings, by client:

* browsers, curl, requests: `"` as `%22`, CR and LF as `%0D` and `%0A`, a backslash as it is;
* httpx: `"` as `%22`, a backslash doubled;
* Go: both with a backslash before them;
* anything old or careful: `filename*=UTF-8''…` (RFC 8187), alone or beside a plain one.

`parse` reads all of them. A few names are ambiguous in the plain form (`a%22b`, two backslashes in a row);
`build` writes what browsers write and, where that does not read back as itself, the extended form too.
"""

from __future__ import annotations

import re
from functools import lru_cache
from typing import Final
from urllib.parse import quote, unquote_to_bytes

from actors.wire.errors import BadRequest
from actors.wire.files.names import printable

_PARAMETER: Final = re.compile(r"[ \t]*;[ \t]*([A-Za-z0-9!#$%&'*+.^_`|~-]+)[ \t]*=[ \t]*")
_TOKEN: Final = re.compile(r'[^\s;"]*')
# A backslash before a quote or a backslash escapes it, any other is itself. No two alternatives overlap.
_ESCAPED: Final = re.compile(r'"((?:\\["\\]|\\(?!["\\])|[^"\\])*)"(?=[ \t]*(?:;|\Z))')
_RAW: Final = re.compile(r'"([^"]*)"(?=[ \t]*(?:;|\Z))')
_PAIR: Final = re.compile(r'\\(["\\])')
_EXTENDED: Final = re.compile(r"([A-Za-z0-9-]+)'[A-Za-z0-9-]*'((?:[A-Za-z0-9!#$&+.^_`|~-]|%[0-9A-Fa-f]{2})*)")
_CONTROL: Final = re.compile(r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f]")
_CHARSETS: Final = {"utf-8": "utf-8", "iso-8859-1": "latin-1"}


@lru_cache(maxsize=128)  # most forms have the same fields, and files of the same names
def parse(header: str) -> tuple[str, str | None]:
    """The part's name and its file name, None if it is a text field. Raises BadRequest when the header is
    malformed, or a file name is there but cannot be read."""
    kind, _, _ = header.partition(";")
    if kind.strip().lower() != "form-data":
        raise BadRequest(f"malformed multipart: Content-Disposition {printable(header)} is not form-data")
    given = _parameters(header, len(kind))
    name = _chosen("name", given)
    if name is None:
        raise BadRequest(f"malformed multipart: a part has no name in {printable(header)}")
    for key in given:
        if key.startswith("filename") and key not in ("filename", "filename*"):
            raise BadRequest(f"malformed multipart: the file name's form {printable(key)} is not understood")
    return name, _chosen("filename", given)


def build(name: str, filename: str | None) -> bytes:
    """The header's value. Raises BadRequest for a name that is no text or holds control characters."""
    pieces = ["form-data"]
    try:
        for key, value in (("name", name), ("filename", filename)):
            if value is None:
                continue
            if _CONTROL.search(value):
                raise BadRequest(f"name {printable(value)}: control characters cannot be sent")
            plain = _format_value(value)
            pieces.append(f'{key}="{plain}"')
            if _plain(plain) != value:
                pieces.append(f"{key}*=UTF-8''{quote(value, safe='')}")
        return "; ".join(pieces).encode()
    except UnicodeEncodeError:
        raise BadRequest(f"name {printable(filename or name)}: it is no text") from None


def _format_value(value: str) -> str:
    plain = value.replace('"', "%22").replace("\r", "%0D").replace("\n", "%0A")
    # Backslashes at the end are doubled, or readers that know escapes would take the closing quote for one.
    return plain + "\\" * (len(plain) - len(plain.rstrip("\\")))


def _plain(inner: str) -> str:
    unescaped = _PAIR.sub(r"\1", inner)
    return unescaped.replace("%22", '"').replace("%0D", "\r").replace("%0A", "\n")


def _parameters(header: str, start: int) -> dict[str, str]:
    """Every parameter; a plain one is decoded, an extended one (`name*`) still as it was sent."""
    given: dict[str, str] = {}
    at = start
    while header[at:].strip(" \t;"):
        match = _PARAMETER.match(header, at)
        if match is None:
            raise _malformed(header)
        key = match.group(1).lower()
        decode = (lambda inner: inner) if key.endswith("*") else _plain
        at = match.end()
        if not header.startswith('"', at):
            token = _TOKEN.match(header, at)
            value = decode(token.group()) if token else ""
        elif token := _ESCAPED.match(header, at):
            value = decode(token.group(1))
        elif token := _RAW.match(header, at):
            # A browser's name that ends in a backslash: it only looks as if the quote were escaped.
            value = token.group(1)
        else:
            raise _malformed(header)
        at = token.end() if token else at
        if key in given:
            raise BadRequest(f"malformed multipart: {key} is there twice in {printable(header)}")
        given[key] = value
    return given


def _chosen(key: str, given: dict[str, str]) -> str | None:
    """The extended form if it is there and valid, else the plain one."""
    extended, plain = given.get(f"{key}*"), given.get(key)
    if extended is None:
        return plain
    match = _EXTENDED.fullmatch(extended)
    charset = _CHARSETS.get(match.group(1).lower()) if match else None
    if match and charset:
        try:
            return unquote_to_bytes(match.group(2)).decode(charset)
        except UnicodeDecodeError:
            charset = None
    if plain is None:
        raise BadRequest(f"malformed multipart: {key}*={printable(extended)} cannot be read")
    return plain


def _malformed(header: str) -> BadRequest:
    return BadRequest(f"malformed multipart: Content-Disposition {printable(header)}")
