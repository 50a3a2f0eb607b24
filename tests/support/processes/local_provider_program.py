"""An orchestrator that makes nodes with the provider `local` and does nothing more, until it is killed.

Usage: local_provider_program.py DIRECTORY TOKEN...; it prints a line when all of them are made.
"""

from __future__ import annotations

import sys
from pathlib import Path

import trio

from orchestrator.scaling.providers.local import LocalProvider

OWNER = "ab" * 16


async def main(directory: str, *tokens: str) -> None:
    async def here() -> str:
        return "http://127.0.0.1:9"

    provider = LocalProvider(
        Path(directory), slots={"example": 1}, join_url=here, owner=OWNER, joining=lambda *_: []
    )
    for token in tokens:
        await provider.create(token, "example")
    print("made", flush=True)
    await trio.sleep_forever()


if __name__ == "__main__":
    trio.run(main, *sys.argv[1:])
