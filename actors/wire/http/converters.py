"""Converters of routes that both sides have."""

from __future__ import annotations

from werkzeug.routing import PathConverter


class FilePath(PathConverter):
    """The rest of a path, as the name of a job's file: it may hold any character, line ends too."""

    regex = "[^/](?s:.*?)"
