from __future__ import annotations

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from actors.wire.errors import BadRequest
from actors.wire.multipart import content_disposition


@pytest.mark.parametrize(
    ("rest", "filename"),
    [
        ('name="file"; filename="a%22b.pdb"', 'a"b.pdb'),  # curl, requests, browsers, httpx
        ('name="file"; filename="a\\"b.pdb"', 'a"b.pdb'),  # Go
        ('name="file"; filename="a\\b.pdb"', "a\\b.pdb"),  # curl, requests, browsers
        ('name="file"; filename="a\\\\b.pdb"', "a\\b.pdb"),  # httpx, Go
        ('name="file"; filename="a\\"', "a\\"),  # a browser, the name ends in a backslash
        ('filename="a\\"; name="file"', "a\\"),
        ('name="file"; filename="C:\\new\\in.pdb"', "C:\\new\\in.pdb"),
        ('name="file"; filename="a%0D%0Ab"', "a\r\nb"),
        ('name="file"; filename="100%25.pdb"', "100%25.pdb"),
        ('name="file"; filename="a;b=c.pdb"', "a;b=c.pdb"),
        ('name="file"; filename=""', ""),
        ("name=file; filename=in.pdb", "in.pdb"),
        ('name="file" ; FileName = "in.pdb" ;', "in.pdb"),
        ('name="file";filename="in.pdb"', "in.pdb"),
        ("name=\"file\"; filename*=UTF-8''%E2%82%AC%20rates.pdb", "€ rates.pdb"),
        ("name=\"file\"; filename*=utf-8'en'x.pdb", "x.pdb"),
        ("name=\"file\"; filename*=iso-8859-1''%A3.pdb", "£.pdb"),
        ('name="file"; filename*="UTF-8\'\'%E2%82%AC"', "€"),
        ('name="file"; filename="plain"; filename*=UTF-8\'\'%C3%A9', "é"),
        ('name="file"; filename*=UTF-8\'\'a%2522b; filename="x"', "a%22b"),
        ('name="file"; filename="plain"; filename*=UTF-8\'\'%FF%FE', "plain"),
        ('name="file"; filename="plain"; filename*=klingon\'\'x', "plain"),
        ('name="file"', None),
        ('name="file"; comment="filename=x"', None),
    ],
)
def test_each_client_s_spelling_gives_the_file_s_name(rest: str, filename: str | None) -> None:
    assert content_disposition.parse("form-data; " + rest) == ("file", filename)


@pytest.mark.parametrize(
    "header",
    [
        "form-data; name=\"file\"; filename*=UTF-8''%FF%FE",
        "form-data; name=\"file\"; filename*=klingon''x",
        "form-data; name=\"file\"; filename*=UTF-8''%E2%8",
        'form-data; name="file"; filename*=x',
        'form-data; name="file"; filename*0="a"; filename*1="b"',
        'form-data; name="file"; filename="a"; filename="b"',
        'form-data; name="file"; filename="a',
        'form-data; name="file"; filename="a"b.pdb"',
        'form-data; name="file"; nonsense',
        'form-data; filename="a"',
        'attachment; name="file"',
        "",
    ],
)
def test_a_header_that_cannot_be_read_is_refused_and_not_taken_for_a_text_field(header: str) -> None:
    with pytest.raises(BadRequest):
        content_disposition.parse(header)


_NAMES = st.text(
    alphabet=st.characters(codec="utf-8", exclude_categories=["Cc"]) | st.sampled_from("\\\"%2;= \r\n\tDA*'0")
)


@given(_NAMES, st.none() | _NAMES)
@example("a\\", ";x\\")
@example('\\"', "\\\\%22")
@example("a%22b", "\\\\srv\\x")
def test_every_name_comes_back_as_it_was(name: str, filename: str | None) -> None:
    built = content_disposition.build(name, filename)
    assert b"\r" not in built
    assert b"\n" not in built
    assert content_disposition.parse(built.decode()) == (name, filename)


def test_names_are_written_as_browsers_write_them() -> None:
    assert (
        content_disposition.build("file", 'a"b\\c é.pdb')
        == 'form-data; name="file"; filename="a%22b\\c é.pdb"'.encode()
    )


@pytest.mark.parametrize("name", ["\udcff", "\0", "a\x1fb", "\x7f"])
def test_a_name_that_cannot_be_sent_is_refused(name: str) -> None:
    with pytest.raises(BadRequest):
        content_disposition.build("file", name)
    with pytest.raises(BadRequest):
        content_disposition.build(name, None)
