"""The example's articles are what their page says: fields, lengths, counts, labels, facts."""

from __future__ import annotations

import json
import re
from collections import Counter
from typing import Any

import pytest
from pages import ROOT

FOLDER = ROOT / "examples" / "media_company"
PAGE = (FOLDER / "ARTICLES.md").read_text(encoding="utf-8")
ARTICLES: list[dict[str, Any]] = [
    json.loads(line)
    for line in (FOLDER / "articles.jsonl").read_text(encoding="utf-8").split("\n")[:-1]
]
FIELDS = ["id", "language", "topic", "title", "text", "category", "reference_summary", "seo"]
WORDS = {"short": (120, 200), "middle": (250, 400), "long": (500, 750)}
NUMBER = re.compile(r"\d+(?:[.,:]\d+)*")
SENTENCE_END = re.compile(r"[.!?…][”\"»«“)]?(?=\s+[^\W\d_a-zà-ÿ]|\s+[¿¡„\"“«]|$)")
# Two articles that share as many words in a row were made from one mould.
SAME_WORDS = 9
FREQUENT = {
    "en": {"the", "and", "was", "that"},
    "de": {"der", "und", "das", "nicht"},
    "es": {"el", "los", "una", "por"},
    "fr": {"les", "et", "une", "dans"},
}


def table(heading: str) -> list[list[str]]:
    """Rows of the first table whose head begins with `heading`, without the head."""
    lines = PAGE[PAGE.index(f"| {heading} |") :].split("\n\n", 1)[0].splitlines()[2:]
    return [[cell.strip() for cell in line.strip("| ").split("|")] for line in lines]


CATEGORIES = [row[0] for row in table("category | the news is")]


def length_of(article: dict[str, Any]) -> str:
    words = len(article["text"].split())
    return next(name for name, (low, high) in WORDS.items() if low <= words <= high)


each = pytest.mark.parametrize("article", ARTICLES, ids=lambda article: article["id"])


@each
def test_an_article_has_its_fields(article: dict[str, Any]) -> None:
    assert list(article) == [*FIELDS, "facts"]
    assert list(article["seo"]) == ["title", "description", "keywords", "slug"]
    assert article["category"] in CATEGORIES
    assert length_of(article) in WORDS
    texts = [article["topic"], article["title"], article["text"], article["reference_summary"]]
    assert all(text and text == text.strip() for text in texts)


@each
def test_a_summary_holds_the_facts_and_no_other_number(article: dict[str, Any]) -> None:
    text, summary = article["text"], article["reference_summary"]
    assert 2 <= len(SENTENCE_END.findall(summary)) <= 4
    assert len(summary.split()) <= len(text.split()) / 2
    assert 3 <= len(set(article["facts"])) == len(article["facts"]) <= 5
    assert [fact for fact in article["facts"] if fact not in text or fact not in summary] == []
    made = [article["title"], summary, article["seo"]["title"], article["seo"]["description"]]
    numbers = set(NUMBER.findall(text))
    assert {number for line in made for number in NUMBER.findall(line)} - numbers == set()


@each
def test_metadata_keeps_its_limits(article: dict[str, Any]) -> None:
    seo = article["seo"]
    assert 0 < len(seo["title"]) <= 60
    assert 0 < len(seo["description"]) <= 155
    assert 3 <= len({word.casefold() for word in seo["keywords"]}) == len(seo["keywords"]) <= 6
    assert re.fullmatch(r"[a-z0-9]+(-[a-z0-9]+)*", seo["slug"])


@each
def test_the_language_is_the_one_named(article: dict[str, Any]) -> None:
    words = Counter(re.findall(r"\w+", article["text"].casefold()))
    shares = {name: sum(words[word] for word in own) for name, own in FREQUENT.items()}
    assert max(shares, key=shares.__getitem__) == article["language"]


def test_no_two_articles_are_alike() -> None:
    assert [article["id"] for article in ARTICLES] == [
        f"mc-{number:03}" for number in range(1, len(ARTICLES) + 1)
    ]
    for key in ("title", "text", "reference_summary", "topic"):
        assert len({article[key] for article in ARTICLES}) == len(ARTICLES)
    assert len({article["seo"]["slug"] for article in ARTICLES}) == len(ARTICLES)
    seen: dict[tuple[str, ...], str] = {}
    shared = []
    for article in ARTICLES:
        words = re.findall(r"\w+", article["text"].casefold())
        for start in range(len(words) - SAME_WORDS + 1):
            run = tuple(words[start : start + SAME_WORDS])
            if seen.setdefault(run, article["id"]) != article["id"]:
                shared.append((seen[run], article["id"], " ".join(run)))
    assert shared == []


def test_the_page_counts_the_articles() -> None:
    rows = {row[0]: [int(cell) for cell in row[1:]] for row in table("category | articles")}
    assert list(rows) == [*CATEGORIES, "all"]
    for name, counts in rows.items():
        own = [article for article in ARTICLES if name in (article["category"], "all")]
        lengths = Counter(length_of(article) for article in own)
        languages = Counter(article["language"] for article in own)
        found = [len(own), *(lengths[key] for key in WORDS), *(languages[key] for key in FREQUENT)]
        assert counts == found, name
    assert rows["all"][1:4] == [len(ARTICLES) // 3] * 3


def test_the_hard_cases_are_labelled_as_the_page_says() -> None:
    labels = {article["id"]: article["category"] for article in ARTICLES}
    assert set(re.findall(r"mc-\d{3}", PAGE)) <= set(labels)
    rows = table("article | could be")
    assert [row[0] for row in rows] == sorted({row[0] for row in rows})
    for name, tempting, label, _ in rows:
        assert labels[name] == label
        assert tempting in CATEGORIES
        assert tempting != label
