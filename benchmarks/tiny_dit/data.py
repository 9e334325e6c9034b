"""Openly licensed photographs for the small transformer, with their licences, and random crops of them.

Seven come with scikit-learn and scikit-image, fourteen with Debian's packages lomiri-wallpapers-16.04 and -20.04
(``apt-get download``, ``dpkg-deb -x PACKAGE FOLDER``; pass the folder). Five photographs are held out: never trained on.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from spectral_pd import PowerLaw, fit_spectrum, restrict_signal
from spectral_pd.measuring.demo import photographs

LICENCES = {
    # scikit-learn, scikit-image
    "china": "CC BY 2.0, Danielle Buma",
    "flower": "CC BY 2.0, dany13",
    "astronaut": "public domain, NASA",
    "coffee": "CC0, Pikolo Espresso Bar, Rachel Michetti",
    "chelsea": "CC0, Stefan van der Walt",
    "rocket": "CC0, SpaceX",
    "motorcycle": "CC0, Middlebury stereo set as shipped by scikit-image",
    # Debian lomiri-wallpapers-16.04
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
    # Debian lomiri-wallpapers-20.04
    "Kleiber_by_Lukas_Baubkus": "CC BY-SA 3.0",
}
HELD_OUT = (
    "china",
    "chelsea",
    "coffee",
    "life_by_Aitzol_Berasategi",
    "sunset_by_Aitzol_Berasategi",
)
SHORT_SIDES = (96, 128, 192, 256)
"""Every photograph is kept at these short sides; a crop is 64x64 of one of them, two thirds to a quarter of the picture."""


@dataclass(frozen=True, eq=False)
class Photographs:
    """Photographs as uint8 pyramids: ``levels[k]`` holds every photograph at short side ``SHORT_SIDES[k]``, (3, H, W)."""

    names: tuple[str, ...]
    levels: tuple[tuple[Tensor, ...], ...]

    def crops(self, count: int, *, size: int = 64, generator: torch.Generator) -> Tensor:
        """Random crops (count, 3, size, size) in [-1, 1], mirrored half of the time, from random photographs and levels."""
        out = torch.empty(count, 3, size, size, dtype=torch.uint8)
        picture = torch.randint(len(self.names), (count,), generator=generator).tolist()
        level = torch.randint(len(self.levels), (count,), generator=generator).tolist()
        place = torch.rand(count, 3, generator=generator).tolist()
        for i, (y, x, mirrored) in enumerate(place):
            source = self.levels[level[i]][picture[i]]
            top, left = int(y * (source.shape[1] - size + 1)), int(x * (source.shape[2] - size + 1))
            crop = source[:, top : top + size, left : left + size]
            out[i] = crop.flip(-1) if mirrored < 0.5 else crop
        return out.float() / 127.5 - 1


def load_photographs(folder: Path | None, *, held_out: bool = False) -> Photographs:
    """The training photographs, or the held-out ones: those inside Python packages and, with `folder`, the others.

    Parameters
    ----------
    folder
        Searched with its subfolders for the Debian photographs, by file name; None leaves them out.
    held_out
        Which of the two sets.

    Raises
    ------
    FileNotFoundError
        A photograph is not below `folder`.
    """
    wanted = [name for name in LICENCES if (name in HELD_OUT) == held_out]
    packaged = {name: Image.fromarray(_bytes(picture)) for name, picture in photographs().items()}
    files = {path.stem: path for path in folder.rglob("*.jpg")} if folder else {}
    pictures: dict[str, Image.Image] = {}
    for name in wanted:
        if name in packaged:
            pictures[name] = packaged[name]
        elif name in files:
            pictures[name] = Image.open(files[name]).convert("RGB")
        elif folder:
            raise FileNotFoundError(f"{name}.jpg is not below {folder}; unpack both lomiri-wallpapers packages there")
    levels = tuple(tuple(_resized(picture, side) for picture in pictures.values()) for side in SHORT_SIDES)
    return Photographs(tuple(pictures), levels)


def _bytes(picture: Tensor) -> np.ndarray:
    return ((picture + 1) * 127.5).round().byte().permute(1, 2, 0).numpy()


def _resized(picture: Image.Image, side: int) -> Tensor:
    scale = side / min(picture.size)
    size = (max(side, round(picture.width * scale)), max(side, round(picture.height * scale)))
    return torch.from_numpy(np.array(picture.resize(size, Image.Resampling.BOX))).permute(2, 0, 1).contiguous()


def at_size(pictures: Tensor, size: int) -> Tensor:
    """The same pictures on a smaller grid, as the sampler's stages see them: the low DCT band, grey level kept."""
    return pictures if size == pictures.shape[-1] else restrict_signal(pictures, (size, size))


def measure_spectrum(pictures: Photographs) -> PowerLaw:
    """Power law of 4096 random 64x64 crops."""
    law = fit_spectrum(pictures.crops(4096, generator=torch.Generator().manual_seed(0)))
    return replace(law, source="4096 random 64x64 crops of the training photographs")
