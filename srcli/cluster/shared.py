"""A very large image on several workers: one of them reads and writes it, and all of them compute its tiles."""

from __future__ import annotations

from collections.abc import Sequence
from threading import Condition
from typing import Any

import numpy as np
import ray
from ray.exceptions import RayError, RayTaskError

from srcli.inference.backend import Backend

TILES_AT_ONCE = 2
"""For each worker: while one is computed, the next is on its way."""
ARRAYS_BYTES = 20
"""Memory of this process for each sr pixel of a tile that another one computes: float32 RGB, and two times 8 or 16 bits."""
HERE = None
"""This worker."""


class TileHelpers:
    """See `Helpers`. workers: handles of other workers."""

    def __init__(self, workers: Sequence[Any], least_pixels: int) -> None:
        self.workers, self.least_pixels = workers, least_pixels
        self.at_once = TILES_AT_ONCE * (len(workers) + 1)

    def join(self, backend: Backend, place: int) -> SharedBackend:
        return SharedBackend(backend, place, self.workers)


class SharedBackend:
    """A backend of this worker whose calls are spread over it and other workers, to whichever has the least to do.

    Tiles of workers that end are computed by the others.
    """

    def __init__(self, backend: Backend, place: int, workers: Sequence[Any]) -> None:
        """place: of the model in `UpscaleOptions.all_models`. workers: some may not have started yet."""
        self.backend, self.place = backend, place
        self.scale, self.halo, self.tile_multiple = backend.scale, backend.halo, backend.tile_multiple
        self.device_free_bytes = backend.device_free_bytes
        arrays = ARRAYS_BYTES * TILES_AT_ONCE * len(workers) * backend.scale**2
        self.bytes_per_pixel = backend.bytes_per_pixel + arrays
        self._starting = {worker.is_up.remote(): worker for worker in workers}
        self._calls: dict[Any, int] = {HERE: 0}  # in progress, of the workers that are up
        self._helped: set[Any] = set()
        self._changed = Condition()

    @property
    def description(self) -> str:
        """With the number of workers that have computed tiles."""
        return f"{self.backend.description} on {len(self._helped) + 1} workers" if self._helped else self.backend.description

    def __call__(self, lr: np.ndarray) -> np.ndarray:
        """See `Backend`."""
        while True:
            worker = self._taken()
            try:
                if worker is HERE:
                    return self.backend(lr)
                sr = np.array(ray.get(worker.upscale_tile.remote(self.place, lr)))  # Ray's array cannot be changed
                self._helped.add(worker)
                return sr
            except RayTaskError as error:
                raise error.cause from None  # what the backend of the other worker raised
            except RayError:
                with self._changed:
                    self._calls.pop(worker, None)  # it has ended
            finally:
                self._give_back(worker)

    def _taken(self) -> Any:
        """The worker with the least to do, once it has less than TILES_AT_ONCE calls. One more call is counted for it."""
        with self._changed:
            while True:
                up, _ = ray.wait([*self._starting], num_returns=len(self._starting), timeout=0) if self._starting else ([], [])
                self._calls |= {self._starting.pop(reference): 0 for reference in up}
                worker = min(self._calls, key=self._calls.__getitem__)
                if self._calls[worker] < TILES_AT_ONCE:
                    self._calls[worker] += 1
                    return worker
                self._changed.wait(1.0)

    def _give_back(self, worker: Any) -> None:
        with self._changed:
            if worker in self._calls:
                self._calls[worker] -= 1
            self._changed.notify()
