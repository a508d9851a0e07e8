from __future__ import annotations

import errno
import stat

import pytest

from pamfs.errors import RemoteError
from pamfs.model import Attrs, Ino, Name, Target
from pamfs.vfs.names.inodes import ROOT_INO, Inode, InodeStatistics, InodeTable

FILE = Attrs(stat.S_IFREG | 0o644)
FOLDER = Attrs(stat.S_IFDIR | 0o755)
WEB01 = Target("acme", "root", "web01")


def test_a_name_looked_up_twice_is_one_inode_with_two_lookups() -> None:
    table = InodeTable()
    one = table.looked_up(table.root, Name(b"a"), FILE)
    two = table.looked_up(table.root, Name(b"a"), FILE)
    assert one is two
    assert table.statistics() == InodeStatistics(inodes=2, lookups=3)


def test_an_inode_is_gone_when_its_last_lookup_is_forgotten() -> None:
    table = InodeTable()
    inode = table.looked_up(table.root, Name(b"a"), FILE)
    table.looked_up(table.root, Name(b"a"), FILE)
    table.forget(inode.ino, 1)
    assert table.get(inode.ino) is inode
    table.forget(inode.ino, 1)
    with pytest.raises(RemoteError) as caught:
        table.get(inode.ino)
    assert caught.value.code == errno.ESTALE


def test_forgetting_what_is_forgotten_changes_nothing() -> None:
    table = InodeTable()
    table.forget(Ino(4711), 1)
    assert table.statistics().inodes == 1


def test_the_root_is_never_dropped() -> None:
    table = InodeTable()
    table.forget(ROOT_INO, 1)
    assert table.get(ROOT_INO) is table.root


def test_a_folder_stays_while_something_below_it_is_known() -> None:
    table = InodeTable()
    folder = table.looked_up(table.root, Name(b"d"), FOLDER)
    file = table.looked_up(folder, Name(b"f"), FILE)
    table.forget(folder.ino, 1)
    assert table.components(file) == [b"d", b"f"]
    table.forget(file.ino, 1)
    assert table.statistics() == InodeStatistics(inodes=1, lookups=1)


def test_numbers_are_the_same_in_the_next_mount() -> None:
    def number() -> Ino:
        table = InodeTable()
        folder = table.looked_up(table.root, Name(b"d"), FOLDER)
        return table.looked_up(folder, Name(b"f"), FILE).ino

    assert number() == number()


def test_a_number_in_use_is_not_given_twice() -> None:
    table = InodeTable()
    old = table.looked_up(table.root, Name(b"a"), FILE)
    table.renamed(table.root, Name(b"a"), table.root, Name(b"b"))
    new = table.looked_up(table.root, Name(b"a"), FILE)
    assert new is not old
    assert new.ino != old.ino


def test_a_path_through_other_names_has_another_number() -> None:
    table = InodeTable()
    one = table.looked_up(
        table.looked_up(table.root, Name(b"a"), FOLDER), Name(b"bc"), FILE
    )
    other = table.looked_up(
        table.looked_up(table.root, Name(b"ab"), FOLDER), Name(b"c"), FILE
    )
    assert one.ino != other.ino


def test_a_renamed_folder_takes_its_files_along() -> None:
    table = InodeTable()
    folder = table.looked_up(table.root, Name(b"d"), FOLDER)
    file = table.looked_up(folder, Name(b"f"), FILE)
    table.renamed(table.root, Name(b"d"), table.root, Name(b"e"))
    assert table.components(file) == [b"e", b"f"]


def test_a_file_renamed_over_another_takes_its_name_away() -> None:
    table = InodeTable()
    one = table.looked_up(table.root, Name(b"a"), FILE)
    other = table.looked_up(table.root, Name(b"b"), FILE)
    table.renamed(table.root, Name(b"a"), table.root, Name(b"b"))
    assert table.components(one) == [b"b"]
    with pytest.raises(RemoteError) as caught:
        table.components(other)
    assert caught.value.code == errno.ENOENT
    assert table.get(other.ino) is other


def test_renaming_an_unknown_name_or_onto_itself_changes_nothing() -> None:
    table = InodeTable()
    file = table.looked_up(table.root, Name(b"a"), FILE)
    table.renamed(table.root, Name(b"x"), table.root, Name(b"y"))
    table.renamed(table.root, Name(b"a"), table.root, Name(b"a"))
    assert table.components(file) == [b"a"]


def test_the_old_folder_of_a_rename_goes_when_nobody_holds_it() -> None:
    table = InodeTable()
    folder = table.looked_up(table.root, Name(b"d"), FOLDER)
    file = table.looked_up(folder, Name(b"f"), FILE)
    table.forget(folder.ino, 1)
    table.renamed(folder, Name(b"f"), table.root, Name(b"g"))
    assert table.components(file) == [b"g"]
    with pytest.raises(RemoteError):
        table.get(folder.ino)


def test_an_unlinked_inode_lives_until_it_is_forgotten() -> None:
    table = InodeTable()
    file = table.looked_up(table.root, Name(b"a"), FILE)
    assert table.unlinked(table.root, Name(b"a")) is file
    assert table.get(file.ino) is file
    table.forget(file.ino, 1)
    assert table.statistics().inodes == 1


def test_unlinking_an_unknown_name_is_nothing() -> None:
    table = InodeTable()
    assert table.unlinked(table.root, Name(b"a")) is None


def test_a_hard_link_is_the_same_inode_under_two_names() -> None:
    table = InodeTable()
    file = table.looked_up(table.root, Name(b"a"), FILE)
    table.linked(file, table.root, Name(b"b"))
    assert table.looked_up(table.root, Name(b"b"), FILE) is file
    table.unlinked(table.root, Name(b"a"))
    assert table.components(file) == [b"b"]


def test_links_in_two_folders_let_both_go() -> None:
    table = InodeTable()
    one = table.looked_up(table.root, Name(b"d"), FOLDER)
    two = table.looked_up(table.root, Name(b"e"), FOLDER)
    file = table.looked_up(one, Name(b"f"), FILE)
    table.linked(file, two, Name(b"g"))
    for folder in (one, two):
        table.forget(folder.ino, 1)
    table.forget(file.ino, 2)
    assert table.statistics() == InodeStatistics(inodes=1, lookups=1)


def test_a_name_that_became_another_type_is_a_new_inode() -> None:
    table = InodeTable()
    file = table.looked_up(table.root, Name(b"a"), FILE)
    folder = table.looked_up(table.root, Name(b"a"), FOLDER)
    assert folder is not file
    assert folder.is_dir
    assert not file.names


def test_something_made_in_a_removed_folder_still_gets_a_number() -> None:
    table = InodeTable()
    folder = table.looked_up(table.root, Name(b"d"), FOLDER)
    table.unlinked(table.root, Name(b"d"))
    assert table.looked_up(folder, Name(b"f"), FILE).ino != folder.ino


def test_a_removed_file_may_be_gone_before_its_folder_is_asked() -> None:
    table = InodeTable()
    folder = table.looked_up(table.root, Name(b"d"), FOLDER)
    table.unlinked(table.root, Name(b"d"))
    table.forget(folder.ino, 1)
    table.forget(folder.ino, 1)
    assert table.statistics().inodes == 1


def test_a_target_folder_knows_that_it_is_one() -> None:
    table = InodeTable()
    acme = table.looked_up(table.root, Name(b"acme"), None)
    web = table.looked_up(acme, Name(b"root@web01"), None, WEB01)
    etc = table.looked_up(web, Name(b"etc"), FOLDER)
    assert [inode.is_target_root for inode in (table.root, acme, web, etc)] == [
        False,
        False,
        True,
        False,
    ]
    assert etc.target == WEB01
    assert set(table.below(WEB01)) == {web, etc}


def test_an_inode_without_a_name_is_no_target_folder() -> None:
    assert not Inode(Ino(5), stat.S_IFDIR, WEB01).is_target_root
