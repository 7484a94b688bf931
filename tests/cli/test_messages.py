"""Arguments in messages of the library become options on the command line."""

import pytest

from srcli.cli.messages import as_options, report


@pytest.mark.parametrize(
    ("message", "printed"),
    [
        ("Use `overwrite` to replace it.", "Use --overwrite to replace it."),
        ("Raise `max_pixels`.", "Raise --max-pixels."),
        ("Use `tile=0` or `resize_to=reference`.", "Use --tile 0 or --resize-to reference."),
        ("Set `output=a b.png`.", "Set --output a b.png."),
        ("`scale` and `size` exclude each other.", "--scale and --size exclude each other."),
        ("Write 1920x1080; a_b stays a_b.", "Write 1920x1080; a_b stays a_b."),
        ("`NAME:int8`, `2x` and a lone ` are not arguments.", "`NAME:int8`, `2x` and a lone ` are not arguments."),
        ("", ""),
    ],
)
def test_arguments_in_backticks_become_options(message: str, printed: str) -> None:
    assert as_options(message) == printed


def test_report_prints_one_line_on_stderr(capsys: pytest.CaptureFixture[str]) -> None:
    report("photo.png already exists. Use `overwrite` to replace it.")
    out, err = capsys.readouterr()
    assert (out, err) == ("", "srcli: photo.png already exists. Use --overwrite to replace it.\n")
