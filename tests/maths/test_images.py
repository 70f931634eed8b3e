"""Pictures survive the way from tensor to file and back."""

import json

import torch
from PIL import Image

from limner.data.prepare import to_float, to_uint8
from limner.sampling.images import contact_sheet, save_png, to_pil


def every_value() -> torch.Tensor:
    return torch.arange(256, dtype=torch.uint8).view(1, 1, 16, 16).repeat(2, 3, 1, 1)


def test_uint8_and_float_are_inverse():
    assert torch.equal(to_uint8(to_float(every_value())), every_value())
    assert to_uint8(torch.tensor([[[[-7.0, 7.0]]]])).flatten().tolist() == [0, 255]


def test_contact_sheet_places_pictures_in_reading_order():
    pictures = to_pil(torch.stack([torch.full((3, 8, 8), 50 * i, dtype=torch.uint8) for i in range(5)]))
    sheet = contact_sheet([pictures[i : i + 2] for i in range(0, 5, 2)], [])
    assert sheet.size == (2 * 12 + 4, 3 * 12 + 4)
    assert [sheet.getpixel((8 + 12 * (i % 2), 8 + 12 * (i // 2)))[0] for i in range(5)] == [0, 50, 100, 150, 200]
    assert sheet.getpixel((20, 32)) == (255, 255, 255)


def test_contact_sheet_has_room_for_titles_and_fits_sizes():
    sheet = contact_sheet([[Image.new("RGB", (32, 32)), Image.new("L", (64, 64))]], ["sketch", "sample"])
    assert sheet.size == (76, 60)


def test_contact_sheet_runs_down_one_block_and_on_in_the_next():
    pictures = to_pil(torch.stack([torch.full((3, 8, 8), 50 * i, dtype=torch.uint8) for i in range(3)]))
    sheet = contact_sheet([[picture] for picture in pictures], ["a"], blocks=2)
    assert sheet.size == (2 * 20 - 4, 20 + 2 * 12 + 4)
    assert [sheet.getpixel(place)[0] for place in ((8, 28), (8, 40), (28, 28), (28, 40))] == [0, 50, 100, 255]


def test_png_says_how_it_was_made(tmp_path):
    file = tmp_path / "new" / "fox.png"
    save_png(to_pil(every_value())[0], file, {"prompt": "füchschen", "seed": 3})
    assert json.loads(Image.open(file).text["limner"]) == {"prompt": "füchschen", "seed": 3}
    assert [path.name for path in file.parent.iterdir()] == ["fox.png"]
