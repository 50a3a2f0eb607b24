"""Write helix_A.pdb and helix_B.pdb: two ideal alpha helices packed against each other, from geometry alone.

Each atom is placed from the three before it by bond length, bond angle and torsion (the "natural extension
reference frame"), with textbook values: phi -57°, psi -47°, omega 180°. The second helix is the first, turned
to face it, crossing it at 25°, as close as it can come without two heavy atoms nearer than 3.4 Å.
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import NamedTuple

Vector = tuple[float, float, float]

SEQUENCE = "AEALAKALEALAKALEALAKAL"
NAMES = {"A": "ALA", "E": "GLU", "K": "LYS", "L": "LEU"}
PHI, PSI, OMEGA = -57.0, -47.0, 180.0
CLOSEST = 3.4  # Å, about the van der Waals contact of two carbons
CROSSING = 25.0  # degrees
TURN = -8.0  # degrees beyond "leucines face the partner": the closest packing that was found

# name: (bonded to, angle with, torsion with, length Å, angle °, torsion °)
Build = tuple[str, str, str, str, float, float, float]
CG: Build = ("CG", "CB", "CA", "N", 1.53, 114.0, -65.0)
CD: Build = ("CD", "CG", "CB", "CA", 1.52, 112.0, 180.0)
SIDE_CHAINS: dict[str, list[Build]] = {
    "A": [],
    "L": [
        ("CG", "CB", "CA", "N", 1.53, 116.0, -65.0),
        ("CD1", "CG", "CB", "CA", 1.52, 110.0, 175.0),
        ("CD2", "CG", "CB", "CA", 1.52, 110.0, 53.0),
    ],
    "E": [CG, CD, ("OE1", "CD", "CG", "CB", 1.25, 118.0, 0.0), ("OE2", "CD", "CG", "CB", 1.25, 118.0, 180.0)],
    "K": [CG, CD, ("CE", "CD", "CG", "CB", 1.52, 112.0, 180.0), ("NZ", "CE", "CD", "CG", 1.49, 112.0, 180.0)],
}


class Placed(NamedTuple):
    """An atom at its place (Å); `number` counts residues from 1."""

    number: int
    residue: str
    name: str
    at: Vector


def build_helix() -> list[Placed]:
    """One helix of SEQUENCE, its axis along z and its middle at the origin."""
    residues: list[dict[str, Vector]] = []
    for position, letter in enumerate(SEQUENCE):
        atoms: dict[str, Vector] = {}
        if position == 0:
            atoms["N"], atoms["CA"] = (0.0, 0.0, 0.0), (1.46, 0.0, 0.0)
            bend = math.radians(180.0 - 111.0)
            atoms["C"] = (1.46 + 1.525 * math.cos(bend), 1.525 * math.sin(bend), 0.0)
        else:
            before = residues[-1]
            atoms["N"] = _place(before["N"], before["CA"], before["C"], (1.329, 116.6, PSI))
            before["O"] = _place(before["N"], before["CA"], before["C"], (1.231, 120.5, PSI + 180.0))
            atoms["CA"] = _place(before["CA"], before["C"], atoms["N"], (1.46, 121.7, OMEGA))
            atoms["C"] = _place(before["C"], atoms["N"], atoms["CA"], (1.525, 111.0, PHI))
        residues.append(atoms)
        atoms["O"] = _place(atoms["N"], atoms["CA"], atoms["C"], (1.231, 120.5, PSI + 180.0))
        atoms["CB"] = _place(atoms["C"], atoms["N"], atoms["CA"], (1.53, 110.5, PHI - 122.5))
        for name, one, two, three, length, angle, torsion in SIDE_CHAINS[letter]:
            atoms[name] = _place(atoms[three], atoms[two], atoms[one], (length, angle, torsion))
    placed = [
        Placed(number, NAMES[letter], name, at)
        for number, (letter, atoms) in enumerate(zip(SEQUENCE, residues, strict=True), start=1)
        for name, at in atoms.items()
    ]
    return _along_z(placed)


def pack(helix: list[Placed]) -> tuple[list[Placed], list[Placed]]:
    """The helix with its leucines towards +x, and its partner beside it, as close as goes without a clash."""
    facing = [atom.at for atom in helix if atom.residue == "LEU" and atom.name.startswith("CD")]
    turn = TURN - math.degrees(math.atan2(sum(at[1] for at in facing), sum(at[0] for at in facing)))
    first = [atom._replace(at=_about_z(atom.at, turn)) for atom in helix]
    # Half a turn about z brings the partner's leucines to the left, towards the first helix.
    partner = [atom._replace(at=_about_x(_about_z(atom.at, 180.0), CROSSING)) for atom in first]
    distance = 4.0
    while True:
        second = [atom._replace(at=(atom.at[0] + distance, atom.at[1], atom.at[2])) for atom in partner]
        if min(math.dist(one.at, other.at) for one in first for other in second) >= CLOSEST:
            return first, second
        distance += 0.05


def pdb_text(atoms: list[Placed], chain: str) -> str:
    """PDB format, version 3.3, its columns."""
    lines = ["REMARK   1 IDEAL ALPHA HELIX FROM GEOMETRY, MADE BY make_helices.py"]
    for serial, atom in enumerate(atoms, start=1):
        x, y, z = atom.at
        lines.append(
            f"ATOM  {serial:5d}  {atom.name:<3s} {atom.residue} {chain}{atom.number:4d}    "
            f"{x:8.3f}{y:8.3f}{z:8.3f}{1.0:6.2f}{20.0:6.2f}          {atom.name[0]:>2s}  "
        )
    lines.append(f"TER   {len(atoms) + 1:5d}      {atoms[-1].residue} {chain}{atoms[-1].number:4d}")
    return "\n".join([*lines, "END", ""])


def _place(a: Vector, b: Vector, c: Vector, bond: tuple[float, float, float]) -> Vector:
    """The atom bonded to c: `bond` is its length, its angle with b, its torsion about b-c to a."""
    length, angle, torsion = bond
    bc = _unit(_minus(c, b))
    normal = _unit(_cross(_minus(b, a), bc))
    across = _cross(normal, bc)
    bend, twist = math.radians(angle), math.radians(torsion)
    along, aside = -length * math.cos(bend), length * math.sin(bend)
    u, v = aside * math.cos(twist), aside * math.sin(twist)
    x, y, z = (c[i] + along * bc[i] + u * across[i] + v * normal[i] for i in range(3))
    return (x, y, z)


def _along_z(atoms: list[Placed]) -> list[Placed]:
    """Turned so that the axis is z. Four CA in a row give it: the second differences point to the axis."""
    trace = [atom.at for atom in atoms if atom.name == "CA"]
    bends = [
        _minus(_minus(trace[i + 1], trace[i]), _minus(trace[i], trace[i - 1]))
        for i in range(1, len(trace) - 1)
    ]
    axis = _unit(_cross(bends[0], bends[1]))
    if sum((trace[-1][i] - trace[0][i]) * axis[i] for i in range(3)) < 0:
        axis = (-axis[0], -axis[1], -axis[2])
    side = _unit(_cross(axis, (0.0, 0.0, 1.0) if abs(axis[2]) < 0.9 else (1.0, 0.0, 0.0)))
    frame = (side, _cross(axis, side), axis)
    turned = [_dot_all(frame, at) for at in trace]
    # The bend of a helix points inward with a length of 2 r (1 - cos 100°): r from it gives the axis's place.
    x, y = _axis_place(turned)
    middle = sum(at[2] for at in turned) / len(turned)
    moved = [(atom, _dot_all(frame, atom.at)) for atom in atoms]
    return [atom._replace(at=(at[0] - x, at[1] - y, at[2] - middle)) for atom, at in moved]


def _axis_place(trace: list[Vector]) -> tuple[float, float]:
    """The centre of the circle through three CA, seen along the axis."""
    (ax, ay, _), (bx, by, _), (cx, cy, _) = trace[0], trace[1], trace[2]
    d = 2 * (ax * (by - cy) + bx * (cy - ay) + cx * (ay - by))
    a, b, c = ax * ax + ay * ay, bx * bx + by * by, cx * cx + cy * cy
    x = (a * (by - cy) + b * (cy - ay) + c * (ay - by)) / d
    y = (a * (cx - bx) + b * (ax - cx) + c * (bx - ax)) / d
    return x, y


def _about_z(at: Vector, degrees: float) -> Vector:
    c, s = math.cos(math.radians(degrees)), math.sin(math.radians(degrees))
    return (c * at[0] - s * at[1], s * at[0] + c * at[1], at[2])


def _about_x(at: Vector, degrees: float) -> Vector:
    c, s = math.cos(math.radians(degrees)), math.sin(math.radians(degrees))
    return (at[0], c * at[1] - s * at[2], s * at[1] + c * at[2])


def _dot_all(frame: tuple[Vector, Vector, Vector], at: Vector) -> Vector:
    x, y, z = (sum(row[i] * at[i] for i in range(3)) for row in frame)
    return (x, y, z)


def _minus(a: Vector, b: Vector) -> Vector:
    return (a[0] - b[0], a[1] - b[1], a[2] - b[2])


def _cross(a: Vector, b: Vector) -> Vector:
    return (a[1] * b[2] - a[2] * b[1], a[2] * b[0] - a[0] * b[2], a[0] * b[1] - a[1] * b[0])


def _unit(a: Vector) -> Vector:
    length = math.hypot(*a)
    return (a[0] / length, a[1] / length, a[2] / length)


def main() -> None:
    here = Path(__file__).parent
    for atoms, chain in zip(pack(build_helix()), "AB", strict=True):
        (here / f"helix_{chain}.pdb").write_text(pdb_text(atoms, chain), encoding="ascii", newline="\n")


if __name__ == "__main__":
    main()
