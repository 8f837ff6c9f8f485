"""Breeds: the table of 120, its two ways, and the names that people read."""

import re

import pytest

from dogbreed import breeds


def test_there_are_120_breeds_with_a_synset_each() -> None:
    assert len(breeds.SYNSETS) == len(breeds.NAMES) == 120
    assert all(re.fullmatch(r"n\d{8}", synset) for synset in breeds.NAMES)
    assert all(re.fullmatch(r"[a-z_-]+", name) for name in breeds.SYNSETS)


def test_the_two_tables_are_each_others_inverse_in_the_order_of_the_synsets() -> None:
    assert {breeds.NAMES[synset]: synset for synset in breeds.NAMES} == breeds.SYNSETS
    assert list(breeds.NAMES) == sorted(breeds.NAMES)


@pytest.mark.parametrize(
    ("name", "synset"),
    [("chihuahua", "n02085620"), ("african_hunting_dog", "n02116738"), ("pug", "n02110958")],
)
def test_well_known_breeds_have_imagenets_synsets(name: str, synset: str) -> None:
    assert breeds.SYNSETS[name] == synset


@pytest.mark.parametrize(
    ("folder", "synset"),
    [
        ("n02088364-beagle", "n02088364"),
        ("n02088364-Beagle", "n02088364"),
        ("n02097474-Tibetan_terrier", "n02097474"),
        ("n02089078-black-and-tan_coonhound", "n02089078"),
        ("n02088364", "n02088364"),
        ("beagle", "n02088364"),
        ("Great_Dane", "n02109047"),
        ("black-and-tan_coonhound", "n02089078"),
        ("shih-tzu", "n02086240"),
    ],
)
def test_folders_of_stanford_and_names_of_kaggle_give_the_synset(folder: str, synset: str) -> None:
    assert breeds.synset_of(folder) == synset


@pytest.mark.parametrize(
    "folder", ["dalmatian", "n02110341-dalmatian", "synthetic_flopear", "n99999999-beagle", ""]
)
def test_a_breed_outside_the_table_has_no_synset(folder: str) -> None:
    assert breeds.synset_of(folder) is None


@pytest.mark.parametrize(
    ("name", "title"),
    [
        ("great_dane", "Great Dane"),
        ("pug", "Pug"),
        ("black-and-tan_coonhound", "Black-and-tan Coonhound"),
        ("Already Fine", "Already Fine"),
        ("", ""),
    ],
)
def test_a_title_is_words_with_capitals(name: str, title: str) -> None:
    assert breeds.title(name) == title
