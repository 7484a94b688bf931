"""Runs the jobs of `srcli upscale`, and prints their results."""

from __future__ import annotations

import signal
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from json import dumps
from pathlib import Path
from typing import Any

import typer

from srcli.cli.messages import as_options, note, report
from srcli.cli.signals import stop_signals
from srcli.cli.upscale_progress import UpscaleProgress
from srcli.errors import counted
from srcli.inference.batch import BatchUpscaler, ProgressCallbacks, UpscaleOptions, UpscaleResult
from srcli.inference.plan import Job


def run_jobs(options: UpscaleOptions, jobs: list[Job], *, json: bool, fail_fast: bool, page: Path | None) -> None:
    """Run the jobs and print their results; all failures are listed at the end. page: where to write the comparison."""
    failures: list[str] = []
    with_previews: list[UpscaleResult] = []
    done = skipped = large = 0
    interrupted = False
    with stop_signals_as_interrupt(), UpscaleProgress(jobs) as progress:
        callbacks = ProgressCallbacks(progress.start, progress.advance, progress.note)
        results = BatchUpscaler(options, callbacks).run(jobs)
        try:
            for result in results:
                progress.finish(result)
                for sentence in result.notes:
                    progress.note(sentence)
                if result.sr and not (result.error or result.skipped):
                    progress.detail(f"{result.job.source}: {_how(result)}.")
                done += not result.error
                skipped += result.skipped and not result.large
                large += result.large
                if result.previews:
                    with_previews.append(result)
                if result.error:
                    failures.append(result.error)
                if json:
                    progress.result(dumps(_record(result)))
                elif not (result.error or result.skipped or str(result.job.target) == "-" or options.dry_run):
                    progress.result(str(result.job.target))
                if result.error and fail_fast:
                    break
        except KeyboardInterrupt:
            interrupted = True
        finally:
            results.close()  # type: ignore[attr-defined]
    if interrupted:
        report("interrupted; images in progress were left unchanged. Continue with --skip-existing.")
    if page and with_previews and not interrupted:
        _write_page(page, with_previews, left_out=done - len(with_previews), overwrite=options.overwrite)
    if large:
        note(f"left {counted(large, 'image')} alone, which {'is' if large == 1 else 'are'} large enough.")
    if skipped:
        note(f"skipped {counted(skipped, 'existing result')}.")
    end_batch(failures, interrupted=interrupted)


def end_batch(failures: Sequence[str], *, interrupted: bool) -> None:
    """List all failures, and exit with the code for what happened."""
    for failure in failures:
        report(failure)
    if interrupted:
        raise typer.Exit(130)
    if failures:
        raise typer.Exit(1)


def _write_page(path: Path, results: Sequence[UpscaleResult], *, left_out: int, overwrite: bool) -> None:
    from srcli.evaluation.upscale_page import UpscaledImage, as_page
    from srcli.io.atomic import write_text

    images = [
        UpscaledImage(
            "stdin" if str(result.job.source) == "-" else str(result.job.source),
            "stdout" if str(result.job.target) == "-" else str(result.job.target),
            result.lr or (0, 0),
            result.sr or (0, 0),
            "existing result" if result.skipped else _how(result),
            result.previews,
        )
        for result in results
    ]
    write_text(path, as_page(images, left_out=left_out), overwrite=overwrite)
    note(f"{path} compares {counted(len(results), 'image')} with bicubic interpolation.")


def _how(result: UpscaleResult) -> str:
    return f"{', '.join(result.models)} on {result.device}, {result.seconds:.1f} s"


def _record(result: UpscaleResult) -> dict[str, Any]:
    return {
        "input": str(result.job.source),
        "output": str(result.job.target),
        "lr": result.lr,
        "sr": result.sr,
        "models": result.models,
        "denoise": result.denoise,
        "device": result.device,
        "seconds": result.seconds,
        "skipped": result.skipped,
        "large": result.large,
        "notes": [as_options(sentence) for sentence in result.notes],
        "error": result.error and as_options(result.error),
    }


@contextmanager
def stop_signals_as_interrupt() -> Iterator[None]:
    """Handle SIGTERM and a closed terminal like Ctrl-C, so that no incomplete file is left."""

    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    try:
        before = [(number, signal.signal(number, interrupt)) for number in stop_signals()]
    except ValueError:  # not in the main thread, where signals cannot be handled
        yield
        return
    try:
        yield
    finally:
        for number, handler in before:
            signal.signal(number, handler)
