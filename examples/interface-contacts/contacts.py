"""Interface contacts of two protein structures: `python3 contacts.py FIRST.pdb SECOND.pdb [--cutoff 5.0]`.

Two residues are in contact when any heavy atom of the one is within the cut-off (Å, inclusive) of any
heavy atom of the other. Each file is one side of the interface, whatever chains it holds.

Written to the working directory: `contacts.tsv`, a line for each pair of residues in the order of the files,
and `summary.json`. Python 3.8 and its standard library are enough: a compute node need have no more.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

MILLI = 1000
"""Coordinates are kept as whole thousandths of an Å, which is what a PDB file holds: so a distance equal
to the cut-off is decided exactly, not by how a float was rounded."""

MAX_CUTOFF = 100.0
"""Å. No residue-residue contact is further; far above it the cell list would degrade to all against all."""

BACKBONE = {"N", "CA", "C"}
WATER = {"HOH", "WAT", "DOD"}
COLUMNS = (
    *("chain_1", "residue_1", "name_1", "chain_2", "residue_2", "name_2"),
    *("min_distance", "atom_1", "atom_2", "atom_pairs"),
)


class StructureError(Exception):
    """A file cannot be one side of an interface; the message names the file and what is wrong with it."""


class Residue(NamedTuple):
    """Where a residue stands in its file; `code` is its number with the insertion code (`52A`)."""

    chain: str
    code: str


class Atom(NamedTuple):
    """A heavy atom; coordinates in thousandths of an Å; `line` is its place in the file, for stable order."""

    residue: Residue
    residue_name: str
    name: str
    x: int
    y: int
    z: int
    occupancy: float
    line: int


class Contact(NamedTuple):
    """Two residues in contact: their closest atoms, the square of that distance (milli-Å), all atom pairs."""

    first: Atom
    second: Atom
    squared: int
    atom_pairs: int

    @property
    def distance(self) -> float:
        return math.sqrt(self.squared) / MILLI


def read_atoms(path: Path) -> list[Atom]:
    """The protein's heavy atoms of the first model, in file order, one place for each atom.

    Hydrogen and deuterium, water, ions and ligands are left out; a modified residue that is written as HETATM
    (selenomethionine, say) counts, recognised by its backbone. Raises StructureError.
    """
    try:
        text = path.read_text(encoding="latin-1")  # never fails on the odd byte in a remark
    except OSError as error:
        raise StructureError(f"{path.name}: cannot be read ({error.strerror})") from error
    found: list[Atom] = []
    hetero: dict[Residue, list[Atom]] = {}
    for number, line in enumerate(text.splitlines(), start=1):
        record = line[:6].rstrip()
        if record == "ENDMDL":
            break
        if record not in {"ATOM", "HETATM"} or _is_hydrogen(line):
            continue
        atom = _parse(line, number, path.name)
        if record == "ATOM":
            found.append(atom)
        elif atom.residue_name not in WATER:
            hetero.setdefault(atom.residue, []).append(atom)
    for group in hetero.values():
        if BACKBONE.issubset(atom.name for atom in group):
            found.extend(group)
    if not found:
        raise StructureError(f"{path.name}: no protein atoms in it; expected ATOM records in PDB format")
    return _one_place_each(sorted(found, key=lambda atom: atom.line))


def find_contacts(first: list[Atom], second: list[Atom], cutoff: float) -> list[Contact]:
    """All pairs of residues within `cutoff` Å, in the order of the first and then the second list.

    A cell list: the second side is sorted into cubes as wide as the cut-off, so that each atom of the first
    is held against 27 cubes only. Time grows with the atoms and the pairs in reach, not with the product.
    """
    reach = round(cutoff * MILLI)
    limit = reach * reach
    cells: dict[tuple[int, int, int], list[Atom]] = {}
    for atom in second:
        cells.setdefault((atom.x // reach, atom.y // reach, atom.z // reach), []).append(atom)
    best: dict[tuple[Residue, Residue], Contact] = {}
    for number, one in enumerate(first):
        if number % 250 == 0:
            tell_progress(number / len(first), "comparing atoms")
        for other in _neighbours(cells, one.x // reach, one.y // reach, one.z // reach):
            squared = (one.x - other.x) ** 2 + (one.y - other.y) ** 2 + (one.z - other.z) ** 2
            if squared > limit:
                continue
            pair = (one.residue, other.residue)
            known = best.get(pair)
            if known is None:
                best[pair] = Contact(one, other, squared, 1)
            else:
                pairs = known.atom_pairs + 1
                # The order of the file decides between equals, not the order of the cubes.
                rank = (known.squared, known.first.line, known.second.line)
                closer = (squared, one.line, other.line) < rank
                best[pair] = (
                    Contact(one, other, squared, pairs) if closer else known._replace(atom_pairs=pairs)
                )
    rank_first, rank_second = _ranks(first), _ranks(second)
    return sorted(best.values(), key=lambda c: (rank_first[c.first.residue], rank_second[c.second.residue]))


def summarise(
    paths: list[Path], sides: list[list[Atom]], contacts: list[Contact], cutoff: float
) -> dict[str, object]:
    """What `summary.json` holds: cut-off and closest approach in Å (null without a contact), counts."""
    closest = round(min(contact.distance for contact in contacts), 3) if contacts else None
    return {
        "cutoff_angstrom": cutoff,
        "contacts": len(contacts),
        "atom_pairs": sum(contact.atom_pairs for contact in contacts),
        "min_distance_angstrom": closest,
        "sides": [
            _side(paths[0], sides[0], {contact.first.residue for contact in contacts}),
            _side(paths[1], sides[1], {contact.second.residue for contact in contacts}),
        ],
    }


def write_table(path: Path, contacts: list[Contact]) -> None:
    """A header and a line for each contact; the distance in Å; a chain without a name is written `-`."""
    with path.open("w", encoding="utf-8", newline="\n") as table:
        table.write("\t".join(COLUMNS) + "\n")
        for contact in contacts:
            one, other = contact.first, contact.second
            row = [one.residue.chain or "-", one.residue.code, one.residue_name]
            row += [other.residue.chain or "-", other.residue.code, other.residue_name]
            row += [f"{contact.distance:.3f}", one.name, other.name, str(contact.atom_pairs)]
            table.write("\t".join(row) + "\n")


def _side(path: Path, atoms: list[Atom], interface: set[Residue]) -> dict[str, object]:
    return {
        "file": path.name,
        "chains": sorted({atom.residue.chain for atom in atoms}),
        "residues": len({atom.residue for atom in atoms}),
        "heavy_atoms": len(atoms),
        "interface_residues": len(interface),
    }


def _parse(line: str, number: int, file: str) -> Atom:
    try:
        x, y, z = (round(float(line[start : start + 8]) * MILLI) for start in (30, 38, 46))
        occupancy = float(line[54:60].strip() or 1.0)
    except (ValueError, OverflowError) as error:  # OverflowError: round(inf)
        raise StructureError(
            f"{file}: line {number} has no readable coordinates in columns 31 to 60"
        ) from error
    residue = Residue(line[21].strip(), line[22:27].replace(" ", ""))
    return Atom(residue, line[17:20].strip(), line[12:16].strip(), x, y, z, occupancy, number)


def _is_hydrogen(line: str) -> bool:
    """By the element in columns 77 and 78; without one by the atom's name (`HA`, `1HB`, `HG11`)."""
    element = line[76:78].strip().upper()
    if element.isalpha():
        return element in {"H", "D"}
    return line[12:16].strip().lstrip("0123456789").upper().startswith(("H", "D"))


def _one_place_each(atoms: list[Atom]) -> list[Atom]:
    """Of alternate locations the one with the highest occupancy, the first of equals; of two residue names at
    one place (microheterogeneity) likewise, so that a residue is never a mixture of two."""
    name_of: dict[Residue, tuple[float, str]] = {}
    for atom in atoms:
        if atom.residue not in name_of or atom.occupancy > name_of[atom.residue][0]:
            name_of[atom.residue] = (atom.occupancy, atom.residue_name)
    kept: dict[tuple[Residue, str], Atom] = {}
    for atom in atoms:
        if atom.residue_name != name_of[atom.residue][1]:
            continue
        key = (atom.residue, atom.name)
        if key not in kept or atom.occupancy > kept[key].occupancy:
            kept[key] = atom
    return list(kept.values())


def _neighbours(cells: dict[tuple[int, int, int], list[Atom]], x: int, y: int, z: int) -> Iterator[Atom]:
    for i in (x - 1, x, x + 1):
        for j in (y - 1, y, y + 1):
            for k in (z - 1, z, z + 1):
                yield from cells.get((i, j, k), ())


def _ranks(atoms: list[Atom]) -> dict[Residue, int]:
    ranks: dict[Residue, int] = {}
    for atom in atoms:
        ranks.setdefault(atom.residue, len(ranks))
    return ranks


def _label(atom: Atom) -> str:
    return f"{atom.residue.chain}/{atom.residue_name}{atom.residue.code}/{atom.name}"


def _cutoff(text: str) -> float:
    value = float(text)
    if not 0.001 <= value <= MAX_CUTOFF:  # also refuses nan
        raise ValueError(text)
    return value


def tell_progress(fraction: float, message: str) -> None:
    """How far it is, for those who look at the job; where nobody does, nothing is written."""
    file = os.environ.get("ORCHESTRATOR_PROGRESS")
    if file:
        Path(file).write_text(f"{fraction:.2f} {message}\n", encoding="utf-8")


def main() -> None:
    parser = argparse.ArgumentParser(description="Interface contacts between two protein structures.")
    parser.add_argument("structures", nargs=2, type=Path, metavar="PDB")
    parser.add_argument(
        "--cutoff", default="5.0", help="largest distance of two heavy atoms, in Å (default 5.0)"
    )
    arguments = parser.parse_args()
    try:
        cutoff = _cutoff(arguments.cutoff)
    except ValueError:
        sys.exit(
            f"contacts.py: cut-off {arguments.cutoff!r}: expected a number of Å, 0.001 to {MAX_CUTOFF:g}"
        )
    try:
        sides = [read_atoms(path) for path in arguments.structures]
    except StructureError as error:
        sys.exit(f"contacts.py: {error}")
    contacts = find_contacts(sides[0], sides[1], cutoff)
    summary = summarise(arguments.structures, sides, contacts, cutoff)
    write_table(Path("contacts.tsv"), contacts)
    Path("summary.json").write_text(json.dumps(summary, indent=2) + "\n", encoding="utf-8")
    tell_progress(1.0, f"{len(contacts)} contacts")
    names = " and ".join(path.name for path in arguments.structures)
    print(f"{len(contacts)} residue contacts within {cutoff:g} Å between {names}")
    for contact in sorted(contacts, key=lambda c: c.squared)[:5]:
        print(f"  {contact.distance:6.3f} Å  {_label(contact.first)}  {_label(contact.second)}")


if __name__ == "__main__":
    main()
