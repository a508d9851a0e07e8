"""A device whose shell prints something before SFTP starts, with a real OpenSSH."""

from __future__ import annotations

import pytest

from pamfs.config import KeySource
from pamfs.errors import LoginError, NoFileTransferError, PasswordExpiredError
from pamfs.model import Target
from pamfs.naming.dialects import find_dialect
from tests.conftest import LogLedger
from tests.fakes.openssh import SFTP_SERVER, running_sshd
from tests.fakes.pools import borrow, status_of
from tests.fakes.tenants import tenant
from tests.integration.session_site import SessionSite, site

__all__ = ["site"]  # the fixture


async def said_of(site: SessionSite, script: str, more: str = "") -> LoginError:
    """Return how a login ends at a server whose subsystem is ``script``."""
    folder = site.folder / "sshd"
    folder.mkdir()
    wrapper = folder / "wrapper"
    wrapper.write_text(f"#!/bin/sh\n{script}\n")
    wrapper.chmod(0o755)
    with running_sshd(folder, str(wrapper), more.format(wrapper)) as sshd:
        acme = tenant(
            dialect=find_dialect("<credential>"),
            port=sshd.port,
            key=KeySource(file=sshd.client_key),
            known_hosts=sshd.known_hosts,
        )
        target = Target("acme", sshd.user, "web01")
        async with site.pool(acme) as pool:
            with pytest.raises(LoginError) as caught:
                await borrow(pool, target)
            assert str(caught.value) in str(status_of(pool, target).last_error)
    return caught.value


@pytest.mark.parametrize(
    ("printed", "shown"),
    [
        ("echo Welcome to web01; echo Be careful", "'Welcome to web01'"),
        ("printf '\\n  \\n'; echo hello", "'hello'"),
        ("printf 'hi\\n'", "'hi'"),
        ("printf 'no end of line'", "'no end of line'"),
        ("printf '\\033[31mred\\007\\377\\n'", r"'\x1b[31mred\x07�'"),
        ("head -c 9000 /dev/zero | tr '\\0' x; echo", f"'{'x' * 200}'"),
    ],
)
@pytest.mark.parametrize("then", [f"exec {SFTP_SERVER}", "exit 0"])
async def test_what_a_device_prints_before_sftp_is_shown(
    printed: str, shown: str, then: str, site: SessionSite, expect_log: LogLedger
) -> None:
    expect_log("printed text before SFTP started")
    error = await said_of(site, f"{printed}\n{then}")
    assert isinstance(error, NoFileTransferError)
    assert shown in str(error)
    assert ".bashrc" in str(error)


async def test_a_forced_command_that_prints_is_shown(
    site: SessionSite, expect_log: LogLedger
) -> None:
    expect_log("'This account is for backups only.'")
    script = "echo 'This account is for backups only.'"
    await said_of(site, script, "ForceCommand {}")


async def test_text_that_says_why_decides_the_errno(
    site: SessionSite, expect_log: LogLedger
) -> None:
    expect_log("printed text before SFTP started")
    script = "echo 'WARNING: Your password has expired.'; exit 1"
    assert isinstance(await said_of(site, script), PasswordExpiredError)
