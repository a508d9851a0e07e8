"""A file is trusted if nobody but root and this user can change it."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from pamfs.trusted_files import (
    UntrustedFileError,
    check_private,
    check_program,
    check_trusted,
)

OTHER = 65534  # nobody, on every Linux

as_root = pytest.mark.skipif(os.getuid() != 0, reason="only root can give files away")


@pytest.fixture
def file(tmp_path: Path) -> Path:
    folder = tmp_path / "folder"
    folder.mkdir(mode=0o755)
    made = folder / "file"
    made.touch(mode=0o600)
    return made


def test_a_file_of_ours_below_folders_of_ours_is_trusted(file: Path) -> None:
    check_trusted(file)
    check_private(file)


@pytest.mark.parametrize("mode", [0o620, 0o602, 0o666, 0o664])
def test_a_file_that_others_may_write_is_named(file: Path, mode: int) -> None:
    file.chmod(mode)
    with pytest.raises(
        UntrustedFileError, match=f"{file}: .* may write it .chmod go-w"
    ):
        check_trusted(file)


@pytest.mark.parametrize("mode", [0o775, 0o757, 0o777])
def test_a_folder_that_others_may_write_is_named(file: Path, mode: int) -> None:
    file.parent.chmod(mode)
    with pytest.raises(UntrustedFileError, match=f"^{file.parent}: .* may write it"):
        check_trusted(file)


@as_root
@pytest.mark.parametrize("is_folder", [False, True])
def test_another_users_file_or_folder_is_refused(file: Path, is_folder: bool) -> None:
    os.chown(file.parent if is_folder else file, OTHER, -1)
    with pytest.raises(UntrustedFileError, match=f"another user .*{OTHER}"):
        check_trusted(file)


@as_root
def test_in_a_sticky_folder_the_entry_is_ours(file: Path) -> None:
    os.chown(file.parent, 0, -1)
    file.parent.chmod(0o1777)
    check_trusted(file)
    os.chown(file, OTHER, -1)
    with pytest.raises(UntrustedFileError, match="another user"):
        check_trusted(file)


@as_root
def test_a_link_that_another_user_made_in_a_sticky_folder_is_refused(
    file: Path, tmp_path: Path
) -> None:
    (tmp_path / "sticky").mkdir()
    (tmp_path / "sticky").chmod(0o1777)
    link = tmp_path / "sticky" / "link"
    link.symlink_to(file)
    check_trusted(link)
    os.chown(link, OTHER, -1, follow_symlinks=False)
    with pytest.raises(UntrustedFileError, match="another user"):
        check_trusted(link)


def test_each_folder_on_the_way_of_links_counts(file: Path, tmp_path: Path) -> None:
    (tmp_path / "open").mkdir()
    (tmp_path / "open").chmod(0o777)
    (tmp_path / "open" / "second").symlink_to(f"../{file.parent.name}")
    (tmp_path / "first").symlink_to("open/second")
    with pytest.raises(
        UntrustedFileError, match=f"^{tmp_path}/open: any user may write it"
    ):
        check_trusted(tmp_path / "first" / file.name)


def test_links_that_go_round_are_an_error(tmp_path: Path) -> None:
    (tmp_path / "round").symlink_to("round")
    with pytest.raises(OSError, match="symbolic links"):
        check_trusted(tmp_path / "round")


def test_a_pipe_of_ours_is_trusted() -> None:
    ends = os.pipe()
    try:
        check_trusted(Path(f"/dev/fd/{ends[0]}"))
    finally:
        for end in ends:
            os.close(end)


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o644])
def test_a_secret_that_others_may_read_is_refused(file: Path, mode: int) -> None:
    file.chmod(mode)
    with pytest.raises(UntrustedFileError, match="others may read it"):
        check_private(file)


def test_a_program_is_looked_for_as_it_is_run(
    file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(file.parent))
    file.chmod(0o755)
    check_program(file.name)
    check_program("no-program-of-that-name")
    file.chmod(0o775)
    with pytest.raises(UntrustedFileError, match="its group may write"):
        check_program(file.name)
