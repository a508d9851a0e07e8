"""What a symbolic link shows under ``symlinks = "contain"``.

Law: followed from inside the mount, a contained link never leaves its target.
A shown link climbs first and descends then, and never climbs above the root:
no ``..`` comes after a name, because that name may itself be a link. An
absolute link starts at the target's root. Nothing is hidden and nothing refused.
"""

from __future__ import annotations


def contained(content: bytes, depth: int, root: bytes) -> bytes:
    """Return ``content`` as shown in a folder ``depth`` levels below the root.

    A relative link that climbs first and stays inside is shown as it is stored.
    """
    if content.startswith(b"/"):
        _, names = _normalized(_without_root(content, root))
        return b"../" * depth + b"/".join(names) or b"."
    climbs, names = _normalized(content)
    if climbs <= depth and not _turns_back(content):
        return content
    return b"../" * min(climbs, depth) + b"/".join(names) or b"."


def _without_root(content: bytes, root: bytes) -> bytes:
    prefix = root.rstrip(b"/")
    if content == prefix or content.startswith(prefix + b"/"):
        return content[len(prefix) :]
    return content


def _normalized(content: bytes) -> tuple[int, list[bytes]]:
    """Return how far up the path leads, and the names down from there."""
    climbs = 0
    names: list[bytes] = []
    for part in content.split(b"/"):
        if part == b".." and names:
            names.pop()
        elif part == b"..":
            climbs += 1
        elif part not in {b"", b"."}:
            names.append(part)
    return climbs, names


def _turns_back(content: bytes) -> bool:
    parts = [part for part in content.split(b"/") if part not in {b"", b"."}]
    downs = [index for index, part in enumerate(parts) if part != b".."]
    return bool(downs) and b".." in parts[downs[0] :]
