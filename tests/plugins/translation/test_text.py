"""Sentences as words."""

import pytest
from attnbench.plugins.task.translation.text import count_words, join_words, split_words

SENTENCES = {
    "I don't have any money.": "i don't have any money .",
    "Je n’ai pas d'argent !": "je n' ai pas d' argent !",
    "Qu'est-ce que c'est ?": "qu' est -ce que c' est ?",
    "It's Tom's part-time job, isn't it?": "it's tom's part -time job , isn't it ?",
    "Aujourd'hui, l'homme est au-dessus.": "aujourd' hui , l' homme est au -dessus .",
    "«\u202fÉté\u00a0» - e\u0301te\u0301": "« été » - été",
}


@pytest.mark.parametrize("sentence", SENTENCES)
def test_words_are_split_at_elisions_and_hyphens(sentence):
    assert " ".join(split_words(sentence, lower=True)) == SENTENCES[sentence]


def test_case_may_stay():
    assert split_words("Tom et l'Amour", lower=False) == ["Tom", "et", "l'", "Amour"]


def test_marks_are_no_words():
    assert count_words(split_words("« Qu'est-ce que c'est ? »", lower=True)) == 6
    assert count_words(["a", "7", "?"]) == 2


@pytest.mark.parametrize("sentence", ["je n'ai pas d'argent.", "qu'est-ce que c'est ?", "it's tom's, isn't it ?"])
def test_words_are_joined_as_they_were_written(sentence):
    assert join_words(" ".join(split_words(sentence, lower=True))) == sentence
