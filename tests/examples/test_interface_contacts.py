"""The example's computation, run as a node runs it, against a brute-force count over all pairs of atoms."""

from __future__ import annotations

import csv
import importlib.util
import json
import math
import os
import shutil
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest

EXAMPLE = Path(__file__).parents[2] / "examples" / "interface-contacts"
Pairs = dict[tuple[str, str], tuple[float, int]]


def structures() -> list[tuple[Path, Path]]:
    """The project's own pair, and every *_A.pdb with its *_B.pdb in ORCHESTRATOR_EXTRA_STRUCTURES."""
    pairs = [(EXAMPLE / "helix_A.pdb", EXAMPLE / "helix_B.pdb")]
    extra = os.environ.get("ORCHESTRATOR_EXTRA_STRUCTURES")
    if extra:
        found = sorted(Path(extra).glob("*_A.pdb"))
        pairs += [(first, first.with_name(first.name.replace("_A.pdb", "_B.pdb"))) for first in found]
    return pairs


def run(directory: Path, *files: Path, **more: str) -> subprocess.CompletedProcess[str]:
    """run.sh in `directory`, beside the script and `files`, with the sparse environment of a sandbox."""
    for file in (EXAMPLE / "run.sh", EXAMPLE / "contacts.py", *files):
        shutil.copy(file, directory)
    environment = {"PATH": f"{Path(sys.executable).parent}:/usr/bin:/bin", **more}
    return subprocess.run(
        ["bash", str(directory / "run.sh")],
        cwd=directory,
        env=environment,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        encoding="utf-8",
        check=False,
    )


def brute_force(first: Path, second: Path, cutoff: float) -> Pairs:
    """By (chain + number + insertion code) of both: the smallest distance and the number of atom pairs."""
    sides: list[list[tuple[str, tuple[float, ...]]]] = []
    for path in (first, second):
        lines = [line for line in path.read_text().splitlines() if line.startswith("ATOM")]
        heavy = [line for line in lines if line[76:78].strip() not in {"H", "D"}]
        places = [tuple(float(line[at : at + 8]) for at in (30, 38, 46)) for line in heavy]
        sides.append([(line[21:27].replace(" ", ""), at) for line, at in zip(heavy, places, strict=True)])
    pairs: Pairs = {}
    for one, here in sides[0]:
        for other, there in sides[1]:
            distance = math.dist(here, there)
            if distance <= cutoff + 1e-9:
                least, count = pairs.get((one, other), (math.inf, 0))
                pairs[one, other] = (min(least, distance), count + 1)
    return pairs


def table(directory: Path) -> Pairs:
    with (directory / "contacts.tsv").open(encoding="utf-8") as lines:
        return {
            (row["chain_1"] + row["residue_1"], row["chain_2"] + row["residue_2"]): (
                float(row["min_distance"]),
                int(row["atom_pairs"]),
            )
            for row in csv.DictReader(lines, delimiter="\t")
        }


def atom(
    serial: int, name: str, residue: str, number: str, x: float, *, record: str = "ATOM", rest: str = ""
) -> str:
    """A PDB line on the x axis; `number` is 5 wide with its insertion code; `rest` is occupancy onwards."""
    head = f"{record:<6}{serial:5d} {name:<4}{residue:>4} A{number}   "
    return f"{head}{x:8.3f}{0.0:8.3f}{0.0:8.3f}{rest or '  1.00 20.00'}"


def write(path: Path, *lines: str, end: str = "\n") -> Path:
    path.write_text(end.join([*lines, "END", ""]), newline="")
    return path


@pytest.mark.parametrize("cutoff", [None, "3.5", "8", "30"])
@pytest.mark.parametrize("pair", structures(), ids=lambda pair: pair[0].stem)
def test_contacts_are_those_of_a_brute_force_count(
    tmp_path: Path, pair: tuple[Path, Path], cutoff: str | None
) -> None:
    if cutoff:
        (tmp_path / "cutoff.txt").write_text(f"{cutoff}\r\n")
    done = run(tmp_path, *pair)
    assert (done.returncode, done.stderr) == (0, "")
    expected = brute_force(*pair, float(cutoff or 5.0))
    found = table(tmp_path)
    assert found.keys() == expected.keys()
    for residues, (distance, count) in expected.items():
        assert found[residues][0] == pytest.approx(distance, abs=6e-4)
        assert found[residues][1] == count
    summary = json.loads((tmp_path / "summary.json").read_text())
    assert summary["contacts"] == len(expected)
    assert summary["atom_pairs"] == sum(count for _, count in expected.values())
    assert done.stdout.startswith(f"{len(expected)} residue contacts within ")


def test_the_projects_helices_touch_in_ten_pairs_without_a_clash(tmp_path: Path) -> None:
    run(tmp_path, EXAMPLE / "helix_A.pdb", EXAMPLE / "helix_B.pdb")
    found = table(tmp_path)
    assert len(found) == 10
    assert min(distance for distance, _ in found.values()) >= 3.4


def test_the_structures_are_what_their_generator_writes() -> None:
    generator = load("make_helices")
    for atoms, chain in zip(generator.pack(generator.build_helix()), "AB", strict=True):
        stored = (EXAMPLE / f"helix_{chain}.pdb").read_text().splitlines()
        made = generator.pdb_text(atoms, chain).splitlines()
        assert [line[:30] + line[54:] for line in made] == [line[:30] + line[54:] for line in stored]
        for one, other in zip(made, stored, strict=True):
            if one.startswith("ATOM"):  # the last digit may differ with the machine's sine
                places = [[float(line[at : at + 8]) for at in (30, 38, 46)] for line in (one, other)]
                assert places[0] == pytest.approx(places[1], abs=0.0021)


def test_a_distance_that_equals_the_cut_off_is_a_contact(tmp_path: Path) -> None:
    first = write(tmp_path / "1.pdb", atom(1, " CA", "ALA", "   1 ", 0.1))
    at_limit = atom(1, " CA", "ALA", "   1 ", 5.1)
    beyond = atom(2, " CA", "ALA", "   2 ", 5.101)
    second = write(tmp_path / "2.pdb", at_limit, beyond)
    assert contacts(first, second) == [("1", "1")]


def test_insertion_codes_tell_residues_apart_and_the_first_model_counts(tmp_path: Path) -> None:
    first = write(
        tmp_path / "1.pdb",
        "MODEL        1",
        atom(1, " CA", "ALA", "  52 ", 0),
        atom(2, " CA", "GLY", "  52A", 1),
        "ENDMDL",
        "MODEL        2",
        atom(1, " CA", "ALA", "  99 ", 0),
        "ENDMDL",
        end="\r\n",
    )
    second = write(tmp_path / "2.pdb", atom(1, " CA", "ALA", "  -3 ", 2))
    assert contacts(first, second) == [("52", "-3"), ("52A", "-3")]


def test_of_alternate_locations_the_highest_occupancy_counts_and_the_first_of_equals(tmp_path: Path) -> None:
    first = write(
        tmp_path / "1.pdb",
        atom(1, " CA", "ALA", "   1 ", 0, rest="  0.40 20.00"),
        atom(2, " CA", "ALA", "   1 ", 50, rest="  0.60 20.00"),
        atom(3, " CA", "ALA", "   2 ", 0, rest="  0.50 20.00"),
        atom(4, " CA", "ALA", "   2 ", 50, rest="  0.50 20.00"),
    )
    second = write(tmp_path / "2.pdb", atom(1, " CA", "ALA", "   7 ", 0))
    assert contacts(first, second) == [("2", "7")]


def test_hydrogens_water_ions_and_ligands_are_left_out_and_modified_residues_are_not(tmp_path: Path) -> None:
    element = "  1.00 20.00          "
    first = write(
        tmp_path / "1.pdb",
        atom(1, " CA", "ALA", "   1 ", 90),
        atom(2, " HA", "ALA", "   1 ", 0, rest=f"{element} H"),
        atom(3, "1HB", "ALA", "   2 ", 0),
        atom(4, "HG11", "VAL", "   3 ", 0),
        atom(5, " D", "VAL", "   4 ", 0, rest=f"{element} D"),
        atom(6, " O", "HOH", "   5 ", 0, record="HETATM"),
        atom(7, "CA", "CA", "   6 ", 0, record="HETATM"),
        atom(8, " C1", "LIG", "   7 ", 0, record="HETATM"),
        *(atom(9, name, "MSE", "   8 ", 0, record="HETATM") for name in (" N", " CA", " C", "SE")),
    )
    second = write(tmp_path / "2.pdb", atom(1, " CA", "ALA", "   1 ", 1))
    assert contacts(first, second) == [("8", "1")]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "b.pdb: no protein atoms in it"),
        ("HETATM    1  O   HOH A   1       0.000   0.000   0.000\n", "b.pdb: no protein atoms in it"),
        ("ATOM      1  CA  ALA A   1       0.000   zero    0.000\n", "b.pdb: line 1 has no readable"),
        ("ATOM      1  CA  ALA A   1       0.000     nan   0.000\n", "b.pdb: line 1 has no readable"),
        ("ATOM\n", "b.pdb: line 1 has no readable"),
    ],
)
def test_a_file_that_is_no_structure_ends_with_one_line_that_names_it(
    tmp_path: Path, text: str, said: str
) -> None:
    (tmp_path / "b.pdb").write_text(text)
    done = run(tmp_path, EXAMPLE / "helix_A.pdb")
    assert done.returncode == 1
    assert said in done.stderr
    assert done.stderr.count("\n") == 1
    assert not (tmp_path / "contacts.tsv").exists()


@pytest.mark.parametrize("cutoff", ["five", "0", "-1", "nan", "1e9", ""])
def test_a_cut_off_that_is_no_distance_is_refused_in_one_line(tmp_path: Path, cutoff: str) -> None:
    (tmp_path / "cutoff.txt").write_text(cutoff)
    done = run(tmp_path, EXAMPLE / "helix_A.pdb", EXAMPLE / "helix_B.pdb")
    assert done.returncode == 1
    assert f"cut-off {cutoff!r}: expected" in done.stderr


def test_another_number_of_structures_is_refused_with_what_was_found(tmp_path: Path) -> None:
    done = run(tmp_path, EXAMPLE / "helix_A.pdb")
    assert done.returncode == 2
    assert done.stderr == "run.sh: expected two *.pdb files, found 1: helix_A.pdb\n"


def test_file_names_with_spaces_dashes_and_capitals_are_taken_in_sorted_order(tmp_path: Path) -> None:
    shutil.copy(EXAMPLE / "helix_B.pdb", tmp_path / "second side.PDB")
    shutil.copy(EXAMPLE / "helix_A.pdb", tmp_path / "--help.pdb")
    done = run(tmp_path)
    assert (done.returncode, done.stderr) == (0, "")
    sides = json.loads((tmp_path / "summary.json").read_text())["sides"]
    assert [(side["file"], side["chains"]) for side in sides] == [
        ("--help.pdb", ["A"]),
        ("second side.PDB", ["B"]),
    ]


def test_it_tells_how_far_it_is(tmp_path: Path) -> None:
    (tmp_path / "work").mkdir()
    said = tmp_path / "progress"
    done = run(tmp_path / "work", *structures()[0], ORCHESTRATOR_PROGRESS=str(said))
    assert done.returncode == 0
    assert said.read_text() == "1.00 10 contacts\n"


def test_what_the_node_gets_has_unix_line_ends_and_is_small() -> None:
    for name in ("run.sh", "contacts.py", "helix_A.pdb", "helix_B.pdb"):
        content = (EXAMPLE / name).read_bytes()
        assert b"\r" not in content
        assert len(content) < 20_000


def contacts(first: Path, second: Path) -> list[tuple[str, str]]:
    module = load("contacts")
    found = module.find_contacts(module.read_atoms(first), module.read_atoms(second), 5.0)
    return [(contact.first.residue.code, contact.second.residue.code) for contact in found]


def load(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(f"interface_{name}", EXAMPLE / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module
