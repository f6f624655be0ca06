"""The King James Bible as books, chapters and verses, its split into train, dev and held-out chapters, and its text forms."""

import re
import subprocess
from dataclasses import dataclass
from pathlib import Path

HEADING = re.compile(r"^([1-3]? ?[A-Z][A-Za-z ]+) (\d+)$")
VERSE = re.compile(r"^ +(\d+) (.*)$")
WHOLE_BIBLE = "gen1:1-rev22:21"


@dataclass(frozen=True)
class Chapter:
    book: str
    number: int
    verses: tuple[str, ...]

    @property
    def title(self) -> str:
        return f"{self.book} {self.number}"

    def prose(self) -> str:
        """Heading and running text, without verse numbers."""
        return f"{self.title}\n\n{' '.join(self.verses)}"

    def numbered(self) -> str:
        """Heading and one numbered verse a line."""
        lines = (f"{i} {verse}" for i, verse in enumerate(self.verses, 1))
        return f"{self.title}\n\n" + "\n".join(lines)


def read_text(path: Path | None) -> str:
    """The output of `bible -l0 gen1:1-rev22:21`, from a file or from the program (Debian packages bible-kjv and bible-kjv-text)."""
    if path is not None:
        return path.read_text(encoding="ascii")
    return subprocess.run(["bible", "-l0", WHOLE_BIBLE], check=True, capture_output=True, text=True).stdout


def parse_chapters(text: str) -> list[Chapter]:
    """Split the program's output into chapters; verse numbers must be consecutive."""
    chapters: list[Chapter] = []
    book, number, verses = "", 0, []
    for line in text.splitlines():
        if heading := HEADING.match(line):
            if verses:
                chapters.append(Chapter(book, number, tuple(verses)))
            book, number, verses = heading[1], int(heading[2]), []
        elif verse := VERSE.match(line):
            if int(verse[1]) != len(verses) + 1:
                raise ValueError(f"{book} {number}: verse {verse[1]} follows {len(verses)}")
            verses.append(" ".join(verse[2].split()))
        elif line.strip():
            raise ValueError(f"unexpected line: {line!r}")
    chapters.append(Chapter(book, number, tuple(verses)))
    if len(chapters) != 1189:
        raise ValueError(f"expected 1189 chapters, found {len(chapters)}")
    return chapters


@dataclass(frozen=True)
class Split:
    train: list[Chapter]
    dev: list[Chapter]
    heldout: list[Chapter]


def split_chapters(chapters: list[Chapter]) -> Split:
    """Whole chapters spread over the books: about 2 % held out for the published figure, 1 % for choosing a checkpoint."""
    split = Split([], [], [])
    for i, chapter in enumerate(chapters):
        part = split.heldout if i % 50 == 17 else split.dev if i % 100 == 42 else split.train
        part.append(chapter)
    return split


def as_prose(chapters: list[Chapter]) -> str:
    return "\n\n".join(chapter.prose() for chapter in chapters) + "\n"


def as_numbered(chapters: list[Chapter]) -> str:
    return "\n\n".join(chapter.numbered() for chapter in chapters) + "\n"
