"""Measures the exported mini prior: do pictures show what the caption asks for, how real do they look, what they cost.

The judge is an ImageNet network that meets no sample in training (`judge.py`). Each question is put to three sets of
pictures: samples; real (composed) pictures of the same captions, which are the ceiling; and these after a trip through
the prior's autoencoder, the most that any denoiser on its latents could reach. Samples are of training concepts, asked
in the one plain wording; only `unseen` and KID are about test concepts. Probes and samples share no concept and no
backdrop.

    python recipes/mini/evaluate.py --scratch scratch/mini --json figures.json --sheet sheet.png
"""

import argparse
import json
import os
import random
import subprocess
import sys
import timeit
from collections.abc import Callable
from pathlib import Path

import autoencoder
import composer
import export
import judge
import pictures
import places
import scenes
import torch
from scenes import Scene, Subject
from sizes import existing
from torch import Tensor

from limner.evaluate.metrics import edges
from limner.evaluate.metrics.interval import interval
from limner.priors.mini import FOLDER as MINI

EACH = {"colour": 3, "place": 5, "accessory": 5, "count": 16, "position": 16}  # samples of each colour, each place, ...
PROBE_EACH = {"place": 24, "accessory": 32, "count": 80}  # real pictures of each, that a probe learns from


class Lab:
    """The prior under test, the judge, and the concepts in halves: probes learn from one, are asked about the other."""

    def __init__(self, options) -> None:
        self.options = options
        self.pipeline = export.open_pipeline(options.prior).to(options.device)
        self.encoder = judge.Encoder(options.scratch / "judge", options.device)
        self.stock = composer.Stock(options.scratch)
        self.learn, self.ask = (judge.half_of(self.stock, n) for n in range(2))
        self.rows: dict[str, dict] = {}

    def sample(self, prompts: list[str]) -> Tensor:
        chunks = [prompts[n : n + 16] for n in range(0, len(prompts), 16)]
        how = {"steps": self.options.steps, "guidance": self.options.guidance}
        return torch.cat([export.sample(self.pipeline, c, seed=n, **how).cpu() for n, c in enumerate(chunks)])

    def words(self, some: list[Scene]) -> list[str]:
        return [scenes.caption(self.stock, scene, random.Random(0), plain=True) for scene in some]

    def back(self, x_BCHW: Tensor) -> Tensor:
        return autoencoder.reconstruct(self.pipeline.vae, x_BCHW.to(self.pipeline.device)).cpu()

    def compare(self, name: str, answers: Callable, chances: dict, prompts: list[str], real_BCHW: Tensor) -> Tensor:
        """Puts a question to all sets. answers: pictures, features -> {what: one number a picture}. Returns samples."""
        made_BCHW = self.sample(prompts)
        pairs_BCHW = torch.stack([real_BCHW[:64], made_BCHW[:64]], 1).flatten(0, 1)
        pictures.sheet(pairs_BCHW, 16, self.options.scratch / "judge" / f"{name.replace(' ', '_')}.png")
        sets = {"samples": made_BCHW, "autoencoder": self.back(real_BCHW), "real": real_BCHW}
        for which, x_BCHW in sets.items():
            embed = self.encoder if which == "samples" else self.encoder.real
            for what, value_B in answers(x_BCHW, embed).items():
                row = self.rows.setdefault(f"{name}: {what}", {"n": len(prompts), "chance": chances[what]})
                row |= {which: float(value_B.double().mean()), f"{which}_interval": interval(value_B)}
        return made_BCHW

    def prototypes(self, style: str, rows: list[int]) -> judge.Prototypes:
        """From each picture as it is and moved a little, on white."""
        views = [judge.views(self.stock, style, rows, seed) for seed in (0, 1)]
        return judge.Prototypes(torch.stack([self.encoder.real(x_BCHW) for x_BCHW in views]))

    def probe(self, kind: str, values: list) -> judge.Probe:
        """Learns from real scenes, as they are and as the autoencoder gives them back."""
        asked = judge.scenes_of(self.learn, kind, values, PROBE_EACH[kind], seed=1)
        x_BCHW = composer.compose(self.learn, asked, seed=1)
        label_B = torch.arange(len(values)).repeat_interleave(len(asked) // len(values))
        feature_BD = torch.cat([self.encoder.real(x_BCHW), self.encoder.real(self.back(x_BCHW))])
        return judge.Probe(feature_BD, label_B.repeat(2))


def retrieval(lab: Lab, name: str, style: str, caption_of: dict[int, str], count: int) -> Tensor:
    """Which of these concepts does the picture show? Real pictures are asked in a view that no prototype has."""
    rows = list(caption_of)
    prototypes = lab.prototypes(style, rows)
    own_B = torch.tensor(judge.spread(list(range(len(rows))), count))
    some = [rows[n] for n in own_B]

    def answers(x_BCHW: Tensor, embed: Callable) -> dict[str, Tensor]:
        rank_B = prototypes.rank(embed(x_BCHW), own_B)
        return {"R@1": rank_B < 1, "R@5": rank_B < 5, "rank, of 1": rank_B / (len(rows) - 1)}

    prompts, real_BCHW = [caption_of[n] for n in some], judge.views(lab.stock, style, some, 2)
    chances = {"R@1": 1 / len(rows), "R@5": 5 / len(rows), "rank, of 1": 0.5}
    made_BCHW = lab.compare(name, answers, chances, prompts, real_BCHW)
    if name == "unseen":  # what the colours in the caption give away: seen concepts in the same colours
        twin_BCHW = judge.views(lab.stock, style, [judge.same_colours(lab.stock, n) for n in some], 2)
        for what, right_B in answers(twin_BCHW, lab.encoder.real).items():
            name = f"unseen: {what} of other concepts in the same colours"
            lab.rows[name] = {"n": len(some), "chance": None, "real": float(right_B.double().mean())}
    return made_BCHW


def composition(lab: Lab) -> None:
    """Colours, places, accessories, counts: does the picture show the one that was asked for?

    Of the two ways to count, pieces on white are the headline: they are right more often on real pictures.
    """
    values = {"colour": list(pictures.COLOURS), "place": list(places.PLACES), "accessory": list(scenes.ACCESSORIES)}
    values |= {"count": [1, 2, 3, 4]}
    for kind, some in values.items():
        asked = judge.scenes_of(lab.ask, kind, some, EACH[kind], seed=2)
        own_B = torch.arange(len(some)).repeat_interleave(len(asked) // len(some))
        probe = None if kind == "colour" else lab.probe(kind, some)

        def answers(x_BCHW: Tensor, embed: Callable, kind=kind, probe=probe, own_B=own_B) -> dict[str, Tensor]:
            if kind == "colour":
                return judge.ground(x_BCHW, own_B)
            found = {"probe": probe(embed(x_BCHW)) == own_B}
            return found | ({"pieces": judge.count_pieces(x_BCHW) == own_B + 1} if kind == "count" else {})

        chances = dict.fromkeys(("probe", "pieces"), 1 / len(some)) | {"right": 1 / 15, "error of 255": None}
        lab.compare(kind, answers, chances, lab.words(asked), composer.compose(lab.ask, asked, seed=2))


def positions(lab: Lab) -> None:
    """Two subjects on white, left and right of or above and below each other: is each where the caption puts it?"""
    asked = judge.scenes_of(lab.ask, "position", list(judge.HALVES), EACH["position"], seed=3)
    own = [[s.concept for s in scene.subjects] for scene in asked]
    rows = sorted(lab.stock.rows)
    own_B2 = torch.tensor([[rows.index(n) for n in pair] for pair in own])
    prototypes = lab.prototypes("3d", rows)

    def answers(x_BCHW: Tensor, embed: Callable) -> dict[str, Tensor]:
        pairs = zip(x_BCHW, asked, strict=True)
        halves = [judge.half(x, where) for x, scene in pairs for where in judge.HALVES[scene.relation]]
        return judge.assigned(prototypes, embed(torch.stack(halves)).unflatten(0, (-1, 2)), own_B2)

    chances = {"position": 0.5, "each": 0.25, "recognised": (5 / len(rows)) ** 2}
    lab.compare("position", answers, chances, lab.words(asked), composer.compose(lab.ask, asked, seed=3))


def looks(lab: Lab, made_BCHW: Tensor, rows: list[int]) -> None:
    """How far samples for test captions are from the test renders; real are as many renders of training concepts."""
    test_ND, num = lab.encoder.real(judge.views(lab.stock, "3d", rows, 0)), len(rows)
    seen = judge.spread(lab.stock.rows, num)
    train_BCHW, flat_BCHW = (judge.views(lab.stock, style, seen, 0) for style in ("3d", "flat"))
    sets = {"autoencoder": lab.back(train_BCHW), "real": train_BCHW, "flat": flat_BCHW}
    features = {"samples": lab.encoder(made_BCHW)} | {which: lab.encoder.real(x) for which, x in sets.items()}
    found = {which: judge.distances(feature_ND, test_ND) for which, feature_ND in features.items()}
    flat = found.pop("flat")
    for name, key in (("KID", "kid"), ("Frechet", "frechet")):
        lab.rows[name] = {"n": num, "chance": None} | {which: row[key] for which, row in found.items()}
        lab.rows[f"{name} of flat drawings"] = {"n": num, "chance": None, "real": flat[key]}
    lab.rows["KID"] |= {f"{which}_interval": row["interval"] for which, row in found.items()}


def reconstruction(lab: Lab) -> dict[str, float]:
    """What the autoencoder loses of held-out pictures: PSNR, and edge F1 of the 3D ones (`limner.evaluate`)."""
    rows = pictures.in_split(lab.stock.concepts, "test", "validation").tolist()
    real_BCHW, line_BCHW = (judge.views(lab.stock, style, rows, 0) for style in ("3d", "line"))
    real, made = (edges.picture_edges(judge.rgb255(x).byte()) for x in (real_BCHW, lab.back(real_BCHW)))
    asked = {"the picture's": real, "the line drawing's": edges.sketch_lines(judge.rgb255(line_BCHW).byte())}
    for name, wanted in asked.items():
        made_NN, real_NN = (edges.edge_f1_matrix(some, wanted) for some in (made, real))
        row = {"n": len(rows), "chance": float(real_NN[~torch.eye(len(rows), dtype=bool)].mean())}
        row |= {"autoencoder": float(made_NN.diagonal().mean()), "real": float(real_NN.diagonal().mean())}
        lab.rows[f"edge F1 with {name} edges"] = row | {"autoencoder_interval": interval(made_NN.diagonal())}
    held_out = autoencoder.held_out_pictures(lab.stock)
    tests = {k: x.to(lab.options.device) for k, x in held_out.items()}
    return {k: round(autoencoder.psnr(lab.pipeline.vae, x), 2) for k, x in tests.items()}


def caption_gain(lab: Lab) -> dict[int, dict[str, float]]:
    """Time -> MSE on v of 3D renders with their own caption, another's, none.

    At the noisiest step: does the text reach it? In the middle: is a caption of something new better than none?
    """
    found: dict[int, dict[str, float]] = {999: {}, 500: {}}
    device, pipeline = lab.options.device, lab.pipeline
    for name, split in (("seen", "train"), ("unseen", "test")):
        rows = judge.spread(pictures.in_split(lab.stock.concepts, split).tolist(), 192)
        z_BCHW = autoencoder.encode_scaled(pipeline.vae, judge.views(lab.stock, "3d", rows, 0).to(device))
        texts = [lab.stock.concepts[n]["caption"] for n in rows]
        noise_BCHW = torch.randn(z_BCHW.shape, generator=torch.Generator().manual_seed(0)).to(device)
        for which, words in {"own": texts, "another's": texts[1:] + texts[:1], "none": [""] * len(texts)}.items():
            context_BTD = pipeline.encode_prompt(words, device, 1, False)[0]
            for time, table in found.items():
                t_B = torch.full((len(rows),), time, device=device)
                noisy_BCHW = pipeline.scheduler.add_noise(z_BCHW, noise_BCHW, t_B)
                target_BCHW = pipeline.scheduler.get_velocity(z_BCHW, noise_BCHW, t_B)
                guess_BCHW = pipeline.unet(noisy_BCHW, t_B, context_BTD).sample
                table[f"{name}, {which}"] = round(float((guess_BCHW - target_BCHW).square().mean()), 4)
    return found


DRAW_ONE = """
import pathlib, sys
import export
export.sample(export.open_pipeline(pathlib.Path(sys.argv[1])), ["a 3D render of a cat face"])
status = pathlib.Path("/proc/self/status").read_text()  # ru_maxrss would start at the parent's size
print(int(status.split("VmHWM:")[1].split()[0]) // 1024)
"""


def costs(lab: Lab) -> dict:
    """Seconds of one guided picture (best and median of five after a first), weights, bytes, and the largest memory of
    a process on the CPU that draws one picture."""
    times = [timeit.timeit(lambda: lab.sample(["a 3D render of a cat face"]), number=1) for _ in range(6)]
    best, _, median, *_ = sorted(times[1:])
    machine = {"threads": torch.get_num_threads(), "device": lab.options.device, "load_average": os.getloadavg()[0]}
    folder, parts = lab.options.prior.resolve(), ("unet", "text_encoder", "vae")
    command = [sys.executable, "-c", DRAW_ONE, str(folder)]
    drawn = subprocess.run(command, cwd=Path(__file__).parent, capture_output=True, text=True, check=True)
    return {
        "peak_memory_mib": int(drawn.stdout.split()[-1]),
        "seconds_a_guided_picture": {"best": round(best, 3), "median": round(median, 3)} | machine,
        "parameters": {name: sum(p.numel() for p in getattr(lab.pipeline, name).parameters()) for name in parts},
        "bytes": sum(path.stat().st_size for path in folder.rglob("*") if path.is_file()),
    }


def seen(lab: Lab, style: str, count: int) -> None:
    """Retrieval of training concepts."""
    words = lab.words([Scene("alone", style, (Subject(n),)) for n in lab.stock.rows])
    retrieval(lab, f"seen {style}", style, dict(zip(lab.stock.rows, words, strict=True)), count)


@torch.no_grad()
def measure(lab: Lab) -> dict:
    seen(lab, "3d", lab.options.concepts)
    if lab.options.quick:
        return {"rows": lab.rows, "caption_gain_mse": caption_gain(lab)}
    for style in ("flat", "noto", "line"):
        seen(lab, style, 32)
    stock = lab.stock
    test = {n: stock.concepts[n]["caption"] for n in pictures.in_split(stock.concepts, "test").tolist()}
    looks(lab, retrieval(lab, "unseen", "3d", test, len(test)), list(test))
    composition(lab)
    positions(lab)
    found = {"autoencoder_psnr_db": reconstruction(lab), "caption_gain_mse": caption_gain(lab)} | costs(lab)
    return {"rows": lab.rows} | found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--scratch", type=existing, required=True, help="the folder of composer.py; sheets go to judge/"
    )
    parser.add_argument(
        "--prior", type=existing, default=MINI, help="the diffusers folder; the shipped one unless given"
    )
    parser.add_argument("--json", type=Path, required=True, help="where the figures go")
    parser.add_argument("--sheet", type=Path, help="where a sheet of the prompts of export.py goes")
    parser.add_argument("--concepts", type=int, default=128, help="seen concepts to sample in 3D")
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--guidance", type=float, default=2.5)
    parser.add_argument("--device", default="cpu")
    parser.add_argument(
        "--quick", action="store_true", help="retrieval of seen concepts in 3D, caption gain, the sheet; no more"
    )
    options = parser.parse_args()
    lab = Lab(options)
    asked = {name: getattr(options, name) for name in ("steps", "guidance", "quick")}
    training = json.loads((options.prior / "training.json").read_text())
    figures = {"judge": "EfficientNet-Lite0 (ImageNet)", "training": training} | asked | measure(lab)
    if options.sheet:
        pictures.sheet(lab.sample(list(export.PROMPTS)), 16, options.sheet)
    options.json.write_text(json.dumps(figures, indent=1) + "\n")
    print(judge.table(lab.rows))
    print(json.dumps({k: v for k, v in figures.items() if k != "rows"}, indent=1))


if __name__ == "__main__":
    main()
