"""Texts turned into numbers."""

from collections import Counter

import numpy as np
import pytest
from attnbench.plugins.task.imdb.archive import Review, read_archive
from attnbench.plugins.task.imdb.preparation import Preprocessing, encode
from attnbench.plugins.task.imdb.splits import duplicates, shuffled, split_by_film
from attnbench.plugins.task.imdb.vocabulary import FIRST_WORD, PAD, START, UNKNOWN, Vocabulary
from attnbench.plugins.task.imdb.words import number_words, split_words
from hypothesis import given
from hypothesis import strategies as st


@pytest.fixture(scope="module")
def read(small_reviews):
    return read_archive(small_reviews, "task.archive")


def test_text_is_lower_cased_and_split_at_breaks_and_punctuation():
    text = "It's GREAT!<br /><br />Don't miss: 10/10"
    assert split_words(text, True) == ["it's", "great", "!", "don't", "miss", ":", "10", "/", "10"]
    assert split_words(text, False) == ["it's", "great", "don't", "miss", "10", "10"]


def test_characters_without_a_width_are_no_words():
    assert split_words("\ufeffA\u200b film\u2060.", True) == ["a", "film", "."]


PIECES = ["It's", "GREAT", "<br />", " ", "\n", "'", "10/10", "é_", "...", "\xa0", "İ", "\ufeff"]


@given(st.lists(st.lists(st.sampled_from(PIECES)).map("".join)))
def test_numbering_piece_by_piece_finds_the_words_of_the_whole_text(texts):
    words, numbers, starts = number_words(texts, punctuation=True)
    assert len(starts) == len(texts) + 1
    for text, begin, end in zip(texts, starts, starts[1:], strict=False):
        assert numbers[begin] == 0
        assert [words[number] for number in numbers[begin + 1 : end]] == split_words(text, True)


def test_validation_is_a_tenth_of_both_labels_and_shares_no_film_with_training(read):
    train, val = split_by_film(read["train"])
    assert len(train) + len(val) == 80
    assert Counter(review.label for review in val) == {0: 4, 1: 4}
    assert not {review.film for review in train} & {review.film for review in val}


def test_the_vocabulary_knows_words_of_the_training_reviews_only(read, monkeypatch):
    marked = {**read, "test": [r._replace(text=r.text + " zyzzyva") for r in read["test"]]}
    preprocessing = Preprocessing(True, None, (1,), 512, "films")
    assert "zyzzyva" not in encode(marked, preprocessing, None).vocabulary.words
    _, val = split_by_film(read["train"])
    film = val[0].film
    marked = {**read, "train": [r._replace(text=r.text + " zyzzyva") if r.film == film else r for r in read["train"]]}
    assert "zyzzyva" not in encode(marked, preprocessing, None).vocabulary.words


def learned(texts, *min_counts, words=None):
    """Learn from texts of which each is made of words and spaces."""
    known = sorted({word for text in texts for word in text.split()})
    flat = [[-1, *(known.index(word) for word in text.split())] for text in texts]
    starts = np.cumsum([0, *map(len, flat)])[:-1]
    numbers = np.array([number for text in flat for number in text])
    numbers[starts] = 0
    return Vocabulary.learn(known, numbers, starts, min_counts, words)[0]


def test_rows_go_to_words_by_frequency_and_ties_by_the_alphabet():
    vocabulary = learned(["b a c", "b a", "b d"], 1)
    assert vocabulary.words == ["b", "a", "c", "d"]
    assert learned(["b a c", "b a", "b d"], 2).words == ["b", "a"]
    assert learned(["b a c", "b a", "b d"], 1, words=4).words == ["b"]


def test_pairs_and_triples_have_rows_where_they_end_by_hand():
    vocabulary = learned(["x a b c", "y a b c"], 1, 2, 2)
    rows = vocabulary.encode("z a b c b", True, 512)
    words = [FIRST_WORD + vocabulary.words.index(word) for word in "abc"]
    assert vocabulary.size == vocabulary.num_words + 2 + 1  # a b, b c; a b c
    ab, bc, abc = vocabulary.num_words, vocabulary.num_words + 1, vocabulary.num_words + 2
    assert rows[:, 0].tolist() == [START, UNKNOWN, *words, words[1]]
    assert rows[:, 1].tolist() == [0, 0, 0, ab, bc, 0]
    assert rows[:, 2].tolist() == [0, 0, 0, 0, abc, 0]


def test_no_pair_reaches_from_one_review_into_the_next():
    vocabulary = learned(["a b", "a b"], 1, 1)
    rows = vocabulary.rows(np.array([START, 3, 4, START, 3, 4], np.int32), np.array([0, 3]))
    assert rows[3, 1] == PAD
    assert rows[4, 1] == rows[1, 1] != PAD  # the start and its first word are a pair
    assert rows[5, 1] == rows[2, 1] != PAD


def test_encoding_one_text_gives_what_preparing_gave(read):
    preprocessing = Preprocessing(True, None, (1, 2, 2), 12, "films")
    prepared = encode(read, preprocessing, None)
    rows, offsets, _ = prepared.splits["test"]
    texts = sorted(read["test"], key=lambda review: shuffled(review.text))
    for number in (0, 5, 79):
        expected = rows[offsets[number] : offsets[number + 1]]
        assert np.array_equal(prepared.vocabulary.encode(texts[number].text, True, 12), expected)
        assert len(expected) <= 12


def test_duplicates_are_counted_across_and_within():
    train = [Review(text, 0, "") for text in "aabc"]
    assert duplicates({"train": train, "test": [Review(t, 1, "") for t in "bcdd"]}) == (2, 1, 1)
