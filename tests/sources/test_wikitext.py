"""Markup to prose, on the export fragment and on difficult markup."""

from pathlib import Path

import pytest

pytest.importorskip("mwparserfromhell")

from airank_fast.sources.mediawiki import Dump
from airank_fast.sources.sentences import split_sentences
from airank_fast.sources.wikitext import paragraphs

MEDIA = {"file", "image", "category", "файл"}


@pytest.fixture(scope="module")
def prose() -> dict[str, list[str]]:
    dump = Dump(Path(__file__).parent / "export.xml")
    return {page.title: paragraphs(page.text, dump.media) for page in dump.pages()}


def test_an_article_with_all_there_is(prose):
    assert prose["Lighthouse of Northpoint"] == [
        "The Lighthouse of Northpoint (Leuchtturm Nordspitze) is a light tower on the northern cape of the island. It "
        "was built by J. M. Reuter between 1874 and 1876 and is 36 m high. Since 1978 it has been unmanned.",
        'A first tower, made of wood, stood here from 1811 — it burnt down in the night of 3 March 1873. "Nothing was '
        'left but the stones," wrote the keeper. The harbour office paid for a new one within a year (see below).',
        "The shaft has 112 steps; visitors may climb them on Sundays. Its light is white, flashing every 12 seconds, "
        "and visible for about 21 nautical miles in clear weather.",
        "Ida Brandt, who kept the light alone for eleven years.",
    ]


def test_markup_that_is_never_closed(prose):
    text = prose["Salt marsh"]
    assert text[0].startswith("A salt marsh is flooded by the tide twice a day.")
    assert "The next sentence follows all the same." in text[1]
    assert not any(sign in line for line in text for sign in ("[[", "'''", "{|", "{{", "wikitable"))


def test_entities_nowiki_and_tags(prose):
    text = prose["Typography of numbers"]
    assert "[[This]]" not in text[0]
    assert "This is shown as it is in a manual." in text[0]
    assert text[0].endswith("H2O is kept, and so are <angles> & signs −5…")
    assert text[1:] == [
        "An indented remark that is a sentence.",
        "Numbers are the poor man's letters, as the proverb has it.",
    ]


def test_other_scripts(prose):
    assert prose["Маяк"][1:] == ["В 1874 г. построили новую башню. Она стоит до сих пор!"]
    assert prose["燈塔"][0].startswith("燈塔（lighthouse）是建在海岸、港口或者河道上的信号發射設施。早期")
    assert prose["منارة"][0].startswith("المنارة (بالإنجليزية: Lighthouse) هي برج")
    assert len(prose["प्रकाशस्तंभ"]) == 1


def test_pages_without_prose(prose):
    assert prose["Hidden page"] == prose["Northpoint (disambiguation)"] == prose["Old lighthouse"] == []


@pytest.mark.parametrize(
    ("markup", "expected"),
    [
        ("Paris ({{IPA|x}}; {{foo}}) is big.", "Paris is big."),
        ("Paris ({{IPA|x}}, a city; {{foo}}) is big.", "Paris (a city) is big."),
        ("A [[:Category:Cities|list]] and [[:File:X]] stay.", "A list and File:X stay."),
        ("[[fr:Paris]][[zh-min-nan:Paris]]It is [[fr:Paris|there]].", "It is there."),
        ("See [[Paris (Texas)|]] and [[a_b]].", "See Paris and a b."),
        ("x&#xFFFFFFFF;y&bogus;z&eacute;.", "x&#xFFFFFFFF;y&bogus;zé."),
        ("{{a|{{b|{{c|[[d|{{e}}]]}}}}}}Deep.", "Deep."),
        ("<ref name=x>{{cite|[[y]]}}</ref>Text<ref name=x/>.", "Text."),
        ("Zero\u200bwidth\ufeff and\u00ad soft\u200e.", "Zerowidth and soft."),
        ("No end of a sentence", ""),
        (
            "No end of a sentence, but so long that it can only be prose, as in scripts that do not mark it",
            "No end of a sentence, but so long that it can only be prose, as in scripts that do not mark it",
        ),
        ("12. 345!", ""),
    ],
)
def test_pieces(markup, expected):
    assert paragraphs(markup, MEDIA) == ([expected] if expected else [])


def test_markup_nested_a_thousand_times_does_not_bring_it_down():
    paragraphs("{{" * 2000 + "x" + "}}" * 2000, MEDIA)
    paragraphs("[[" * 2000 + "x" + "]]" * 2000, MEDIA)
    paragraphs("<div>" * 2000 + "x." + "</div>" * 2000, MEDIA)


@pytest.mark.parametrize(
    ("paragraph", "expected"),
    [
        ("One. Two! Three?", ["One.", "Two!", "Three?"]),
        (
            "Dr. Smith met J. R. R. Tolkien in the U.S. Army in 3.14 days. He left.",
            ["Dr. Smith met J. R. R. Tolkien in the U.S. Army in 3.14 days.", "He left."],
        ),
        (
            'He said "Stop." Then (at last.) It ended...  And so on.',
            ['He said "Stop."', "Then (at last.)", "It ended...", "And so on."],
        ),
        ("e.g. this and i.e. That too. 5 came.", ["e.g. this and i.e. That too.", "5 came."]),
        (
            "吾輩は猫である。名前はまだ無い。「そうか。」行く！",
            ["吾輩は猫である。", "名前はまだ無い。", "「そうか。」", "行く！"],
        ),
        ("यह एक है। यह दो है।", ["यह एक है।", "यह दो है।"]),
        ("هل هذا؟ نعم.", ["هل هذا؟", "نعم."]),
        ("", []),
        ("   ", []),
        ("...", ["..."]),
    ],
)
def test_sentences(paragraph, expected):
    assert split_sentences(paragraph) == expected
