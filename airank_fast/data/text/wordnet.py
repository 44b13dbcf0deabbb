"""The text that comes with the package for word vectors: 72,886 glosses of WordNet 3.0, 827,883 words.

Source: WordNet 3.0, Princeton University, https://wordnet.princeton.edu. `wordnet.txt.xz` holds WordNet's notice, in
lines that begin with a space, and then a gloss a line, in lower-case words of letters: those of which every word is in
all 117,659 glosses together at least five times. `python -m airank_fast.sources.wordnet` makes it. The notice:

    This software and database is being provided to you, the LICENSEE, by Princeton University under the following
    license. By obtaining, using and/or copying this software and database, you agree that you have read, understood,
    and will comply with these terms and conditions.:

    Permission to use, copy, modify and distribute this software and database and its documentation for any purpose and
    without fee or royalty is hereby granted, provided that you agree to comply with the following copyright notice and
    statements, including the disclaimer, and that the same appear on ALL copies of the software, database and
    documentation, including modifications that you make for internal use or for distribution.

    WordNet 3.0 Copyright 2006 by Princeton University. All rights reserved.

    THIS SOFTWARE AND DATABASE IS PROVIDED "AS IS" AND PRINCETON UNIVERSITY MAKES NO REPRESENTATIONS OR WARRANTIES,
    EXPRESS OR IMPLIED. BY WAY OF EXAMPLE, BUT NOT LIMITATION, PRINCETON UNIVERSITY MAKES NO REPRESENTATIONS OR
    WARRANTIES OF MERCHANT- ABILITY OR FITNESS FOR ANY PARTICULAR PURPOSE OR THAT THE USE OF THE LICENSED SOFTWARE,
    DATABASE OR DOCUMENTATION WILL NOT INFRINGE ANY THIRD PARTY PATENTS, COPYRIGHTS, TRADEMARKS OR OTHER RIGHTS.

    The name of Princeton University or Princeton may not be used in advertising or publicity pertaining to distribution
    of the software and/or database. Title to copyright in this software, database and any associated documentation
    shall at all times remain with Princeton University and LICENSEE agrees to preserve same.
"""

from __future__ import annotations

import lzma
from pathlib import Path

NAME = "glosses of WordNet 3.0"
FILE = Path(__file__).with_name("wordnet.txt.xz")


def notice() -> str:
    """WordNet's notice, as the file has it."""
    return "".join(f"{line[2:]}\n" for line in _lines() if line.startswith(" "))


def sentences() -> list[list[str]]:
    """The words of each gloss."""
    return [line.split() for line in _lines() if not line.startswith(" ")]


def _lines() -> list[str]:
    return lzma.decompress(FILE.read_bytes()).decode("ascii").splitlines()
