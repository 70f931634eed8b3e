"""The composer of the mini prior's recipe: the picture shows what the scene and its caption say."""

import random

import pytest
import torch
from scipy import ndimage
from tiny_scenes import COLOURS, SIDE


@pytest.fixture(scope="module")
def recipe():
    import composer
    import pictures
    import scenes

    return composer, scenes, pictures


@pytest.fixture(scope="module")
def stock(recipe, scratch):
    return recipe[0].Stock(scratch)


def where(x_CHW: torch.Tensor, name: str) -> tuple[float, float]:
    """Centre (x, y) in pixels of what has the colour of a concept."""
    rgb_CHW = (x_CHW + 1) * 127.5
    near_HW = (rgb_CHW - torch.tensor(COLOURS[name])[:, None, None]).abs().amax(0) < 30
    assert near_HW.any(), f"no {name} in the picture"
    y, x = near_HW.nonzero().float().mean(0).tolist()
    return x, y


def row(stock, label: str) -> int:
    return next(n for n, c in enumerate(stock.concepts) if c["label"] == label)


def test_counts_are_pieces(recipe, stock):
    composer, scenes, _ = recipe
    for count in (1, 2, 3, 4):
        scene = scenes.Scene("count", "3d", (scenes.Subject(row(stock, "apple"), count=count),))
        for seed in range(8):
            x_BCHW = composer.compose(stock, [scene], seed)
            assert ndimage.label((x_BCHW[0] < 0.2).any(0).numpy())[1] == count


@pytest.mark.parametrize(
    "relation, axis, sign", [("to the left of", 0, -1), ("to the right of", 0, 1), ("above", 1, -1), ("below", 1, 1)]
)
def test_relations_are_places(recipe, stock, relation, axis, sign):
    composer, scenes, _ = recipe
    subjects = (scenes.Subject(row(stock, "apple")), scenes.Subject(row(stock, "fox")))
    for seed in range(8):
        x_BCHW = composer.compose(stock, [scenes.Scene("relation", "3d", subjects, relation=relation)], seed)
        first, second = where(x_BCHW[0], "apple"), where(x_BCHW[0], "fox")
        assert sign * (first[axis] - second[axis]) > SIDE / 4


def test_who_stands_behind_is_covered(recipe, stock):
    composer, scenes, _ = recipe
    subjects = (scenes.Subject(row(stock, "apple")), scenes.Subject(row(stock, "fox")))
    behind = composer.compose(stock, [scenes.Scene("relation", "3d", subjects, relation="behind")], 0)
    before = composer.compose(stock, [scenes.Scene("relation", "3d", subjects, relation="in front of")], 0)
    assert where(behind[0], "apple")[1] < where(behind[0], "fox")[1]
    assert where(before[0], "apple")[1] > where(before[0], "fox")[1]


def test_a_hat_sits_on_top(recipe, stock):
    composer, scenes, _ = recipe
    scene = scenes.Scene("accessory", "3d", (scenes.Subject(row(stock, "fox")),), accessory="top hat")
    x_CHW = composer.compose(stock, [scene], 0)[0]
    yellow_HW = ((x_CHW[0] > 0.7) & (x_CHW[2] < -0.4)).nonzero().float()
    assert 0 < yellow_HW[:, 0].mean() < where(x_CHW, "fox")[1] - 4


def test_grounds(recipe, stock):
    composer, scenes, pictures = recipe
    apple = (scenes.Subject(row(stock, "apple")),)
    asked = [{}, {"colour": "pink"}, {"colour": "blue", "second": "red"}, {"place": "beach"}]
    x_BCHW = (
        composer.compose(stock, [scenes.Scene("colour", "3d", apple, **ground) for ground in asked], 0) + 1
    ) * 127.5
    corner = x_BCHW[:, :, 0, 0]
    wanted = [(255, 255, 255), pictures.COLOURS["pink"], pictures.COLOURS["blue"], (128, 128, 128)]
    assert (corner - torch.tensor(wanted)).abs().max() < 25
    assert (x_BCHW[2, :, -1, 0] - torch.tensor(pictures.COLOURS["red"])).abs().max() < 25


def test_held_out_concepts_are_never_drawn(recipe, stock):
    _, scenes, _ = recipe
    rng, plum = random.Random(0), row(stock, "plum")
    drawn = [scenes.draw_scene(stock, rng) for _ in range(2000)]
    assert all(subject.concept != plum for scene in drawn for subject in scene.subjects)
    assert {scene.kind for scene in drawn} == set(scenes.KINDS)


def test_the_caption_says_what_is_there(recipe, stock):
    _, scenes, _ = recipe
    rng, fox, apple = random.Random(0), row(stock, "fox"), row(stock, "apple")
    said = {
        "a 3D render of a fox wearing a top hat on a beach": scenes.Scene(
            "accessory", "3d", (scenes.Subject(fox),), accessory="top hat", place="beach"
        ),
        "a flat drawing of three foxes on a pink background": scenes.Scene(
            "count", "flat", (scenes.Subject(fox, count=3),), colour="pink"
        ),
        "a 3D render of a big fox to the left of a small apple": scenes.Scene(
            "relation", "3d", (scenes.Subject(fox, size="big"), scenes.Subject(apple, size="small")), "to the left of"
        ),
        "a 3D render of a fox in blue": scenes.Scene("alone", "3d", (scenes.Subject(fox, hue=3),)),
    }
    for words, scene in said.items():
        assert scenes.caption(stock, scene, rng, plain=True) == words


def test_a_share_of_the_captions_says_a_word_that_is_near(recipe, stock, scratch):
    import near

    _, scenes, _ = recipe
    rng, table, apple, fox = random.Random(0), near.load(scratch), row(stock, "apple"), row(stock, "fox")

    def captions(*subjects: int) -> str:
        scene = scenes.Scene("alone", "3d", tuple(map(scenes.Subject, subjects)), "and" if len(subjects) > 1 else None)
        return " ".join(scenes.caption(stock, scene, rng, near=table) for _ in range(1000))

    said = captions(fox)
    assert 230 < said.count("a wolf") < 310 and 10 < said.count("a coat") < 60 and said.count("a fox") > 600
    assert (
        captions(apple).count("an apple") == 0 and captions(apple).count("a apple") == 1000
    )  # the tiny stock's article
    assert captions(fox, apple).count("fox") == 1000  # which of the two a vague word means would not be clear


def test_a_word_is_said_of_what_it_is_near_to(recipe):
    import near
    import torch

    concept_ND = torch.eye(4)
    word_WD = torch.nn.functional.normalize(torch.tensor([[1.0, 0, 0, 0], [1.0, 1.0, 0, 0], [1, 1, 1, 1.0]]), dim=1)
    weight_WN = near.weights_of(torch.cat([word_WD, -concept_ND[:1]]), concept_ND)
    assert torch.allclose(weight_WN[:3].sum(1), torch.ones(3))
    assert torch.allclose(weight_WN[:2], torch.tensor([[1.0, 0, 0, 0], [0.5, 0.5, 0, 0]]), atol=1e-3)
    assert weight_WN[3].sum() == 0  # near to nothing


def test_the_same_seed_gives_the_same_pictures(recipe, stock):
    composer, scenes, _ = recipe
    some = [scenes.draw_scene(stock, random.Random(n)) for n in range(16)]
    assert torch.equal(composer.compose(stock, some, 5), composer.compose(stock, some, 5))
    assert not torch.equal(composer.compose(stock, some, 5), composer.compose(stock, some, 6))


@pytest.mark.parametrize(
    "one, many",
    [
        ("fox", "foxes"),
        ("cherry", "cherries"),
        ("hot dog", "hot dogs"),
        ("key", "keys"),
        ("mouse", "mice"),
        ("leaf", "leaves"),
    ],
)
def test_plurals(recipe, one, many):
    assert recipe[1].plural(one) == many
