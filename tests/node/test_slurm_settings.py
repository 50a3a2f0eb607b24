"""What may be set about batch jobs, and what of it `sbatch` is told."""

from __future__ import annotations

from pathlib import Path

import pytest

from actors.config.tables import SettingsError
from actors.domain.batch_request import BatchRequest
from actors.domain.limits import JobLimits
from node.executors.executor import RunSpec
from node.executors.slurm.slurm_executor import make_options
from node.settings import NodeSettings, load_settings
from node.slurm_settings import SlurmOptions


def load(tmp_path: Path, text: str, executor: str = "slurm") -> NodeSettings:
    file = tmp_path / "node.toml"
    file.write_text(text)
    return load_settings({}, {"executor": executor}, file)


def test_a_service_adds_to_what_holds_for_all(tmp_path: Path) -> None:
    settings = load(
        tmp_path,
        """
        [slurm]
        partition = "short"
        memory = "8G"
        [services.a.slurm]
        gpus = "a100:2"
        memory = "1G"
        [services.b]
        network = true
        """,
    )
    assert settings.slurm_options("b") == SlurmOptions(partition="short", memory=8 << 30)
    assert settings.slurm_options("a") == SlurmOptions(partition="short", memory=1 << 30, gpus="a100:2")
    assert settings.grants_of("b").network


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("partition = 3", "slurm.partition"),
        ('partition = "-x"', "slurm.partition"),
        ("cpus = 0", "slurm.cpus"),
        ('memory = "8 apples"', "slurm.memory"),
        ('gpus = "0"', "slurm.gpus"),
        ("time_limit = 5", "slurm.time_limit"),
        ('arguments = ["--requeue"]', "slurm.arguments"),
        ('arguments = ["--arr=1-9"]', "slurm.arguments"),
        ('arguments = ["-a1"]', "slurm.arguments"),
        ('arguments = ["script.sh"]', "slurm.arguments"),
        ('python = "python3"', "slurm.python"),
        ('partion = "short"', "did you mean partition?"),
    ],
)
def test_what_is_wrong_is_told_at_the_start(tmp_path: Path, line: str, said: str) -> None:
    for table in ("[slurm]", "[services.a.slurm]"):
        with pytest.raises(SettingsError) as refused:
            load(tmp_path, f"{table}\n{line}\n")
        (told,) = refused.value.mistakes
        assert said in told, told


def test_what_has_no_effect_is_refused(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match="executor slurm"):
        load(tmp_path, "[slurm]\ncpus = 2\n", "bash")
    with pytest.raises(SettingsError, match="uids"):
        load(tmp_path, 'uids = "70000-80000"\n')


@pytest.mark.parametrize(
    ("options", "limits", "max_runtime", "expected"),
    [
        (SlurmOptions(), JobLimits(), 0.0, set()),
        (SlurmOptions(), JobLimits(), 3600.0, {"--time=61"}),
        (SlurmOptions(time_limit=600.0), JobLimits(), 3600.0, {"--time=10"}),
        (SlurmOptions(time_limit=7200.0), JobLimits(), 0.0, {"--time=120"}),
        (SlurmOptions(memory=8 << 30), JobLimits(memory_bytes=1 << 30), 0.0, {"--mem=1048576K"}),
        (SlurmOptions(memory=1 << 30), JobLimits(memory_bytes=8 << 30), 0.0, {"--mem=1048576K"}),
        (SlurmOptions(), JobLimits(memory_bytes=(1 << 20) + 1), 0.0, {"--mem=1025K"}),
        (
            SlurmOptions("p", "a", "q", cpus=4, gpus="2", arguments=("--x",)),
            JobLimits(),
            0.0,
            {"--partition=p", "--account=a", "--qos=q", "--cpus-per-task=4", "--gres=gpu:2", "--x"},
        ),
    ],
)
def test_what_sbatch_is_told(
    options: SlurmOptions, limits: JobLimits, max_runtime: float, expected: set[str]
) -> None:
    spec = RunSpec("0" * 32, Path("/a%b"), {}, limits=limits, max_runtime=max_runtime)
    told = make_options(options, spec)
    assert {*told[:-3]} == expected
    assert told[-3:] == ["--chdir=/a%b", "--output=/a%%b/slurm.log", "--error=/a%%b/slurm.log"]


def test_what_a_job_asks_for_comes_after_what_its_node_has() -> None:
    node = SlurmOptions("p", "a", "q", cpus=4, gpus="2", arguments=("--partition=other", "--x"))
    asked = BatchRequest(partition="long", cpus=8, gpus="a100:1")
    told = make_options(node, RunSpec("0" * 32, Path("/a"), {}, batch_request=asked))
    assert told[:-3] == [
        *("--partition=p", "--account=a", "--qos=q", "--cpus-per-task=4", "--gres=gpu:2"),
        *("--partition=other", "--x"),
        *("--partition=long", "--cpus-per-task=8", "--gres=gpu:a100:1"),
    ]
