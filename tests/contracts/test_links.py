"""Symbolic links on servers that read SYMLINK's paths in one order or the other."""

from __future__ import annotations

import errno
import stat
from pathlib import Path

import pytest

from tests.contracts.implementations import (
    sftp_over_asyncssh,
    sftp_over_openssh,
    tree_on,
)
from tests.contracts.promise import names_in, refused, store, under
from tests.fakes.far import FarAway
from tests.fakes.servers import (
    MakesNoLink,
    NameFirst,
    NameLast,
    ResolvesInHome,
    ShowsTheTarget,
)


def counted(server: type[NameFirst]) -> type[NameFirst]:
    return type(server.__name__, (server,), {"made": []})


@pytest.mark.parametrize("server", [NameFirst, NameLast, ShowsTheTarget])
async def test_a_link_is_made_where_it_was_meant_and_nowhere_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, server: type[NameFirst]
) -> None:
    server = counted(server)
    home = tmp_path / "home"
    home.mkdir()
    monkeypatch.chdir(home)  # where the server, in this process, finds what is relative
    with sftp_over_asyncssh(tmp_path, server) as sftp:
        here = sftp.new_folder("here")
        async with tree_on(sftp) as tree:
            await store(tree, under(here, b"file"), b"x")
            contents = {
                b"a": b"nowhere",
                b"b": b"../file",
                b"c": bytes(under(here, b"file")),
                b"d": bytes(under(here, b"nothing")),
                b"e": b"file",
            }
            for name, content in contents.items():
                attrs = await tree.symlink(content, under(here, name))
                assert stat.S_ISLNK(attrs.mode)
                assert await tree.readlink(under(here, name)) == content
            assert await names_in(tree, here) == {b"file", *contents}
            with refused(errno.EEXIST):
                await tree.symlink(b"x", under(here, b"file"))
    assert list(home.iterdir()) == []
    # One link of ours was tried; then each is made once.
    trials = [path for path in server.made if b"/.pamfs-" in path]
    assert len(trials) == 1


async def test_a_link_that_was_not_made_is_an_error(tmp_path: Path) -> None:
    with sftp_over_asyncssh(tmp_path, counted(MakesNoLink)) as sftp:
        here = sftp.new_folder("here")
        async with tree_on(sftp) as tree:
            with refused(errno.EIO):
                await tree.symlink(b"x", under(here, b"link"))


async def test_where_no_link_can_be_made_the_reason_is_told(tmp_path: Path) -> None:
    with sftp_over_asyncssh(tmp_path, counted(NameFirst)) as sftp:
        here = sftp.new_folder("here")
        async with tree_on(sftp) as tree:
            with refused(errno.ENOENT):
                await tree.symlink(b"x", under(here, b"no/link"))
            await store(tree, under(here, b"f"), b"")
            with refused(errno.ENOTDIR):
                await tree.symlink(b"x", under(here, b"f/link"))


async def test_openssh_is_known_to_read_the_name_last(tmp_path: Path) -> None:
    with sftp_over_openssh(tmp_path) as sftp:
        here = sftp.new_folder("here")
        async with tree_on(sftp) as tree:
            far = FarAway(sftp.client)
            try:
                await tree.symlink(b"x", under(here, b"link"))
            finally:
                far.bring_back()
            assert await tree.readlink(under(here, b"link")) == b"x"
    assert (far.round_trips, far.requests) == (1, 2)


async def test_a_relative_link_leads_where_it_should_or_says_so_with_its_whole_path(
    tmp_path: Path,
) -> None:
    server = counted(ResolvesInHome)
    with sftp_over_asyncssh(tmp_path, server) as sftp:
        here = sftp.new_folder("here")
        async with tree_on(sftp) as tree:
            await store(tree, under(here, b"file"), b"x")
            for name, content in ((b"a", b"file"), (b"b", b"./file"), (b"c", b"file")):
                path = under(here, name)
                assert stat.S_ISLNK((await tree.symlink(content, path)).mode)
                assert await tree.readlink(path) == under(here, b"file")
            assert await names_in(tree, here) == {b"file", b"a", b"b", b"c"}
    # The trial, the first one twice, and each further one once.
    assert len(server.made) == 5
