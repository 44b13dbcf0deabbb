"""Glosses from WordNet's data files, inside a Debian package: a small one, made here."""

from __future__ import annotations

import io
import tarfile

import pytest

from airank_fast.errors import UserError
from airank_fast.sources import wordnet

NOTICE = ["  1 This software and database is provided  ", "  2   ", "  3 WordNet 3.0 Copyright 2006  "]
NOUN = [
    *NOTICE,
    '00001740 03 n 01 dog 0 000 | a Dog\'s bark; "the bark, loud" ',
    "1 03 n 01 x 0 000 | the bark of 2 dogs  ",
]
VERB = [*NOTICE, "2 03 v 01 y 0 000 | bark a dog's bark the way", "3 03 v 01 y 0 000 | 12 "]


def package() -> bytes:
    """An ar archive with a member of odd length and data.tar.xz."""
    tar = io.BytesIO()
    with tarfile.open(fileobj=tar, mode="w:xz") as archive:
        for name, lines in zip(wordnet.FILES, (NOUN, VERB, NOTICE, NOTICE), strict=True):
            content = "".join(f"{line}\n" for line in lines).encode()
            info = tarfile.TarInfo(f"./{name}")
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
    found = b"!<arch>\n"
    for name, content in (("debian-binary", b"2.0"), ("data.tar.xz", tar.getvalue())):
        found += f"{name:16}{0:<12}{0:<6}{0:<6}{100644:<8}{len(content):<10}`\n".encode() + content
        found += b"\n" * (len(content) % 2)
    return found


def test_glosses_of_frequent_words_behind_the_notice():
    files = wordnet.data_files(package())
    assert files[:2] == [NOUN, VERB]
    text = wordnet.convert(files, least=2)
    notice = "  This software and database is provided\n \n  WordNet 3.0 Copyright 2006\n"
    assert text == notice
    assert wordnet.convert(files, least=1).removeprefix(notice).splitlines() == [
        "a dog's bark the bark loud",
        "the bark of dogs",
        "bark a dog's bark the way",
    ]
    of_two = wordnet.of_frequent_words([["a", "b"], ["a"], ["c"]], 2)
    assert of_two == [["a"]]


def test_another_file():
    with pytest.raises(UserError, match="package: must be a Debian package, got another file"):
        wordnet.data_files(b"PK")
