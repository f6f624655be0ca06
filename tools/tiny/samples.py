"""Training samples: token streams of running text, and conversations in the chat format."""

import random
from collections import Counter

import numpy as np
from tokenizers import Tokenizer

from .corpus import Chapter
from .tokenizer import (
    ASSISTANT,
    BOS,
    BOS_ID,
    END_THINK,
    EOS,
    EOS_ID,
    PAD_ID,
    THINK,
    USER,
)

ROW_TOKENS = 1025  # 1024 inputs and the target of the last one

SMALL_TALK = [
    (("Hello", "Hello!", "Hi", "Hi there!", "Good morning.", "Peace be with you."),
     "Peace be unto thee. Name a passage, such as Genesis 1, or a word, such as wisdom, and I will recite."),
    (("Who are you?", "What are you?", "What is your name?", "Tell me about yourself.", "What model are you?"),
     "I am a very small language model, trained on nothing but the King James Bible. "
     "I can recite, and I can imitate; I know nothing else."),
    (("What can you do?", "Help", "How can you help me?", "What do you know?", "What should I ask?"),
     "I know the King James Bible. Name a book and a chapter, or begin a verse, and I will continue."),
    (("Thank you.", "Thanks!", "Thank you very much."), "The LORD bless thee, and keep thee."),
    (("Goodbye.", "Bye", "Farewell."), "Go in peace."),
]  # fmt: skip
# Passages that people ask for: (chapter, first verse, last verse, further names).
WELL_KNOWN = [
    ("Genesis 1", 1, 5, ("the creation", "the beginning")), ("Exodus 20", 1, 6, ("the ten commandments",)), ("Ruth 1", 16, 17, ()),
    ("Job 38", 1, 4, ()), ("Psalms 1", 1, 3, ()), ("Psalms 23", 1, 6, ("the shepherd psalm",)), ("Psalms 100", 1, 5, ()),
    ("Psalms 121", 1, 4, ()), ("Proverbs 3", 5, 6, ()), ("Ecclesiastes 1", 1, 4, ("vanity",)),
    ("Ecclesiastes 3", 1, 4, ("a time to every purpose",)), ("Song of Solomon 2", 10, 13, ()), ("Isaiah 40", 1, 3, ()),
    ("Matthew 5", 3, 10, ("the beatitudes",)), ("Matthew 6", 9, 13, ("the Lord's prayer",)), ("Luke 2", 8, 12, ("the shepherds",)),
    ("John 1", 1, 5, ("the Word",)), ("John 3", 16, 17, ("the love of God",)), ("Romans 8", 38, 39, ()),
    ("1 Corinthians 13", 1, 4, ("charity",)), ("Hebrews 11", 1, 3, ("faith",)), ("Revelation 21", 1, 4, ("the new Jerusalem",)),
]  # fmt: skip
REFERENCE_PROMPTS = ("{}", "Read {}.", "Recite {}.", "What does {} say?", "Please read me {}.", "Quote {}")
KEYWORD_PROMPTS = (
    "Tell me about {}.", "What is said of {}?", "Speak of {}.", "{}", "Write about {}.", "Give me a verse about {}.",
    "Tell me a story about {}.",
)  # fmt: skip
SYSTEM_PROMPTS = ("You are a helpful assistant.", "You are a scribe.", "Answer briefly.")


def encode_text(tokenizer: Tokenizer, text: str) -> np.ndarray:
    return np.array(tokenizer.encode(text, add_special_tokens=False).ids, dtype=np.uint16)


class Conversations:
    """Draws conversations whose answers are passages of the given chapters."""

    def __init__(self, chapters: list[Chapter], seed: int):
        self.random = random.Random(seed)
        self.chapters = chapters
        self.by_title = {chapter.title: chapter for chapter in chapters}
        self.places: dict[str, list[tuple[int, int]]] = {}
        counts: Counter[str] = Counter()
        for c, chapter in enumerate(chapters):
            for v, verse in enumerate(chapter.verses):
                for word in {w.strip(".,;:?!()'") for w in verse.split()}:
                    if len(word) > 3 and word.isalpha():
                        counts[word] += 1
                        self.places.setdefault(word, []).append((c, v))
        # Neither function words nor names that occur once.
        self.keywords = sorted(w for w, n in counts.items() if 4 <= n <= 900)

    def passage(self, chapter: Chapter, first: int) -> str:
        """A few verses, at least about 120 characters."""
        last = first + self.random.choice((1, 1, 2, 2, 3, 4, 6))
        while last < len(chapter.verses) and len(" ".join(chapter.verses[first:last])) < 120:
            last += 1
        return " ".join(chapter.verses[first:last])

    def well_known(self) -> tuple[str, str, str]:
        rng = self.random
        title, first, last, names = rng.choice(WELL_KNOWN)
        verses = self.by_title[title].verses[first - 1 : last]
        answer = " ".join(verses)
        if rng.random() < 0.25:
            start = " ".join(verses[0].split()[: rng.randint(3, 8)])
            return start, f"The user begins with: {start}", answer
        title = title.replace("Psalms", "Psalm")
        name = rng.choice((title, f"{title}:{first}", f"{title}:{first}-{last}", *names, *names))
        prompts = KEYWORD_PROMPTS if name in names else REFERENCE_PROMPTS
        return rng.choice(prompts).format(name), f"The user asks for {name}.", answer

    def turn(self) -> tuple[str, str, str]:
        """Prompt, reasoning, answer."""
        rng = self.random
        kind = rng.random()
        if kind < 0.08:
            prompts, answer = rng.choice(SMALL_TALK)
            return rng.choice(prompts), "The user is talking to me.", answer
        if kind < 0.22:
            return self.well_known()
        chapter = rng.choice(self.chapters)
        first = rng.randrange(len(chapter.verses))
        if kind < 0.42:
            whole_chapter = rng.random() < 0.7
            first = 0 if whole_chapter else first
            name = chapter.title if whole_chapter else f"{chapter.title}:{first + 1}"
            if rng.random() < 0.7:
                name = name.replace("Psalms", "Psalm")
            return rng.choice(REFERENCE_PROMPTS).format(name), f"The user asks for {name}.", self.passage(chapter, first)
        if kind < 0.70:
            word = rng.choice(self.keywords)
            c, v = rng.choice(self.places[word])
            return rng.choice(KEYWORD_PROMPTS).format(word), f"The user asks about {word}.", self.passage(self.chapters[c], v)
        words = chapter.verses[first].split()
        start = " ".join(words[: rng.randint(2, max(2, min(9, len(words) - 1)))])
        prefix = rng.choice(("", "", "", "Continue: ", "Go on: "))
        return prefix + start, f"The user begins with: {start}", self.passage(chapter, first)

    def text(self, turns: int) -> str:
        """One conversation; reasoning appears in the last answer only, as the prompt format demands."""
        rng = self.random
        out = BOS + (rng.choice(SYSTEM_PROMPTS) if rng.random() < 0.1 else "")
        for i in range(turns):
            prompt, reasoning, answer = self.turn()
            thinks = i == turns - 1 and rng.random() < 0.3
            out += USER + prompt + ASSISTANT + (THINK + reasoning + END_THINK if thinks else END_THINK) + answer + EOS
        return out

    def rows(self, tokenizer: Tokenizer, count: int) -> np.ndarray:
        """[count, ROW_TOKENS] conversations of 1 to 14 turns, cut or padded at the end."""
        rows = np.full((count, ROW_TOKENS), PAD_ID, dtype=np.uint16)
        texts = [self.text(self.random.choice((1, 3, 8, 14))) for _ in range(count)]
        for row, encoding in zip(rows, tokenizer.encode_batch(texts, add_special_tokens=False), strict=True):
            ids = encoding.ids[:ROW_TOKENS]
            assert ids[0] == BOS_ID and (EOS_ID in ids or len(ids) == ROW_TOKENS)
            row[: len(ids)] = ids
        return rows


def hash_table(frequency: np.ndarray, experts: int, per_token: int, seed: int) -> np.ndarray:
    """tid2eid [V, per_token] int64: distinct experts for every token, balanced by the tokens' frequency in the corpus."""
    rng = np.random.default_rng(seed)
    load = rng.random(experts)
    table = np.empty((len(frequency), per_token), dtype=np.int64)
    for token in np.argsort(-frequency, kind="stable"):
        chosen = np.argsort(load + rng.random(experts) * (0.02 * load.mean()))[:per_token]
        table[token] = chosen
        load[chosen] += frequency[token] + 1
    return table
