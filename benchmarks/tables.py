"""Insert the measured tables into the documentation: docs/benchmarks.md and the README's table of models.

    python benchmarks/tables.py

The results are those of srcli/models/weights/figures.json, which benchmarks/quality.py writes.
"""

from __future__ import annotations

import re
from pathlib import Path

from quality import MAIN, PERCEPTUAL, SETS, Table, table_rows

from srcli.models.registry import SPEED, read_benchmarks

ROOT = Path(__file__).parents[1]
LINES = {"": "base-x4:int8", "--effort fast": "tiny-x4:int8", "--effort best": "large-x4:int8+"} | {
    "--perceptual 1": "base-x4-perceptual:int8",
    "--denoise 1": "base-x4-photo:int8",
}
"""The model of each line of the README's table, by its option."""


def between(text: str, name: str, lines: list[str]) -> str:
    """The text with the lines between the comments <!-- name --> and <!-- end -->."""
    block = "\n".join([f"<!-- {name} -->", "", *lines, "", "<!-- end -->"])
    return re.sub(rf"<!-- {name} -->.*?<!-- end -->", lambda _: block, text, flags=re.S)


def model_lines(readme: str, results: Table) -> str:
    """The README's table of models with PSNR on Set5 and the time relative to the default."""
    for option, model in LINES.items():
        use = f"`{option}`" if option else "nothing"
        psnr, t = results[model]["Set5"]["psnr"], results[model][SPEED]["t"] / results[LINES[""]][SPEED]["t"]
        pattern = rf"^(\| [^|]* \| {re.escape(use)} \|) .*$"
        readme, count = re.subn(pattern, rf"\1 {psnr:.2f} dB | {t:.1f} |", readme, flags=re.M)
        assert count == 1, option
    return readme


def main() -> None:
    results = read_benchmarks()
    detailed = {model: row for model, row in results.items() if PERCEPTUAL[0] in row["Set5"]}
    path = ROOT / "docs" / "benchmarks.md"
    text = between(path.read_text(encoding="utf-8"), "main", table_rows(results, MAIN, timed=True, sets=SETS))
    path.write_text(between(text, "features", table_rows(detailed, PERCEPTUAL)), encoding="utf-8")
    readme = ROOT / "README.md"
    readme.write_text(model_lines(readme.read_text(encoding="utf-8"), results), encoding="utf-8")


if __name__ == "__main__":
    main()
