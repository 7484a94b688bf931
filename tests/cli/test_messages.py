"""Library messages on the command line."""

import pytest

from srcli.cli.messages import as_options


@pytest.mark.parametrize(
    ("message", "shown"),
    [
        ("a.png already exists. Use `overwrite` to replace it.", "a.png already exists. Use --overwrite to replace it."),
        ("Raise `max_pixels`.", "Raise --max-pixels."),
        ("Use `tile=0`, or `cache=none`.", "Use --tile 0, or --cache none."),
        ("Use `resume=runs/a b` to continue.", "Use --resume runs/a b to continue."),
        ("`Not an argument` and a lone ` stay.", "`Not an argument` and a lone ` stay."),
    ],
)
def test_arguments_in_backticks_are_shown_as_options(message: str, shown: str) -> None:
    assert as_options(message) == shown
