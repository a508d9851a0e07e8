"""``pamfs lab`` as a process of its own, and OpenSSH's client at its door."""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import signal
import stat
import subprocess
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import asyncssh
import pytest

from pamfs.cli import lab as command
from pamfs.lab import daemon
from pamfs.lab.spec import from_json, to_json
from tests.integration.lab_site import spec
from tests.limits import HANG_S


def pamfs_lab(*arguments: str | Path) -> int:
    parser = argparse.ArgumentParser()
    command.add_parser(parser.add_subparsers())
    return command.run(parser.parse_args(["lab", *map(str, arguments)]))


@pytest.fixture
def folder(tmp_path: Path) -> Iterator[Path]:
    """A folder whose name is too long for a socket's."""
    place = tmp_path / ("long-" * 20)
    yield place
    daemon.down(place)


@pytest.fixture
def facts(folder: Path) -> dict[str, Any]:
    """A lab that is up, and what it says of itself."""
    assert pamfs_lab("up", "--dir", folder) == 0
    found: dict[str, Any] = json.loads((folder / "lab.json").read_text())
    return found


def ssh_options(facts: dict[str, Any], user: str) -> list[str]:
    key = facts["tenants"]["acme"]["operators"]["alice"]["key"]
    options = {
        "User": user,
        "Port": facts["port"],
        "IdentityFile": key,
        "IdentitiesOnly": "yes",
        "IdentityAgent": "none",
        "UserKnownHostsFile": facts["known_hosts"],
        "GlobalKnownHostsFile": "/dev/null",
        "BatchMode": "yes",
    }
    pairs = [f"-o{key}={value}" for key, value in options.items()]
    return ["-F", "/dev/null", *pairs]


def test_up_writes_private_papers_and_down_cleans_up(
    folder: Path, facts: dict[str, Any], capsys: pytest.CaptureFixture[str]
) -> None:
    for path in (folder, *folder.glob("*.toml"), *(folder / "secrets").iterdir()):
        assert stat.S_IMODE(path.stat().st_mode) & 0o077 == 0, path
    assert stat.S_IMODE((folder / "admin.sock").stat().st_mode) == 0o600
    assert stat.S_IMODE((folder / "lab.json").stat().st_mode) == 0o600
    assert Path(facts["audit_log"]).read_text() == ""
    assert pamfs_lab("up", "--dir", folder) == 1
    assert "already running" in capsys.readouterr().err
    assert pamfs_lab("down", "--dir", folder) == 0
    assert not (folder / "admin.sock").exists()
    assert pamfs_lab("down", "--dir", folder) == 0
    assert "none is running" in capsys.readouterr().out


def test_the_configurations_name_the_files_that_log_in(
    folder: Path, facts: dict[str, Any]
) -> None:
    config = tomllib.loads((folder / "config.toml").read_text())
    acme = config["tenant"]["acme"]
    alice = facts["tenants"]["acme"]["operators"]["alice"]
    assert acme["proxy"] == f"127.0.0.1:{facts['port']}"
    assert Path(acme["password"]["file"]).read_text() == alice["password"] + "\n"
    assert Path(acme["otp"]["file"]).read_text() == alice["seed"] + "\n"
    assert "corp\\svc-backup@fs02{ssh.2222}" in [t["name"] for t in acme["target"]]
    asking = tomllib.loads((folder / "config-prompt.toml").read_text())
    assert asking["tenant"]["acme"]["password"] == {"prompt": True}
    by_key = tomllib.loads((folder / "config-key.toml").read_text())
    assert by_key["tenant"]["acme"]["key"] == {"file": alice["key"]}


def test_a_port_in_use_is_one_clear_line(
    tmp_path: Path, facts: dict[str, Any], capsys: pytest.CaptureFixture[str]
) -> None:
    port = str(facts["port"])
    assert pamfs_lab("up", "--dir", tmp_path / "second", "--port", port) == 1
    said = capsys.readouterr().err
    assert said.count("\n") == 1
    assert "in use" in said


@pytest.mark.parametrize(
    "wrong_at",
    [
        ("credentials", "need_reason", True),
        ("operators", "seed", "too-short"),
        ("operators", "methods", ["gssapi"]),
    ],
)
def test_a_wrong_spec_names_the_key(
    folder: Path, capsys: pytest.CaptureFixture[str], wrong_at: tuple[str, str, object]
) -> None:
    where, key, value = wrong_at
    path = folder.parent / "wrong.json"
    wrong = json.loads(to_json(spec()))
    wrong["tenants"][0][where][0][key] = value
    path.write_text(json.dumps(wrong))
    assert pamfs_lab("up", "--dir", folder, "--spec", path) == 1
    said = capsys.readouterr().err
    assert f"tenants[0].{where}[0]" in said
    assert key in said
    assert str(value) not in said or key == "methods"


def test_a_spec_survives_json() -> None:
    assert to_json(from_json(to_json(spec()))) == to_json(spec())


def test_a_killed_lab_leaves_no_device_behind(
    folder: Path, facts: dict[str, Any]
) -> None:
    tasks = Path(f"/proc/{facts['pid']}/task").iterdir()
    children = " ".join((task / "children").read_text() for task in tasks)
    ends = [os.pidfd_open(int(pid)) for pid in (facts["pid"], *children.split())]
    os.kill(facts["pid"], signal.SIGKILL)
    for end in ends:
        assert waited(end)
    assert len(ends) == 2
    assert pamfs_lab("up", "--dir", folder) == 0


def waited(pidfd: int) -> bool:
    """Return whether the process of ``pidfd`` has ended, waiting at most 10 s."""
    import select

    try:
        return bool(select.select([pidfd], [], [], 10)[0])
    finally:
        os.close(pidfd)


def test_openssh_transfers_files(tmp_path: Path, facts: dict[str, Any]) -> None:
    (tmp_path / "up").write_bytes(os.urandom(300_000))
    batch = "\n".join(
        (
            "ls -l /etc",
            f"put {tmp_path}/up /tmp/up",
            f"get /tmp/up {tmp_path}/down",
            "rename /tmp/up /tmp/moved",
            "ln -s ../../../etc/motd /tmp/link",
            "df /",
        )
    )
    done = subprocess.run(
        ["sftp", "-b", "-", *ssh_options(facts, "alice[root@db01]%acme"), "127.0.0.1"],
        input=batch.encode(),
        capture_output=True,
        timeout=HANG_S,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert b"hostname" in done.stdout
    assert (tmp_path / "up").read_bytes() == (tmp_path / "down").read_bytes()
    device = Path(facts["devices"]["db01"]["folder"])
    assert (device / "tmp/moved").stat().st_size == 300_000
    assert os.readlink(device / "tmp/link") == "../../../etc/motd"


def test_openssh_is_told_that_a_terminal_is_something_else(
    facts: dict[str, Any],
) -> None:
    user = "alice%acme[root@db01]"  # OpenSSH refuses braces since 9.6 (CVE-2023-51385)
    done = subprocess.run(
        ["ssh", *ssh_options(facts, user), "-tt", "127.0.0.1"],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        timeout=HANG_S,
        check=False,
    )
    assert done.returncode == 1
    assert b"terminal sessions are separate" in done.stdout + done.stderr


def test_the_administrator_acts_through_the_command_line(
    folder: Path, facts: dict[str, Any], capsys: pytest.CaptureFixture[str]
) -> None:
    alice = facts["tenants"]["acme"]["operators"]["alice"]

    def act(*arguments: str) -> Any:
        capsys.readouterr()
        assert pamfs_lab(arguments[0], "--dir", folder, *arguments[1:]) == 0
        said = capsys.readouterr().out
        return json.loads(said) if said else None

    async def story() -> None:
        options: dict[str, Any] = {
            "username": "alice[root@db01]",
            "password": alice["password"],
            "known_hosts": facts["known_hosts"],
            "client_keys": None,
            "config": None,
        }
        async with (
            asyncio.timeout(20),
            asyncssh.connect("127.0.0.1", facts["port"], **options) as conn,
        ):
            await conn.start_sftp_client()
            assert [s["target"] for s in act("sessions")] == ["root@db01"]
            assert act("kill-session", "root@db01") == 1
            await conn.wait_closed()
        assert act("sessions") == []
        act("lock", "alice")
        with pytest.raises(asyncssh.PermissionDenied):
            await asyncssh.connect("127.0.0.1", facts["port"], **options)
        act("unlock", "acme/alice")
        act("expire", "alice")
        act("approve", "root@vault01")
        assert act("rotate-host-key").startswith("ssh-ed25519 ")

    asyncio.run(story())
    assert pamfs_lab("lock", "--dir", folder, "nobody") == 1
    assert "no operator" in capsys.readouterr().err


def test_an_administrator_without_a_lab_gets_one_clear_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert pamfs_lab("sessions", "--dir", tmp_path) == 1
    assert f"no lab is running in {tmp_path}" in capsys.readouterr().err
