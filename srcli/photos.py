"""A folder of photographs in, seeded batches of true crops out."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np

from srcli.errors import SrcliError
from srcli.images import find_pictures, read_srgb


class Photos:
    """Photographs held in memory, H x W x 3 uint8, and crops of them that depend on nothing but seed and step."""

    def __init__(self, pictures: list[np.ndarray]) -> None:
        self.pictures = pictures
        areas = np.array([picture.shape[0] * picture.shape[1] for picture in pictures], dtype=np.float64)
        self.chances = areas / areas.sum()

    @classmethod
    def read(cls, folder: Path, *, smallest: int) -> Photos:
        """Every picture in the folder and below. All that is wrong is found before anything is trained, by file.

        Raises SrcliError: no picture, an unreadable one, one with a side under `smallest` pixels.
        """
        pictures: list[np.ndarray] = []
        wrong: list[str] = []
        paths = find_pictures(folder)
        with ThreadPoolExecutor() as pool:  # decoding is done outside Python, so threads share it
            for path, picture in zip(paths, pool.map(_read, paths), strict=True):
                if isinstance(picture, SrcliError):
                    wrong.append(str(picture))
                elif min(picture.shape[:2]) < smallest:
                    height, width = picture.shape[:2]
                    wrong.append(
                        f"{path} is {width}x{height} pixels; training needs at least {smallest}x{smallest}. "
                        "Remove it or use a smaller --patch."
                    )
                else:
                    pictures.append(picture)
        if wrong:
            more = f" ({len(wrong) - 5} more pictures have the like.)" if len(wrong) > 5 else ""
            raise SrcliError("\n".join(wrong[:5]) + more)
        return cls(pictures)

    @property
    def megapixels(self) -> float:
        return float(sum(picture.shape[0] * picture.shape[1] for picture in self.pictures) / 1e6)

    def batch(self, step: int, *, seed: int, count: int, patch: int) -> np.ndarray:
        """`count` crops of `patch` pixels, turned and mirrored at random: count x 3 x patch x patch, uint8.

        A pure function of its arguments: a resumed run sees what an uninterrupted one would have seen, and runs with
        different losses or generators see the same crops.
        """
        random = np.random.default_rng([seed, step])
        crops = np.empty((count, 3, patch, patch), dtype=np.uint8)
        for crop, index in zip(crops, random.choice(len(self.pictures), size=count, p=self.chances), strict=True):
            picture = self.pictures[index]
            top, left = (int(random.integers(side - patch + 1)) for side in picture.shape[:2])
            turned = np.rot90(picture[top : top + patch, left : left + patch], k=int(random.integers(4)))
            if random.integers(2):
                turned = turned[:, ::-1]
            crop[:] = turned.transpose(2, 0, 1)
        return crops


def _read(path: Path) -> np.ndarray | SrcliError:
    try:
        return read_srgb(path)
    except SrcliError as error:
        return error
