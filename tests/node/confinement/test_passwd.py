from __future__ import annotations

from pathlib import Path
from typing import Final

from node.confinement.passwd import make_accounts

PASSWD: Final = """root:x:0:0:root:/root:/bin/bash
daemon:x:1:1:daemon:/usr/sbin:/usr/sbin/nologin
ann:x:1000:1000:Ann,Room 5:/home/ann:/bin/zsh
nobody:x:65534:65534:nobody:/nonexistent:/usr/sbin/nologin
+::::::
broken:x:one
"""
GROUP: Final = """root:x:0:ann
daemon:x:1:
docker:x:998:ann
ann:x:1000:
databases:x:2000:ann
nogroup:x:65534:
"""


def test_a_uid_of_its_own_is_job_among_the_systems_accounts() -> None:
    made = make_accounts(2_000_000_001, 2_000_000_001, "/jobs/7/home", passwd=PASSWD, group=GROUP, extra={})
    assert made.name == "job"
    assert made.passwd == (
        "root:x:0:0:root:/root:/bin/bash\n"
        "daemon:x:1:1:daemon:/usr/sbin:/usr/sbin/nologin\n"
        "nobody:x:65534:65534:nobody:/nonexistent:/usr/sbin/nologin\n"
        "job:x:2000000001:2000000001::/jobs/7/home:/bin/bash\n"
    )
    assert made.group == ("root:x:0:\ndaemon:x:1:\ndocker:x:998:\nnogroup:x:65534:\njob:x:2000000001:\n")


def test_who_has_an_account_keeps_its_name_and_gets_the_jobs_home() -> None:
    made = make_accounts(1000, 1000, "/jobs/7/home", passwd=PASSWD, group=GROUP, extra={})
    assert made.name == "ann"
    assert "ann:x:1000:1000::/jobs/7/home:/bin/bash\n" in made.passwd
    assert "Room 5" not in made.passwd
    assert "ann:x:1000:\n" in made.group
    assert "job" not in made.passwd.replace("/jobs/", "") + made.group


def test_root_is_there_once() -> None:
    made = make_accounts(0, 0, "/jobs/7/home", passwd=PASSWD, group=GROUP, extra={})
    assert [line for line in made.passwd.splitlines() if line.startswith("root:")] == [
        "root:x:0:0::/jobs/7/home:/bin/bash"
    ]
    assert made.group.count("root:x:0:") == 1


def test_groups_that_are_given_name_it_as_a_member() -> None:
    made = make_accounts(
        5000, 5000, "/h", passwd=PASSWD, group=GROUP, extra={"databases": 2000, "docker": 998}
    )
    lines = made.group.splitlines()
    assert [line for line in lines if line.startswith(("databases", "docker"))] == [
        "databases:x:2000:job",
        "docker:x:998:job",
    ]


def test_a_name_is_nobody_elses() -> None:
    passwd = PASSWD + "job:x:900:900::/:/bin/sh\n"
    made = make_accounts(5000, 5000, "/h", passwd=passwd, group=GROUP + "job:x:900:\n", extra={})
    assert made.name == "job5000"
    assert made.passwd.count("job:x:900:") == 1
    assert "job5000:x:5000:" in made.group


def test_a_home_that_cannot_be_written_down_is_none() -> None:
    made = make_accounts(5000, 5000, "/jobs/a:b/home", passwd=PASSWD, group=GROUP, extra={})
    assert made.passwd.endswith("job:x:5000:5000::/:/bin/bash\n")


def test_the_files_of_this_machine_are_read_the_same_way() -> None:
    passwd, group = (Path(f"/etc/{name}").read_text() for name in ("passwd", "group"))
    made = make_accounts(2_000_000_001, 2_000_000_001, "/h", passwd=passwd, group=group, extra={})
    assert {"root", "job"} <= {line.partition(":")[0] for line in made.passwd.splitlines()}
