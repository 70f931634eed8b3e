"""Captions: words of names, templates, tags at random, and the words that a caption lacks."""

from collections import Counter
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from limner.data.captions import Captioner, is_tags, missing_words, tags_of, words_of
from limner.errors import ConfigError, DataError
from limner.types import Sample

TAGS = "1girl, red hair, smile, outdoors, from above"


def sample(name: str = "red_fox-03.png", caption: str = "a red fox", key: str = "fox", **meta: object) -> Sample:
    return Sample(key, caption, Path("data") / name, meta=meta)


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("red_fox-03.png", "red fox"),
        ("red fox (2).jpeg", "red fox"),
        ("red.fox.0012.webp", "red fox"),
        ("Red_Fox.PNG", "Red Fox"),
        ("animals/red_fox.png", "red fox"),
        ("red-fox-640x480.png", "red fox"),
        ("red-fox-a3f9c0d1e2.png", "red fox"),
        ("red_fox_1_2_3.png", "red fox"),
        ("red fox - Copy.png", "red fox"),
        ("fox12.png", "fox"),
        ("0007_red_fox.png", "red fox"),
        ("20240131_beach.jpg", "beach"),
        ("3_apples.png", "3 apples"),
        ("mp3.png", "mp3"),
        ("B52.png", "B52"),
        ("a fox, sitting.png", "a fox, sitting"),
        ("photo_of_a_fox.png", "photo of a fox"),
        ("new_york.png", "new york"),
        ("renard_roux_é.png", "renard roux é"),
        ("renard_e\u0301.png", "renard é"),
        ("赤い狐_01.png", "赤い狐"),
        ("decade.png", "decade"),
        ("facade_01.png", "facade"),
        ("facade01.png", "facade"),
        ("deadbeef.png", "deadbeef"),
    ],
)
def test_words_of_a_name(name: str, words: str) -> None:
    assert words_of(name) == words


CAMERAS = """
    IMG_1234.JPG IMG_1234 DSC0001.jpg _DSC1234.jpg DSC_0001.NEF DSCN0042.jpg DSCF7.jpg P1010001.JPG PXL_20240131.jpg
    IMG-20200101-WA0001.jpg PXL_20230101_120000123.jpg 0001.png 12.png image001.png image-3.webp photo1.jpg Untitled.png
    untitled-2.png GOPR0001.JPG DJI_0042.JPG _MG_1234.jpg scan0001.tif frame_000123.png 00000-1234567.png a3f9c0d1e2.jpg
    Screenshot_20210101-120000.png 123e4567-e89b-12d3-a456-426614174000.png img.png _.png --.png 20240131T120000.png
    IMG_1234(1).jpg IMG_1234-edited.jpg 1600x900.png
"""


@pytest.mark.parametrize("name", sorted(CAMERAS.split()))
def test_names_of_cameras_and_programs_have_no_words(name: str) -> None:
    assert words_of(name) == ""


def test_screenshots_have_no_words() -> None:
    assert words_of("Screenshot 2020-01-01 at 10.00.00 AM.png") == ""
    assert words_of("Screen Shot 2020-01-01 at 10.00.00.png") == ""
    assert words_of("") == ""


@given(st.text(max_size=40))
def test_words_are_clean_whatever_the_name(name: str) -> None:
    words = words_of(name)
    assert words == " ".join(words.split())
    assert not set(words) & set("_/()[]{}")


def test_captions_of_the_data_are_left_as_they_are() -> None:
    assert Captioner().caption(sample(caption=" a, b ,c "), 3) == " a, b ,c "


def test_captions_of_names() -> None:
    assert Captioner("name").caption(sample(), 0) == "red fox"
    with pytest.raises(DataError, match=r"IMG_1234\.png has no words"):
        Captioner("name").caption(sample("IMG_1234.png"), 0)


def test_templates() -> None:
    captioner = Captioner("template", "{trigger} {class_word}, {caption}; {name} {{{place}}} {n} {tags}", "sks", "fox")
    record = sample(place="Rome", n=3, tags=["a", "b"])
    assert captioner.caption(record, 0) == "sks fox, a red fox; red fox {Rome} 3 a, b"


def test_a_template_wins_over_meta_of_the_same_name() -> None:
    assert Captioner("template", "{trigger} {caption}", "sks").caption(sample(trigger="x"), 0) == "sks a red fox"


@pytest.mark.parametrize(
    ("template", "wrong"),
    [
        ("", "empty"),
        ("{caption", "expected '}'"),
        ("{}", r"holds \{\}"),
        ("{0}", r"holds \{0\}"),
        ("{caption!r}", r"holds \{caption!r\}"),
        ("{caption:>9}", r"holds \{caption:>9\}"),
        ("{caption.real}", r"holds \{caption.real\}"),
        ("{trigger}", "which is empty"),
        ("{class_word}", "which is empty"),
    ],
)
def test_a_bad_template_is_refused_when_the_captioner_is_built(template: str, wrong: str) -> None:
    with pytest.raises(ConfigError, match=wrong) as caught:
        Captioner("template", template)
    assert caught.value.hint


@pytest.mark.parametrize(
    "bad", [{"caption_from": "nmae"}, {"tag_dropout": 1.0}, {"tag_dropout": -1}, {"keep_tags": -1}]
)
def test_values_out_of_range(bad: dict) -> None:
    with pytest.raises(ConfigError) as caught:
        Captioner(**bad)
    assert "caption_from" not in bad or "'name'" in caught.value.hint


def test_a_field_that_a_record_lacks_is_named_with_its_file() -> None:
    with pytest.raises(ConfigError, match=r"\{plaec\}, which data.red_fox-03\.png") as caught:
        Captioner("template", "{plaec}").caption(sample(place="Rome"), 0)
    assert "'place'" in caught.value.hint
    with pytest.raises(ConfigError, match=r"\{place\}"):
        Captioner("template", "{place}").caption(sample(place=None), 0)
    with pytest.raises(ConfigError) as caught:
        Captioner("template", "{captoin}").caption(sample(), 0)
    assert "'caption'" in caught.value.hint


def test_tags_or_a_sentence() -> None:
    assert is_tags(TAGS)
    assert not is_tags("a red fox")
    assert not is_tags("A red fox, sitting in the snow, looks up.")
    assert tags_of(" a,b ,, c") == ["a", "b", "c"]


@pytest.mark.parametrize("caption", ["a red fox", "A fox, which sits.", ""])
def test_sentences_are_never_shuffled(caption: str) -> None:
    captioner = Captioner(shuffle_tags=True, tag_dropout=0.5)
    assert [captioner.caption(sample(caption=caption), number) for number in range(5)] == [caption] * 5


def test_shuffling_keeps_all_tags_and_the_first_in_place() -> None:
    captioner = Captioner(shuffle_tags=True, keep_tags=2)
    variants = [tags_of(captioner.caption(sample(caption=TAGS), number)) for number in range(60)]
    assert all(sorted(variant) == sorted(tags_of(TAGS)) for variant in variants)
    assert all(variant[:2] == ["1girl", "red hair"] for variant in variants)
    assert len({tuple(variant) for variant in variants}) == 6  # 3! orders of what is left


def test_tags_are_dropped_at_the_stated_rate_in_their_order() -> None:
    captioner = Captioner(tag_dropout=0.3, keep_tags=1)
    variants = [tags_of(captioner.caption(sample(caption=TAGS), number)) for number in range(2000)]
    counts = Counter(tag for variant in variants for tag in variant)
    assert counts["1girl"] == 2000
    for tag in tags_of(TAGS)[1:]:
        assert abs(counts[tag] / 2000 - 0.7) < 0.04  # four standard errors
    order = {tag: place for place, tag in enumerate(tags_of(TAGS))}
    assert all(variant == sorted(variant, key=order.__getitem__) for variant in variants)


@given(st.lists(st.sampled_from("abcdefgh"), min_size=2, max_size=8), st.integers(0, 9), st.integers(0, 4), st.text())
def test_variants_are_pure_never_empty_and_keep_what_is_kept(tags: list, number: int, keep: int, key: str) -> None:
    captioner = Captioner(shuffle_tags=True, tag_dropout=0.9, keep_tags=keep)
    record = sample(caption=", ".join(tags), key=key)
    variant = tags_of(captioner.caption(record, number))
    assert variant == tags_of(Captioner(**vars(captioner)).caption(record, number))
    assert variant and variant[: min(keep, len(tags))] == tags[:keep]
    assert not Counter(variant) - Counter(tags)


def test_keys_and_numbers_draw_different_variants() -> None:
    captioner = Captioner(shuffle_tags=True)
    long = ", ".join(map(str, range(30)))
    drawn = {captioner.caption(sample(caption=long, key=key), number) for key in "ab" for number in range(20)}
    assert len(drawn) == 40


def test_tags_of_a_filled_in_template_are_shuffled_behind_the_trigger() -> None:
    captioner = Captioner("template", "{trigger}, {caption}", "sks", shuffle_tags=True, tag_dropout=0.5, keep_tags=1)
    variants = [captioner.caption(sample(caption=TAGS), number) for number in range(20)]
    assert all(tags_of(variant)[0] == "sks" for variant in variants)
    assert len(set(variants)) > 10


@pytest.mark.parametrize(
    ("caption", "missing"),
    [
        ("a photo of sks dog", []),
        ("a photo of SKS Dog.", []),
        ("a photo of sks dogs", ["dog"]),
        ("a photo of asks dog", ["sks"]),
        ("a dog", ["sks"]),
        ("", ["sks", "dog"]),
        ("sks-dog", []),
    ],
)
def test_missing_words(caption: str, missing: list[str]) -> None:
    assert missing_words(caption, "sks", "dog") == missing


def test_missing_words_of_several_parts_and_of_marks() -> None:
    assert missing_words("my  Red\nFox here", "red fox", "") == []
    assert missing_words("a <cat-toy> on a table", "<cat-toy>", "") == []
    assert missing_words("a fox", "", "") == []
