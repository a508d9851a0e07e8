"""The mount helper: what mount(8) says, and what pamfs makes of it."""

from __future__ import annotations

import argparse
import os
import pwd
from pathlib import Path

import pytest

from pamfs.cli import mount_helper
from pamfs.cli.main import main
from pamfs.cli.mount_helper import MountExit, MountRequest
from pamfs.errors import PamfsError

SOURCE = "/etc/pamfs/acme.toml"


def args_of(*words: str) -> argparse.Namespace:
    return mount_helper._parser().parse_args([SOURCE, "/mnt", *words])


def wanted(*words: str) -> MountRequest:
    return mount_helper.read(args_of(*words))


def test_the_source_is_the_configuration() -> None:
    assert wanted().config == Path(SOURCE)


def test_the_source_may_carry_the_name_that_the_kernel_shows() -> None:
    args = args_of()
    args.source = f"pamfs:{SOURCE}"
    assert mount_helper.read(args).config == Path(SOURCE)


def test_the_kernel_shows_the_source_so_that_mount_a_knows_it() -> None:
    assert wanted().options[0] == f"fsname={SOURCE}"


def test_the_option_config_wins_over_the_source() -> None:
    assert wanted("-o", "config=/a.toml").config == Path("/a.toml")


def test_a_relative_source_is_refused() -> None:
    with pytest.raises(PamfsError, match="absolute"):
        wanted("-o", "config=a.toml")


@pytest.mark.parametrize("word", ["user=alice", "uhelper=pamfs", "helper=pamfs"])
def test_what_mount_says_to_itself_is_dropped(word: str) -> None:
    assert wanted("-o", word).options == wanted().options


def a_configuration(folder: Path) -> Path:
    config = folder / "config.toml"
    config.write_text(
        '[tenant.acme]\nproxy = "pam.example"\ndialect = "segura-sftp"\n'
        'operator = "alice"\npassword = { prompt = true }\n'
    )
    return config


@pytest.mark.parametrize(
    "words",
    [
        "_netdev,nofail,noauto,user,rw,exec",
        "x-systemd.automount,x-systemd.idle-timeout=60",
        "x-gvfs-show,comment=backup",
    ],
)
def test_words_of_fstab_do_no_harm(tmp_path: Path, words: str) -> None:
    config = a_configuration(tmp_path)
    assert (
        main(["mount-helper", str(config), "/mnt", "-f", "-o", words]) == MountExit.OK
    )


@pytest.mark.parametrize("word", ["dev", "suid"])
def test_what_a_fuse_mount_never_has_is_refused_with_the_reason(
    word: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = str(tmp_path / "config.toml")
    words = ["mount-helper", config, "/mnt", "-f", "-o", f"rw,{word}"]
    assert main(words) == MountExit.USAGE
    said = capsys.readouterr().err
    assert f"'{word}' is not possible" in said
    assert "leave it out" in said
    assert (
        main([*words, "-s"]) != MountExit.USAGE
    )  # sloppy: what is not known is dropped


def test_what_mount_fuse3_adds_by_itself_is_dropped(tmp_path: Path) -> None:
    config = str(a_configuration(tmp_path))
    assert main([config, "/mnt", "-f", "-o", "rw,dev,suid"]) == MountExit.OK


def test_setuid_names_a_user() -> None:
    me = pwd.getpwuid(os.getuid())
    assert wanted("-o", f"setuid={me.pw_name}").user == me
    assert wanted("-o", f"setuid={me.pw_uid}").user == me


@pytest.mark.parametrize(
    "words",
    [
        ["-o", "setuid=nobody-of-that-name"],
        ["-o", "remount"],
        ["-o", "wrong"],
        ["-q"],
    ],
)
def test_a_wrong_call_has_the_code_of_mount(
    words: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([SOURCE, "/mnt", *words]) == MountExit.USAGE
    assert capsys.readouterr().err.startswith("mount.pamfs: ")


def test_a_sloppy_mount_drops_unknown_words() -> None:
    assert wanted("-s", "-o", "wrong,ro").options == (f"fsname={SOURCE}", "ro")


def test_without_a_configuration_the_mount_failed(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    none = str(tmp_path / "none.toml")
    assert main(["mount-helper", none, str(tmp_path), "-f"]) == MountExit.FAILED
    assert none in capsys.readouterr().err


def test_another_user_is_not_given_our_folders(monkeypatch: pytest.MonkeyPatch) -> None:
    ours = ("XDG_STATE_HOME", "SSH_AUTH_SOCK", "PAM_PASSWORD", "PYTHONPATH", "PATH")
    for name in ours:
        monkeypatch.setenv(name, "/ours")
    monkeypatch.setenv("LANG", "de_DE.UTF-8")
    me = pwd.getpwuid(os.getuid())
    made = mount_helper._environment(me)
    assert "/ours" not in ":".join(made.values()).split(":")
    assert made["HOME"] == me.pw_dir
    assert "/usr/bin" in made["PATH"]
    assert set(made) <= {
        *("HOME", "LOGNAME", "USER", "PATH", "PYTHONPATH", "XDG_RUNTIME_DIR"),
        *("LANG", "LC_ALL", "LC_CTYPE", "LC_MESSAGES", "TZ"),
    }


@pytest.mark.skipif(os.getuid() != 0, reason="only root can give files away")
def test_root_runs_no_command_of_another_users_configuration(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = a_configuration(tmp_path)
    os.chown(config, 65534, -1)
    assert main(["mount-helper", str(config), "/mnt", "-f"]) == MountExit.FAILED
    assert f"{config}: belongs to another user" in capsys.readouterr().err
