"""Photographs for the small latent transformer, random multi-scale crops of them, and the crops' latents at three sizes.

    python benchmarks/latent_dit/data.py --photographs FOLDER --out PACKED

gathers the openly licensed photographs of LICENCES, from Python packages (scikit-image, scikit-learn) and from Debian's
(``apt-get download PACKAGE``, ``dpkg-deb -x PACKAGE FOLDER``), and writes them to PACKED at a short side of at most 1280
pixels. Training and report read PACKED. Nine photographs are held out: never trained on. Those of MEASURED_ONLY came later:
``benchmarks/latents.py`` measures them, the network has not seen them.
"""

from __future__ import annotations

import argparse
import os
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageOps
from torch import Tensor
from torch.nn import functional

from spectral_pd import restrict_signal

LICENCES = {
    "pip": {  # scikit-learn, scikit-image
        "china": "CC BY 2.0, Danielle Buma",
        "flower": "CC BY 2.0, dany13",
        "astronaut": "public domain, NASA",
        "coffee": "CC0, Pikolo Espresso Bar, Rachel Michetti",
        "chelsea": "CC0, Stefan van der Walt",
        "rocket": "CC0, SpaceX",
        "motorcycle": "CC0, Middlebury stereo set as shipped by scikit-image",
    },
    "lomiri": {  # lomiri-wallpapers-16.04, lomiri-wallpapers-20.04
        "aitzgorri_by_Aitzol_Berasategi": "CC BY 4.0",
        "Bridge_by_Sander_Klootwijk": "CC BY-SA 4.0",
        "Dragonfly_by_Bolly": "CC BY-SA 4.0",
        "free_by_Peter_Nerlich": "CC BY-SA 4.0",
        "friends_by_Aitzol_Berasategi": "CC BY 4.0",
        "greentock_by_Peter_Nerlich": "CC BY-SA 4.0",
        "life_by_Aitzol_Berasategi": "CC BY 4.0",
        "picosdeeuropa_by_Aitzol_Berasategi": "CC BY 4.0",
        "Picture_0B_by_freespace": "CC BY 4.0",
        "Picture_1A_by_freespace": "CC BY 4.0",
        "seeding_by_Clements_Engelhardt": "CC0",
        "sunset_by_Aitzol_Berasategi": "CC BY 4.0",
        "Wine_by_Jakkub_Mede": "CC BY 4.0",
        "Kleiber_by_Lukas_Baubkus": "CC BY-SA 3.0",
    },
    "mate": {  # mate-backgrounds
        "Aqua": "GPL-2+, Charles Barbin",
        "Blinds": "GPL-2+, Lennart Poettering, Andrea Cimitan",
        "Dune": "GPL-2+, Marco Cogoni, Hylke Bons",
        "FreshFlower": "GPL-2+, Jens Ansorg",
        "Garden": "GPL-2+, Charles Barbin",
        "GreenMeadow": "GPL-2+, Timothy Schellhase, Lapo Calamandrei",
        "LadyBird": "GPL-2+, Charles Barbin",
        "RainDrops": "GPL-2+, blackcombwhistler07",
        "Storm": "GPL-2+, Sergey Nazarov",
        "TwoWings": "GPL-2+, Charles Barbin",
        "Wood": "GPL-2+, Jean-François Fortin Tam",
        "YellowFlower": "GPL-2+, Charles Barbin",
    },
    "plasma": {  # plasma-workspace-wallpapers
        "BytheWater": "LGPL-3, Maciej Wiklo",
        "ColdRipple": "LGPL-3, Risto Saukonpää",
        "ColorfulCups": "LGPL-3, Dmitri Popov",
        "DarkestHour": "LGPL-3, Risto Saukonpää",
        "EveningGlow": "LGPL-3, Ian Hex",
        "FallenLeaf": "LGPL-3, Martin Klapetek",
        "Grey": "LGPL-3, Sigi Sagi",
        "Kite": "LGPL-3, Risto Saukonpää",
        "OneStandsOut": "LGPL-3, Risto Saukonpää",
        "Path": "LGPL-3, Risto Saukonpää",
        "summer_1am": "LGPL-3, Risto Saukonpää",
    },
    "palapeli": {  # palapeli-data
        "castle-maintenon": "GFDL, Eric Pouhier",
        "cincinnati-bridge": "public domain, Derek Jensen",
        "citrus-fruits": "public domain, US Department of Agriculture",
        "european-honey-bee": "public domain, John Severns",
        "panther-chameleon-female": "GFDL, B. Navez and others",
    },
}
MEASURED_ONLY = {
    "lxqt": {  # lxqt-themes; LGPL-2.1+ by Debian's copyright file, CC BY-SA 3.0 by the folder's own, which names the author
        "wallpapers/Butterfly-Kenneth-Wimer": "LGPL-2.1+ or CC BY-SA 3.0, LXQt team",
        "wallpapers/Valendas": "LGPL-2.1+ or CC BY-SA 3.0, LXQt team",
        "wallpapers/after-the-rain": "LGPL-2.1+ or CC BY-SA 3.0, stefonarch",
        "wallpapers/appleflower": "LGPL-2.1+ or CC BY-SA 3.0, stefonarch",
        "wallpapers/beam": "LGPL-2.1+ or CC BY-SA 3.0, stefonarch",
        "wallpapers/butterfly": "LGPL-2.1+ or CC BY-SA 3.0, stefonarch",
        "wallpapers/cloud": "LGPL-2.1+ or CC BY-SA 3.0, LXQt team",
        "wallpapers/drop": "LGPL-2.1+ or CC BY-SA 3.0, stefonarch",
        "wallpapers/flowers": "LGPL-2.1+ or CC BY-SA 3.0, stefonarch",
        "wallpapers/fog": "LGPL-2.1+ or CC BY-SA 3.0, stefonarch",
        "wallpapers/this-is-not-windows": "LGPL-2.1+ or CC BY-SA 3.0, stefonarch",
    },
    "maldives": {"maldives/background": "CC BY 3.0, Nevit Dilmen"},  # sddm-theme-maldives
    "libjxl": {"flower/flower": "BSD-3-Clause, the JPEG XL Project Authors"},  # libjxl-testdata
}
"""Names with their folder: the file alone is no name (``flower`` is scikit-learn's)."""
PACKAGES = {
    "lomiri": ("lomiri-wallpapers-16.04", "lomiri-wallpapers-20.04"),
    "mate": ("mate-backgrounds",),
    "plasma": ("plasma-workspace-wallpapers",),
    "palapeli": ("palapeli-data",),
    "lxqt": ("lxqt-themes",),
    "maldives": ("sddm-theme-maldives",),
    "libjxl": ("libjxl-testdata",),
}
HELD_OUT = (
    *("china", "chelsea", "coffee", "life_by_Aitzol_Berasategi", "sunset_by_Aitzol_Berasategi"),  # tiny_dit's
    *("LadyBird", "Dune", "FallenLeaf", "castle-maintenon"),
)
SHORT_SIDE = 1280
SHORT_SIDES = (1280, 1024, 812, 645, 512, 406, 322, 288)
"""Scales of a crop: 256 pixels of the photograph at one of these short sides, a fifth of it to nearly all."""
SIZES = (32, 16, 8)
"""Latents' sizes: pictures of 256, 128 and 64 pixels."""


def originals(
    folder: Path, licences: Mapping[str, Mapping[str, str]] = LICENCES
) -> dict[str, Callable[[], Image.Image]]:
    """Every photograph of `licences` by name, opened when called.

    Raises
    ------
    FileNotFoundError
        One is not below `folder`; the message says what to get.
    """
    from spectral_pd.measuring.demo import photographs

    def packaged(picture: Tensor) -> Image.Image:
        return Image.fromarray(((picture + 1) * 127.5).round().byte().permute(1, 2, 0).numpy())

    found: dict[str, Callable[[], Image.Image]] = {
        name: lambda picture=picture: packaged(picture) for name, picture in photographs().items()
    }
    files = [path for path in folder.rglob("*") if path.suffix in (".jpg", ".png")]
    for group, packages in PACKAGES.items():
        for name in licences.get(group, ()):
            # A wallpaper of Plasma is a folder of sizes with its name; the others are files.
            mine = [
                p for p in files if p.with_suffix("").match(name) or (name in p.parts and p.parent.name == "images")
            ]
            if not mine:
                raise FileNotFoundError(
                    f"{name} is not below {folder}; get it by: apt-get download {' '.join(packages)}; "
                    f"for package in *.deb; do dpkg-deb -x $package {folder}; done"
                )
            largest = max(mine, key=lambda p: p.stat().st_size)
            found[name] = lambda path=largest: Image.open(path)
    return found


def pack(folder: Path, out: Path) -> None:
    """Write every photograph to `out`/NAME.jpg, its short side at most SHORT_SIDE pixels."""
    out.mkdir(parents=True, exist_ok=True)
    for name, opened in originals(folder).items():
        picture = ImageOps.exif_transpose(opened()).convert("RGB")
        factor = SHORT_SIDE / min(picture.size)
        if factor < 1:
            picture = picture.resize([round(n * factor) for n in picture.size], Image.Resampling.LANCZOS)
        picture.save(out / f"{name}.jpg", quality=93, subsampling=0)


@dataclass(frozen=True, eq=False)
class Photographs:
    """Photographs at the scales of SHORT_SIDES, uint8, one after the other in one flat memory.

    Attributes
    ----------
    names
        Of the photographs.
    flat
        uint8 (pixels, 3).
    start, height, width, photograph
        int64 (levels,): where each photograph at each scale begins, its size, and which photograph it is.
    """

    names: tuple[str, ...]
    flat: Tensor
    start: Tensor
    height: Tensor
    width: Tensor
    photograph: Tensor

    def crops(self, count: int, *, generator: torch.Generator, augmented: bool = True, size: int = 256) -> Tensor:
        """Random crops (count, 3, size, size) in [-1, 1]: photograph, scale and place uniform, mirrored half of the time.

        With `augmented`, each crop's gamma, saturation and colour balance vary by a tenth or so.
        """
        device = self.flat.device

        def uniform(*shape: int) -> Tensor:
            return torch.rand(count, *shape, generator=generator, device=device)

        def normal(*shape: int) -> Tensor:
            return torch.randn(count, *shape, generator=generator, device=device)

        # A photograph first, then one of its scales: small photographs have fewer of them.
        chosen = (uniform() * len(self.names)).long()
        first = torch.searchsorted(self.photograph, chosen)
        levels = torch.searchsorted(self.photograph, chosen, right=True) - first
        level = first + (uniform() * levels).long()
        width = self.width[level]
        top = (uniform() * (self.height[level] - size + 1)).long()
        left = (uniform() * (width - size + 1)).long()
        rows = torch.arange(size, device=device)
        columns = torch.where(uniform(1) < 0.5, rows.flip(0), rows)
        places = (self.start[level] + top * width + left)[:, None, None] + rows[:, None] * width[:, None, None]
        x = self.flat[places + columns[:, None, :]].permute(0, 3, 1, 2).float() / 255
        if augmented:
            x = x ** torch.exp(0.12 * normal(1, 1, 1))
            grey = x.mean(1, keepdim=True)
            x = grey + (x - grey) * torch.exp(0.15 * normal(1, 1, 1))
            x = (x * torch.exp(0.04 * normal(3, 1, 1))).clamp(0, 1)
        return x * 2 - 1


def load_photographs(packed: Path, *, held_out: bool = False, device: str = "cpu") -> Photographs:
    """The training photographs of a packed folder, or the held-out ones.

    Raises
    ------
    FileNotFoundError
        A photograph is not in the folder.
    """
    names = tuple(n for group in LICENCES.values() for n in group if (n in HELD_OUT) == held_out)
    missing = [name for name in names if not (packed / f"{name}.jpg").is_file()]
    if missing:
        raise FileNotFoundError(f"{packed} lacks {', '.join(missing)}; write it by benchmarks/latent_dit/data.py")

    def levels(name: str) -> list[np.ndarray]:
        with Image.open(packed / f"{name}.jpg") as opened:
            picture = opened.convert("RGB")
        sides = [side for side in SHORT_SIDES if side <= min(picture.size)] or [min(picture.size)]
        sizes = [[max(side, round(n * side / min(picture.size))) for n in picture.size] for side in sides]
        return [np.asarray(picture.resize(size, Image.Resampling.LANCZOS)) for size in sizes]

    with ThreadPoolExecutor(min(16, os.cpu_count() or 1)) as pool:
        pictures = list(pool.map(levels, names))
    arrays = [array for mine in pictures for array in mine]
    pixels = torch.tensor([a.shape[0] * a.shape[1] for a in arrays])
    return Photographs(
        names,
        torch.from_numpy(np.concatenate([a.reshape(-1, 3) for a in arrays])).to(device),
        (pixels.cumsum(0) - pixels).to(device),
        torch.tensor([a.shape[0] for a in arrays], device=device),
        torch.tensor([a.shape[1] for a in arrays], device=device),
        torch.tensor([k for k, mine in enumerate(pictures) for _ in mine], device=device),
    )


def shrunk(pictures: Tensor, size: int) -> Tensor:
    """Pictures (N, 3, H, W) at `size` pixels, by an antialiased bicubic filter as image models' training data are."""
    if pictures.shape[-1] == size:
        return pictures
    return functional.interpolate(pictures, (size, size), mode="bicubic", antialias=True).clamp(-1, 1)


def latents(encode: Callable[[Tensor], Tensor], pictures: Tensor) -> dict[int, Tensor]:
    """Latents of the same pictures at all SIZES, each of the shrunk picture."""
    return {size: encode(shrunk(pictures, 8 * size)).float() for size in SIZES}


def restricted(x: Tensor, size: int) -> Tensor:
    """The low DCT band of latents, levels kept: what a coarse stage of the sampler sees of the large ones."""
    return x if x.shape[-1] == size else restrict_signal(x, (size, size))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--photographs", type=Path, required=True, help="folder with the unpacked Debian packages")
    parser.add_argument("--out", type=Path, required=True, help="folder to write")
    args = parser.parse_args()
    pack(args.photographs, args.out)


if __name__ == "__main__":
    main()
