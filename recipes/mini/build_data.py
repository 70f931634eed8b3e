"""From npm packages to the packaged data set (`fluent.zip` and its layers) and to the arrays that train the mini prior.

Idea: four families of emoji artwork draw the same concepts. Joined on code points they give, for every concept, a 3D
render, a flat drawing, a line drawing and a drawing in a second hand (Noto), with open captions. The 3D renders, the
line and the flat drawings are packaged as plain image folders; all four, at 64 px, go to a scratch folder for training.

    npm install @lobehub/fluent-emoji-3d@1.1.0 @iconify-json/fluent-emoji-flat@1.2.6 \
        @iconify-json/fluent-emoji-high-contrast@1.2.6 @iconify-json/noto@1.2.9 emojibase-data@17.0.0 emojilib@4.0.3
    python recipes/mini/build_data.py --packages node_modules --scratch scratch/mini --assets src/limner/assets

What is held out is held out of everything: no autoencoder, denoiser, tokenizer or judge ever sees a `validation` or
`test` concept, in any style. Variants of one idea (man / woman / person running) share one split.
"""

import argparse
import hashlib
import io
import json
import re
import zipfile
from collections.abc import Iterable
from pathlib import Path

import captions
import numpy as np
import resvg_py
from PIL import Image

STYLES = ("3d", "flat", "noto", "line")
DROPPED_GROUPS = {2, 8, 9}  # emojibase: components, symbols, flags
SKIN_TONES = {f"1F3F{digit}" for digit in "BCDEF"}
# Code points that say who does it (joiner, gender signs, man, woman, person): variants of one idea share the rest.
WHO = {"200D", "2640", "2642", "1F468", "1F469", "1F9D1"}
TEST_CONCEPTS, VALIDATION_CONCEPTS = 128, 32


def concept_id(code_points: str) -> str:
    """One spelling for all packages: upper case, and without the invisible variation selector FE0F."""
    return "-".join(p for p in code_points.upper().split("-") if p != "FE0F")


def read_json(path: Path):
    return json.loads(path.read_text(encoding="utf-8"))


def open_icons(folder: Path) -> dict[str, str]:
    """An iconify package as {concept id: SVG text}."""
    icons, chars = read_json(folder / "icons.json"), read_json(folder / "chars.json")
    aliases, found = icons.get("aliases", {}), {}
    for code_points, name in chars.items():
        icon = icons["icons"].get(aliases.get(name, {}).get("parent", name))
        if icon:
            width, height = (icon.get(key, icons.get(key, 16)) for key in ("width", "height"))
            head = 'xmlns="http://www.w3.org/2000/svg" xmlns:xlink="http://www.w3.org/1999/xlink"'
            found[concept_id(code_points)] = (
                f'<svg {head} viewBox="0 0 {width} {height}" width="{width}" height="{height}">{icon["body"]}</svg>'
            )
    return found


def open_drawings(packages: Path) -> dict[str, dict]:
    """Of each style: {concept id: SVG text or the path of a picture}."""
    return {
        "3d": {concept_id(p.stem): p for p in (packages / "@lobehub/fluent-emoji-3d/assets").glob("*.webp")},
        "flat": open_icons(packages / "@iconify-json/fluent-emoji-flat"),
        "noto": open_icons(packages / "@iconify-json/noto"),
        "line": open_icons(packages / "@iconify-json/fluent-emoji-high-contrast"),
    }


def rasterise(svg: str, size_px: int) -> Image.Image:
    png = resvg_py.svg_to_bytes(svg_string=svg.replace("currentColor", "#000"), width=size_px, height=size_px)
    return Image.open(io.BytesIO(bytes(png))).convert("RGBA")


def draw(drawing: str | Path, size_px: int) -> Image.Image:
    """SVG text or a picture file -> RGBA."""
    picture = rasterise(drawing, size_px) if isinstance(drawing, str) else Image.open(drawing).convert("RGBA")
    return picture.resize((size_px, size_px), Image.LANCZOS)


def on_white(picture: Image.Image) -> Image.Image:
    return Image.alpha_composite(Image.new("RGBA", picture.size, "white"), picture).convert("RGB")


def four_greys(grey: Image.Image) -> Image.Image:
    """Anti-aliased line art needs no more; a third smaller than 8 bit."""
    small = grey.point(lambda value: round(value / 85)).convert("P")
    small.putpalette([level for level in (0, 85, 170, 255) for _ in "RGB"])
    return small


def phrase(label: str) -> str:
    """`fox` -> `a fox`, `glasses` -> `glasses`, `man: red hair` -> `a man with red hair`."""
    words = label.replace(": ", " with ")
    head = re.split(" with | on | in | showing | lifting ", words)[0]
    plural = head.endswith("s") and not head.endswith(("ss", "us"))
    if plural or head in ("people", "men", "women", "money", "french fries"):
        return words
    return f"{'an' if words[0].lower() in 'aeiou' else 'a'} {words}"


def read_concepts(packages: Path) -> list[dict]:
    """Labels and keywords of every drawable concept, in code point order."""
    synonyms = {
        concept_id("-".join(f"{ord(c):X}" for c in emoji)): words
        for emoji, words in read_json(packages / "emojilib/dist/emoji-en-US.json").items()
    }
    concepts = []
    for row in read_json(packages / "emojibase-data/en/data.json"):
        name = concept_id(row["hexcode"])
        if row.get("group") in DROPPED_GROUPS or "group" not in row or SKIN_TONES & set(name.split("-")):
            continue
        words = [re.sub(r"[_\s]+", " ", w).lower() for w in row.get("tags", []) + synonyms.get(name, [])]
        keywords = [w for w in dict.fromkeys(words) if w != row["label"].lower()][:8]
        kind = {"group": row["group"], "subgroup": row["subgroup"]}
        concepts.append({"id": name, "label": row["label"], "keywords": keywords} | kind)
    return sorted(concepts, key=lambda c: c["id"])


def family(name: str) -> str:
    rest = [p for p in name.split("-") if p not in WHO]
    return "-".join(rest) or name


def split(names: list[str]) -> dict[str, str]:
    """Families in the order of a hash fill `test`, then `validation`; the rest trains. Same on every machine."""
    families: dict[str, list[str]] = {}
    for name in names:
        families.setdefault(family(name), []).append(name)
    order = sorted(families, key=lambda f: hashlib.sha256(f.encode()).hexdigest())
    room, chosen = {"test": TEST_CONCEPTS, "validation": VALIDATION_CONCEPTS}, {}
    for key in order:
        part = next((p for p in room if len(families[key]) <= room[p]), "train")
        if part != "train":
            room[part] -= len(families[key])
        chosen.update(dict.fromkeys(families[key], part))
    return chosen


def write_zip(path: Path, files: Iterable[tuple[str, bytes]]) -> None:
    """A stored zip; a fixed date makes it the same, byte for byte, on each build."""
    with zipfile.ZipFile(path, "w", zipfile.ZIP_STORED) as archive:
        for name, data in files:
            archive.writestr(zipfile.ZipInfo(name, (2020, 1, 1, 0, 0, 0)), data)


def encode(picture: Image.Image, kind: str, **how) -> bytes:
    file = io.BytesIO()
    picture.save(file, kind, **how)
    return file.getvalue()


def write_dataset(folder: Path, concepts: list[dict], drawings: dict[str, dict], size_px: int) -> None:
    """Stored zips that unpack to image folders: `fluent.zip` with metadata.jsonl, target/*.webp (RGBA) and source/*.png
    (2 bit); `fluent_flat.zip` (RGBA) and `fluent_mask.zip` (black and white) with *.webp, other sources, lossless."""
    rows = sorted(concepts, key=lambda c: c["file_name"])
    files = {"fluent": [("metadata.jsonl", "".join(json.dumps(c, ensure_ascii=False) + "\n" for c in rows).encode())]}
    files |= {"fluent_flat": [], "fluent_mask": []}
    for row in rows:
        name = row["id"]
        render = draw(drawings["3d"][name], size_px)
        target = encode(render, "WEBP", quality=84, alpha_quality=80)  # method 6 is 80 times slower for 1 % less
        line = four_greys(on_white(rasterise(drawings["line"][name], size_px)).convert("L"))
        source = encode(line, "PNG", optimize=True, bits=2)
        files["fluent"] += [(row["file_name"], target), (row["source"], source)]
        flat = rasterise(drawings["flat"][name], size_px)
        files["fluent_flat"].append((f"{name}.webp", encode(flat, "WEBP", lossless=True, method=6)))
        # Of the packaged picture, not of the original: the two agree to the pixel.
        silhouette = Image.open(io.BytesIO(target)).convert("RGBA").getchannel("A").point(lambda a: 255 * (a > 127))
        files["fluent_mask"].append((f"{name}.webp", encode(silhouette, "WEBP", lossless=True, method=6)))
    for name, some in files.items():
        write_zip(folder / f"{name}.zip", some)


def write_arrays(folder: Path, concepts: list[dict], drawings: dict[str, dict], size_px: int) -> None:
    """`pictures.npy`: uint8 (styles, concepts, size, size, 4), straight alpha; `concepts.json`: the rows in order."""
    shape = (len(STYLES), len(concepts), size_px, size_px, 4)
    pictures = np.zeros(shape, np.uint8)
    for s, style in enumerate(STYLES):
        for n, concept in enumerate(concepts):
            pictures[s, n] = np.asarray(draw(drawings[style][concept["id"]], size_px))
    folder.mkdir(parents=True, exist_ok=True)
    np.save(folder / "pictures.npy", pictures)
    (folder / "concepts.json").write_text(json.dumps(concepts, ensure_ascii=False))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--packages", type=Path, required=True, help="a node_modules folder")
    parser.add_argument("--scratch", type=Path, required=True, help="where the training arrays go (not committed)")
    parser.add_argument("--assets", type=Path, help="where fluent*.zip and held_out.json go; not made unless given")
    parser.add_argument("--size-px", type=int, default=128, help="side of the packaged pictures")
    parser.add_argument("--train-px", type=int, default=64, help="side of the training arrays")
    options = parser.parse_args()

    drawings = open_drawings(options.packages)
    concepts = [c for c in read_concepts(options.packages) if all(c["id"] in drawings[s] for s in STYLES)]
    parts = split([c["id"] for c in concepts])
    colours = {
        c["id"]: captions.main_colours(np.asarray(draw(drawings["3d"][c["id"]], options.train_px))) for c in concepts
    }
    rows = [
        {
            "id": c["id"],
            "caption": f"a 3D render of {phrase(c['label'])}{captions.in_colours(colours[c['id']])}",
            "subject": phrase(c["label"]),
            "label": c["label"],
            "keywords": c["keywords"],
            "split": parts[c["id"]],
            "file_name": f"target/{c['id']}.webp",
            "source": f"source/{c['id']}.png",
        }
        for c in concepts
    ]
    if options.assets:
        held_out = {part: [n for n, p in parts.items() if p == part] for part in ("test", "validation")}
        (options.assets / "held_out.json").write_text(json.dumps(held_out, indent=1) + "\n")
        write_dataset(options.assets, rows, drawings, options.size_px)
    kinds = {c["id"]: {"group": c["group"], "subgroup": c["subgroup"]} for c in concepts}  # for the composer alone
    write_arrays(options.scratch, [row | kinds[row["id"]] for row in rows], drawings, options.train_px)
    print({part: list(parts.values()).count(part) for part in ("train", "validation", "test")})


if __name__ == "__main__":
    main()
