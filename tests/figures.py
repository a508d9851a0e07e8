"""The figures of the code's shape: ``make figures`` prints them, a test bounds them.

    python -m tests.figures [FOLDER]      FOLDER holds pamfs/; default: this tree

The models' figures are in docs/decisions.md, "The shape of the code". A word list
measures how far the prose is from the field's: WHO counts words that personify a
program, TERMS those that an engineer of file systems and SSH looks for.
"""

from __future__ import annotations

import ast
import io
import re
import statistics
import sys
import tokenize
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Final

ROOT: Final = Path(__file__).parents[1]

WHO: Final = re.compile(
    r"\b(?:who|whom|whose|whoever|nobody|told|hears?|heard)\b", re.IGNORECASE
)
TERMS: Final = re.compile(
    r"\b(?:"
    r"single[- ]flight|back[- ]?offs?|retr(?:y|ies|ied)|idempotent|coalesc\w*"
    r"|evict\w*|ttl|time to live|negative entr\w+|cache[ds]?|page cache|write[- ]?back"
    r"|read[- ]?ahead|prefetch\w*|flow control|windows?|quotas?|ledgers?|journals?"
    r"|leases?|sessions?|channels?|handles?|descriptors?|requests?|repl(?:y|ies)"
    r"|timeouts?|deadlines?|cancel\w*|nurser(?:y|ies)|tasks?|queues?|locks?"
    r"|buffers?|packets?|extents?|offsets?|inodes?|dentr\w+|errno|round trips?"
    r"|bandwidth|latency|pool|scheduler|invariants?|mutex|semaphore|token|checkouts?"
    r")\b",
    re.IGNORECASE,
)

Function = ast.FunctionDef | ast.AsyncFunctionDef
Documented = ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef
NO_CODE: Final = {
    tokenize.COMMENT,
    tokenize.NL,
    tokenize.NEWLINE,
    tokenize.INDENT,
    tokenize.DEDENT,
    tokenize.ENDMARKER,
}
_ONLY_A_MARK: Final = re.compile(r"#\s*(?:noqa|type:|pragma|fmt:|!)[^-]*$")


@dataclass(frozen=True, slots=True)
class Source:
    """One file, read once."""

    path: Path
    text: str
    tree: ast.Module

    @property
    def lines(self) -> int:
        """Return the number of lines."""
        return len(self.text.splitlines())


@dataclass(frozen=True, slots=True)
class Figures:
    """What is measured of a tree, or of one folder of it."""

    files: int
    lines: int
    file_p95: int
    function_median: float
    function_p95: int
    code_lines: int
    comment_lines: int
    head_lines: int
    docstring_words: int
    who_words: int
    terms: int

    @property
    def files_per_1000_lines(self) -> float:
        """Return the files for each 1,000 lines."""
        return 1000 * self.files / max(1, self.lines)

    @property
    def comments_per_100(self) -> float:
        """Return the comment lines, lint marks aside, for each 100 code lines."""
        return 100 * self.comment_lines / max(1, self.code_lines)

    @property
    def explained_per_100(self) -> float:
        """Return the same with the docstrings of modules and classes."""
        lines = self.comment_lines + self.head_lines
        return 100 * lines / max(1, self.code_lines)

    @property
    def who_per_1000(self) -> float:
        """Return WHO's words for each 1,000 docstring words."""
        return 1000 * self.who_words / max(1, self.docstring_words)

    @property
    def terms_per_1000(self) -> float:
        """Return TERMS' words for each 1,000 docstring words."""
        return 1000 * self.terms / max(1, self.docstring_words)


def read_sources(folder: Path) -> list[Source]:
    """Return the Python files below ``folder``."""
    texts = {path: path.read_text() for path in sorted(folder.rglob("*.py"))}
    return [Source(path, text, ast.parse(text)) for path, text in texts.items()]


@cache
def code_lines(source: str) -> frozenset[int]:
    """Return the numbers of the lines that hold code: no comment, no docstring."""
    lines: set[int] = set()
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        if token.type not in NO_CODE:
            lines.update(range(token.start[0], token.end[0] + 1))
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant):
            lines.difference_update(range(node.lineno, (node.end_lineno or 0) + 1))
    return frozenset(lines)


def comment_lines(source: str) -> int:
    """Return how many lines hold a comment that is more than a lint mark."""
    tokens = tokenize.generate_tokens(io.StringIO(source).readline)
    comments = (token.string for token in tokens if token.type == tokenize.COMMENT)
    return sum(not _ONLY_A_MARK.match(comment) for comment in comments)


def function_sizes(source: Source) -> list[int]:
    """Return the code lines of each function."""
    lines = code_lines(source.text)
    return [
        len(lines.intersection(range(node.lineno, (node.end_lineno or 0) + 1)))
        for node in ast.walk(source.tree)
        if isinstance(node, Function)
    ]


def docstrings(tree: ast.Module) -> Iterator[tuple[Documented, str]]:
    """Yield each docstring with what it documents."""
    for node in ast.walk(tree):
        if isinstance(node, Documented) and (text := ast.get_docstring(node)):
            yield node, text


def measure(sources: Sequence[Source]) -> Figures:
    """Return the figures of ``sources``."""
    sizes = sorted(size for source in sources for size in function_sizes(source))
    lengths = sorted(source.lines for source in sources)
    found = [pair for source in sources for pair in docstrings(source.tree)]
    words = " ".join(text for _, text in found)
    heads = [t for node, t in found if isinstance(node, ast.Module | ast.ClassDef)]
    return Figures(
        files=len(sources),
        lines=sum(lengths),
        file_p95=lengths[int(len(lengths) * 0.95)],
        function_median=statistics.median(sizes or [0]),
        function_p95=sizes[int(len(sizes) * 0.95)] if sizes else 0,
        code_lines=sum(len(code_lines(source.text)) for source in sources),
        comment_lines=sum(comment_lines(source.text) for source in sources),
        head_lines=sum(len(text.splitlines()) for text in heads),
        docstring_words=len(words.split()),
        who_words=len(WHO.findall(words)),
        terms=len(TERMS.findall(words)),
    )


def names_of_two(sources: Sequence[Source]) -> Mapping[str, list[str]]:
    """Return the class names that are defined in two places, with the places.

    A leading underscore makes no other name of it: the reader sees the same word.
    """
    found: defaultdict[str, list[str]] = defaultdict(list)
    for source in sources:
        for node in ast.walk(source.tree):
            if isinstance(node, ast.ClassDef):
                found[node.name.lstrip("_")].append(f"{source.path}:{node.lineno}")
    return {name: places for name, places in found.items() if len(places) > 1}


def circles(sources: Sequence[Source], root: Path) -> list[list[str]]:
    """Return the groups of modules that import each other, however indirectly.

    All imports count, those for types and those inside functions among them.
    """
    imports = {_module_of(source.path, root): source for source in sources}
    graph = {name: _imported_by(source, imports) for name, source in imports.items()}
    reach = {name: _reachable(name, graph) for name in graph}
    found = {
        frozenset({name, *(other for other in reach[name] if name in reach[other])})
        for name in graph
        if name in reach[name]
    }
    return [sorted(group) for group in found]


def _module_of(path: Path, root: Path) -> str:
    parts = path.relative_to(root).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def _imported_by(source: Source, known: Mapping[str, Source]) -> set[str]:
    names: set[str] = set()
    for node in ast.walk(source.tree):
        if isinstance(node, ast.Import):
            names.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            names.add(node.module)
            names.update(f"{node.module}.{alias.name}" for alias in node.names)
    found = {name for name in names & known.keys() if known[name] is not source}
    own = source.path.parent / "__init__.py"  # importing a module imports its package
    return {name for name in found if known[name].path != own}


def _reachable(start: str, graph: Mapping[str, set[str]]) -> set[str]:
    found: set[str] = set()
    waiting = list(graph[start])
    while waiting:
        name = waiting.pop()
        if name not in found:
            found.add(name)
            waiting += graph[name]
    return found


def _room_of(source: Source, package: Path) -> str:
    parts = source.path.relative_to(package).parts
    return parts[0] if len(parts) > 1 else "(top)"


def main() -> None:
    """Print the figures of each room and of the whole, and the names of two things."""
    package = (Path(sys.argv[1]) if len(sys.argv) > 1 else ROOT) / "pamfs"
    sources = read_sources(package)
    rooms: defaultdict[str, list[Source]] = defaultdict(list)
    for source in sources:
        rooms[_room_of(source, package)].append(source)
    print(
        f"{'':12}{'files':>6}{'lines':>7}{'f/1000':>7}{'p95':>5}{'fn':>5}{'fn95':>5}"
        f"{'#/100':>7}{'+heads':>7}{'who':>6}{'terms':>6}"
    )
    for name, group in [*sorted(rooms.items()), ("whole", sources)]:
        it = measure(group)
        print(
            f"{name:12}{it.files:6}{it.lines:7}{it.files_per_1000_lines:7.1f}"
            f"{it.file_p95:5}{it.function_median:5.0f}{it.function_p95:5}"
            f"{it.comments_per_100:7.1f}{it.explained_per_100:7.1f}"
            f"{it.who_per_1000:6.1f}{it.terms_per_1000:6.1f}"
        )
    twice = names_of_two(sources)
    print(f"\nclass names that stand for two things: {len(twice)}")
    for name, places in sorted(twice.items()):
        print(
            f"  {name}: "
            + ", ".join(place.removeprefix(f"{package}/") for place in places)
        )
    words = Counter(
        word.lower()
        for source in sources
        for _, text in docstrings(source.tree)
        for word in WHO.findall(text)
    )
    print("\n" + ", ".join(f"{word} {count}" for word, count in words.most_common()))


if __name__ == "__main__":
    main()
