"""The export fragment, page by page: compressed in every form, truncated, or not an export."""

import bz2
import gzip
import hashlib
from pathlib import Path

import pytest

from airank_fast.errors import UserError
from airank_fast.sources.mediawiki import Dump

EXPORT = Path(__file__).parent / "export.xml"


@pytest.mark.parametrize(("name", "pack"), [("a.xml", bytes), ("a.xml.bz2", bz2.compress), ("a.xml.gz", gzip.compress)])
def test_pages(tmp_path, name, pack):
    path = tmp_path / name
    path.write_bytes(pack(EXPORT.read_bytes()))
    dump = Dump(path)
    pages = list(dump.pages())
    assert dump.num_pages == len(pages) == 16
    assert dump.media == {"file", "image", "category", "файл", "категория"}
    assert [page.title for page in pages[:3]] == [
        "Old lighthouse",
        "Lighthouse of Northpoint",
        "Talk:Lighthouse of Northpoint",
    ]
    assert [page.title for page in pages if page.is_redirect] == ["Old lighthouse"]
    assert [page.namespace for page in pages[:6]] == [0, 0, 1, 10, 828, 0]
    assert {page.model for page in pages} == {"wikitext", "Scribunto", "sanitized-css"}
    by_title = {page.title: page for page in pages}
    assert by_title["Hidden page"].text == ""
    assert by_title["प्रकाशस्तंभ"].text.endswith("यह दूसरा संस्करण है।")  # of two revisions the newer
    assert dump.file.sha256() == hashlib.sha256(path.read_bytes()).hexdigest()


def test_a_dump_of_several_streams(tmp_path):
    """As pages-articles-multistream.xml.bz2 is: a bzip2 stream for each hundred pages."""
    text = EXPORT.read_bytes()
    cut = text.index(b"<page>", 5000)
    path = tmp_path / "a.xml.bz2"
    path.write_bytes(bz2.compress(text[:cut]) + bz2.compress(text[cut:]))
    assert len(list(Dump(path).pages())) == 16


@pytest.mark.parametrize(("name", "pack"), [("a.xml.bz2", bz2.compress), ("a.xml.gz", gzip.compress), ("a.xml", bytes)])
def test_a_dump_that_breaks_off(tmp_path, name, pack):
    path = tmp_path / name
    content = pack(EXPORT.read_bytes())
    path.write_bytes(content[: len(content) * 2 // 3])
    with pytest.raises(UserError) as error:
        list(Dump(path).pages())
    assert str(error.value).startswith(f"input: must be a whole MediaWiki export, {path} is truncated after ")
    assert "\n" not in str(error.value)


def test_a_dump_that_breaks_off_between_two_streams(tmp_path):
    text = EXPORT.read_bytes()
    path = tmp_path / "a.xml.bz2"
    path.write_bytes(bz2.compress(text[: text.index(b"<page>", 5000)]))
    with pytest.raises(UserError, match="is truncated after 2 pages"):
        list(Dump(path).pages())


def test_what_is_no_export(tmp_path):
    path = tmp_path / "a.xml"
    path.write_text("<html><page/></html>")
    with pytest.raises(UserError, match=r"a MediaWiki export, got .*, which is <html>"):
        list(Dump(path).pages())
    path.write_text("no markup")
    with pytest.raises(UserError, match="is truncated after 0 pages, before the first"):
        list(Dump(path).pages())
