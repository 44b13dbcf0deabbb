"""Turns data sets as they are published into what `airank_fast.data` reads; see `airank_fast.prepare`.

mediawiki   XML export -> pages            wikitext    page -> paragraphs        sentences   paragraph -> sentences
documents   inputs -> text parts           wikicorpus  the stages, to shards
imagenet    tars -> folders of pictures    verify      a prepared data set against its manifest
word_text   text files -> encoded sentences
adult, flights, wordnet, questions_words   published packages -> the files that come with this one
"""
