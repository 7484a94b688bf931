"""Values on the command line."""

import pytest

from srcli.cli.parsing import parse_color, parse_limits, parse_memory, parse_size
from srcli.config import LossConfig
from srcli.errors import ConfigError
from srcli.inference.plan import Size

LOSS = LossConfig(pixel=1, feature=1, tv=1, layers={"relu2_2": 1.0})


@pytest.mark.parametrize(
    ("word", "color"),
    [
        ("white", (1.0, 1.0, 1.0)),
        ("black", (0.0, 0.0, 0.0)),
        ("gray", (0.5, 0.5, 0.5)),
        ("grey", (0.5, 0.5, 0.5)),
        ("#ff0033", (1.0, 0.0, 0.2)),
        ("#FF0033", (1.0, 0.0, 0.2)),
    ],
)
def test_colors(word: str, color: tuple[float, float, float]) -> None:
    assert parse_color(word) == color


@pytest.mark.parametrize("word", ["", "red", "#fff", "#ff00331", "ff0033", "#gg0000"])
def test_invalid_colors(word: str) -> None:
    with pytest.raises(ConfigError, match="white, black, gray or #rrggbb"):
        parse_color(word)


@pytest.mark.parametrize(
    ("word", "size"),
    [
        ("1920x1080", Size(width=1920, height=1080)),
        ("1920X", Size(width=1920)),
        (" x1080 ", Size(height=1080)),
        ("12×8", Size(width=12, height=8)),
    ],
)
def test_sizes(word: str, size: Size) -> None:
    assert parse_size(word) == size


@pytest.mark.parametrize("word", ["", "x", "1920", "0x10", "10x0", "-1x5", "1.5x2", "1x2x3"])
def test_invalid_sizes(word: str) -> None:
    with pytest.raises(ConfigError, match="Invalid size"):
        parse_size(word)


@pytest.mark.parametrize(
    ("word", "size"),
    [("100", 100), ("1k", 1024), ("800M", 800 * 2**20), ("2G", 2**31), ("1.5GiB", 3 * 2**29), ("2 gb", 2**31), ("1T", 2**40)],
)
def test_amounts_of_memory(word: str, size: int) -> None:
    assert parse_memory(word) == size


@pytest.mark.parametrize("word", ["", "0", "0G", "lots", "-1G", "1X", "1..5G"])
def test_invalid_amounts_of_memory(word: str) -> None:
    with pytest.raises(ConfigError, match="Invalid amount of memory"):
        parse_memory(word)


def test_limits_accept_every_metric_of_the_comparison() -> None:
    words = ["psnr=30", "relu2_2=1e-3", "tv=0", "total=inf", "alpha=-1"]
    assert parse_limits(words, LOSS) == {"psnr": 30, "relu2_2": 0.001, "tv": 0, "total": float("inf"), "alpha": -1}


@pytest.mark.parametrize(
    ("word", "sentence"),
    [
        ("psnrr=30", "'psnrr'. Did you mean psnr"),
        ("relu4_3=1", "'relu4_3'"),
        ("l1=1", "'l1'"),
        ("psnr", "The limit of psnr is '', not a number"),
        ("psnr=high", "The limit of psnr is 'high', not a number"),
        ("psnr=nan", "The limit of psnr is 'nan', not a number"),
    ],
)
def test_invalid_limits(word: str, sentence: str) -> None:
    with pytest.raises(ConfigError, match=sentence):
        parse_limits([word], LOSS)
