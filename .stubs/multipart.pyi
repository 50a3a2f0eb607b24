"""What of `multipart` (defnull) is used here; the package has no annotations that checkers may see."""

from collections.abc import Iterator

class MultipartError(ValueError): ...

class MultipartSegment:
    headerlist: list[tuple[str, str]]
    content_type: str | None

class PushMultipartParser:
    def __init__(
        self,
        boundary: str | bytes,
        *,
        max_header_size: int = ...,
        max_header_count: int = ...,
        max_segment_count: int = ...,
    ) -> None: ...
    def parse(self, chunk: bytes | bytearray) -> Iterator[MultipartSegment | bytes | None]: ...
    def close(self, check_complete: bool = ...) -> None: ...

def parse_options_header(header: str) -> tuple[str, dict[str, str]]: ...
