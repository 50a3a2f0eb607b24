"""The app that the server and the node are made of."""

from __future__ import annotations

import pytest

from actors.wire.http.app import make_app


def test_paths_are_looked_up_and_never_made_from_names() -> None:
    app = make_app("test", lambda error: None)

    async def say(name: str) -> str:
        return name

    app.add_url_rule("/said/<name>", "say", say)
    paths = app.url_map.bind("here")
    assert paths.match("/said/this") == ("say", {"name": "this"})
    with pytest.raises(LookupError, match="say"):
        paths.build("say", {"name": "this"})
