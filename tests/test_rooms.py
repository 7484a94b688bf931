"""The arrows between the rooms: an import goes down only, and what must be quick to start does not import torch."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[1] / "srcli"

FLOORS = [
    {"errors"},
    {"settings", "files", "tiling", "memory"},
    {"images", "core", "catalog", "cache"},
    {"photos", "models"},
    {"validation", "foreign"},
    {"training", "upscaling", "comparison", "exporting"},
    {"runs", "report", "batch"},
    {"session"},
    {"cli"},
]
"""From the ground up. A room may import from floors below its own; `srcli` itself gives the version to all."""

FLOOR_OF = {room: number for number, floor in enumerate(FLOORS) for room in floor}


def imports(path: Path) -> set[str]:
    """The rooms that a file imports, wherever in the file it does so."""
    rooms: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
        if isinstance(node, ast.ImportFrom) and node.module:
            names = [node.module]
        rooms |= {name.split(".")[1] for name in names if name.startswith("srcli.")}
    return rooms


def test_every_room_has_a_floor() -> None:
    rooms = {path.stem for path in PACKAGE.glob("*.py")} | {path.parent.name for path in PACKAGE.glob("*/__init__.py")}
    assert rooms - {"__init__", "__main__"} == set(FLOOR_OF)


@pytest.mark.parametrize("path", sorted(PACKAGE.rglob("*.py")), ids=lambda path: str(path.relative_to(PACKAGE)))
def test_imports_go_down_only(path: Path) -> None:
    room = path.relative_to(PACKAGE).parts[0].removesuffix(".py")
    if room in ("__init__", "__main__"):
        return
    for other in imports(path) - {room}:
        assert FLOOR_OF[other] < FLOOR_OF[room], f"{room} imports {other}"


@pytest.mark.parametrize(
    "room", ["srcli", "srcli.cli", "srcli.settings", "srcli.images", "srcli.upscaling", "srcli.batch", "srcli.catalog"]
)
def test_rooms_that_start_without_torch(room: str) -> None:
    code = f"import sys, {room}; sys.exit('torch' in sys.modules or 'torchvision' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_the_public_names_are_where_the_package_says() -> None:
    import srcli

    for name in srcli.__all__:
        assert getattr(srcli, name).__name__ == name
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        srcli.nothing  # noqa: B018
