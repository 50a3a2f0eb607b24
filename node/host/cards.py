"""Cards of a machine that jobs are given, one to each: those of NVIDIA.

Who has which is kept in a directory, as links that lead nowhere: named by the card, with the key of the
payload written in them. So a restarted node knows it, and no card is ever given twice.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Final

NVIDIA: Final = "nvidia"
_CARD: Final = re.compile(r"nvidia([0-9]{1,4})", re.ASCII)
_FOR_ALL: Final = ("nvidiactl", "nvidia-uvm", "nvidia-uvm-tools", "nvidia-modeset", "nvidia-caps")
"""Devices that every job with a card needs, where they are there."""
_TO_READ: Final = ("/proc/driver/nvidia", "/sys/module/nvidia*", "/sys/bus/pci", "/sys/devices/pci*")


@dataclass(frozen=True, slots=True)
class Card:
    """What comes with a card: its devices, what is to be read besides, and variables that name it."""

    devices: tuple[Path, ...]
    read: tuple[Path, ...]
    environment: dict[str, str]


class Cards:
    """The cards of the machine whose files are in `root`. `is_there` tells of a payload's key whether there
    is still something of it. All but `claim` and `holds` block; what is kept on the disk raises `OSError`."""

    def __init__(self, directory: Path, is_there: Callable[[str], bool], root: Path = Path("/")) -> None:
        self._directory = directory
        self._is_there = is_there
        self._root = root
        self._held: dict[str, int] = {}
        """Card by key."""

    def load(self) -> None:
        """Take up what an earlier process of the node has given."""
        for name, key in self._kept():
            if self._is_there(key):
                self._held[key] = int(name.removeprefix(NVIDIA))
            else:
                (self._directory / name).unlink()

    def _kept(self) -> Iterator[tuple[str, str]]:
        with suppress(FileNotFoundError):
            for name in os.listdir(self._directory):
                if _CARD.fullmatch(name):
                    yield name, os.readlink(self._directory / name)

    def claim(self, key: str) -> bool:
        """Set a card aside for this payload; whether it has one now. Where there are none at all it need not
        wait either."""
        if key in self._held:
            return True
        there = self._numbers()
        free = sorted(there - set(self._held.values()))
        if free:
            self._held[key] = free[0]
        return bool(free) or not there

    def holds(self, key: str) -> bool:
        return key in self._held

    def keep(self, key: str) -> None:
        """Write down what has been claimed."""
        if key in self._held:
            self._directory.mkdir(mode=0o700, exist_ok=True)
            place = self._directory / f"{NVIDIA}{self._held[key]}"
            with suppress(FileNotFoundError):
                # Of a payload that is claimed anew, or has gone without a word.
                place.unlink()
            place.symlink_to(key)

    def give_back(self, key: str) -> None:
        """Harmless when it has none."""
        if key in self._held:
            (self._directory / f"{NVIDIA}{self._held[key]}").unlink(missing_ok=True)
            del self._held[key]

    def given(self, key: str) -> Card | None:
        if key not in self._held:
            return None
        number = self._held[key]
        dev = self._root / "dev"
        devices = [dev / f"{NVIDIA}{number}", *(dev / name for name in _FOR_ALL)]
        read = [path for pattern in _TO_READ for path in sorted(self._root.glob(pattern.lstrip("/")))]
        # By its own name: its number among the cards that a job sees is another one.
        name = self._unique_name(number) or str(number)
        return Card(
            tuple(path for path in devices if path.exists()),
            tuple(read),
            {"CUDA_VISIBLE_DEVICES": name, "NVIDIA_VISIBLE_DEVICES": name},
        )

    def _numbers(self) -> set[int]:
        try:
            names = os.listdir(self._root / "dev")
        except OSError:
            return set()
        return {int(found[1]) for found in map(_CARD.fullmatch, names) if found}

    def _unique_name(self, number: int) -> str:
        for file in self._root.glob("proc/driver/nvidia/gpus/*/information"):
            with suppress(OSError):
                about = dict(line.split(":", 1) for line in file.read_text().splitlines() if ":" in line)
                if about.get("Device Minor", "").strip() == str(number):
                    return about.get("GPU UUID", "").strip()
        return ""
