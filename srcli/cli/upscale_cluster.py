"""`srcli upscale --cluster`: the same batch on a Ray cluster."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterable, Sequence
from contextlib import nullcontext
from dataclasses import asdict
from json import dumps
from pathlib import Path
from typing import TYPE_CHECKING

from srcli.cli.messages import as_options, is_quiet, note, report
from srcli.cli.upscale_run import end_batch, stop_signals_as_interrupt
from srcli.cluster.manifest import Manifest, Record
from srcli.cluster.plan import plan_tasks
from srcli.cluster.worker import Task
from srcli.errors import ConfigError, SrcliError, counted, duration
from srcli.inference.batch import UpscaleOptions
from srcli.inference.plan import Names
from srcli.io.storage import local_path

if TYPE_CHECKING:
    from rich.status import Status

    from srcli.cluster.run import Cluster

SECONDS_PER_LINE = 30.0


def run_on_cluster(
    options: UpscaleOptions,
    inputs: Sequence[str],
    output: str | None,
    names: Names,
    *,
    address: str,
    workers: int | None,
    gpus: float,
    manifest: Path | None,
    recursive: bool,
    json: bool,
    fail_fast: bool,
) -> None:
    """Run the batch and print its results; all failures are listed at the end."""
    try:
        import fsspec  # noqa: F401

        from srcli.cluster.run import Cluster
    except ImportError:
        raise SrcliError("`cluster` needs Ray and fsspec. Install them with pip install 'srcli[ray]'.") from None
    if output is None or output == "-":
        raise ConfigError("`cluster` writes to a folder. Set `output` to a folder or a URL.")
    folder = local_path(output)
    if names.needs_size:
        raise ConfigError("`cluster` does not open images before it names their results. Use `name` without width and height.")
    if manifest is None and folder is None and not options.dry_run:
        raise ConfigError("The manifest of results at a URL is a local file. Name it with `manifest`, and keep it.")
    path = manifest or Path(folder or ".", "manifest.jsonl")
    tasks = plan_tasks(list(dict.fromkeys(inputs)), output, names, recursive=recursive)
    failures: list[str] = []
    interrupted = False
    progress = _Progress()
    with Cluster(options, address, workers=workers, gpus=gpus) as cluster:
        crew = f"{counted(cluster.workers, 'worker')} with {counted(cluster.cpus, 'CPU')} each"
        note(f"{crew} on {counted(cluster.nodes, 'node')}.")
        if options.dry_run:
            end_batch(_print_estimate(cluster, tasks, json=json), interrupted=False)
            return
        with Manifest(path, cluster.settings) as kept, stop_signals_as_interrupt(), progress.shown() or nullcontext():
            results = cluster.run(tasks, kept, note)
            try:
                for record in results:
                    progress.add(record)
                    for sentence in record.notes:
                        note(sentence)
                    if record.error:
                        failures.append(record.error)
                    if json:
                        print(dumps(_as_json(record)))
                    elif not (record.error or record.skipped):
                        print(record.output)
                    if record.error and fail_fast:
                        break
            except KeyboardInterrupt:
                interrupted = True
            finally:
                results.close()  # type: ignore[attr-defined]
        nodes = cluster.nodes
    if interrupted:
        report("interrupted; images in progress were left unchanged. The same command continues.")
    if progress.skipped:
        note(f"skipped {counted(progress.skipped, 'existing result')}.")
    note(f"{progress.line()}; {nodes * progress.seconds / 3600:.2g} node-hours.")
    end_batch(failures, interrupted=interrupted)


def _print_estimate(cluster: Cluster, tasks: Iterable[Task | Record], *, json: bool) -> list[str]:
    """Print what the batch takes. The errors of the images in the sample."""
    from rich.filesize import decimal

    from srcli.cluster.estimate import estimate

    found, errors = estimate(cluster, tasks)
    if json:
        print(dumps(asdict(found)))
    else:
        print(
            f"{counted(found.images, 'image')} ({decimal(found.bytes)}) become {decimal(found.result_bytes)} in about "
            f"{duration(found.seconds)} (+/- {found.spread:.0%}), {found.node_hours:.2g} node-hours."
        )
    note(f"{counted(found.sample, 'image')} of them upscaled to find this out, and the results thrown away.")
    return errors


class _Progress:
    """Figures of the batch: a live line on a terminal, otherwise a line on stderr now and then."""

    def __init__(self) -> None:
        self._begin = self._last = time.monotonic()
        self._pixels = self._done = self._errors = self.skipped = 0
        self._per_node: Counter[str] = Counter()
        self._status: Status | None = None

    @property
    def seconds(self) -> float:
        return time.monotonic() - self._begin

    def shown(self) -> Status | None:
        """The live line as a context; None if there is no terminal."""
        from rich.console import Console

        console = Console(stderr=True)
        self._status = console.status(self.line()) if console.is_terminal and not is_quiet() else None
        return self._status

    def add(self, record: Record) -> None:
        self._errors += record.error is not None
        self.skipped += record.skipped
        if record.error is None and not record.skipped:
            self._done += 1
            self._pixels += record.lr[0] * record.lr[1] if record.lr else 0
            self._per_node[record.node or "?"] += 1
        if self._status:
            self._status.update(self.line())
        elif time.monotonic() - self._last > SECONDS_PER_LINE:
            self._last = time.monotonic()
            note(f"{self.line()}.")

    def line(self) -> str:
        rate = self._pixels / 1e6 / max(self.seconds, 1e-9)
        nodes = ", ".join(f"{node} {count}" for node, count in self._per_node.most_common(8))
        errors = f", {counted(self._errors, 'error')}" if self._errors else ""
        return (
            f"{counted(self._done, 'image')}, {rate:.2f} megapixels of input a second{errors}{f' ({nodes})' if nodes else ''}"
        )


def _as_json(record: Record) -> dict[str, object]:
    """In the terms of the command line."""
    return {**asdict(record), "notes": [*map(as_options, record.notes)], "error": record.error and as_options(record.error)}
