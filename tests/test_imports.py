"""The direction of imports, and what can be imported without loading torch."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[1] / "srcli"

LAYERS = (
    {"errors", "version"},
    {"config"},
    {"core", "io"},
    {"models"},
    {"inference"},
    {"cluster", "evaluation", "training"},
    {"cli"},
    {"__main__"},
)
"""From the lowest up. A package may import from itself and from lower layers only."""

LAYER_OF = {name: number for number, layer in enumerate(LAYERS) for name in layer}


def imported_by(path: Path) -> set[str]:
    """The packages and modules of srcli that a file imports, wherever in the file it does so."""
    names: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module == "srcli":
            names |= {f"srcli.{alias.name}" for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            names.add(node.module)
    return {name.split(".")[1] for name in names if name.startswith("srcli.")}


def test_every_package_and_module_has_a_layer() -> None:
    modules = {path.stem for path in PACKAGE.glob("*.py")} - {"__init__"}
    packages = {path.parent.name for path in PACKAGE.glob("*/__init__.py")}
    assert modules | packages == set(LAYER_OF)
    assert len(packages) == 8


@pytest.mark.parametrize("path", sorted(PACKAGE.rglob("*.py")), ids=lambda path: str(path.relative_to(PACKAGE)))
def test_imports_go_to_lower_layers(path: Path) -> None:
    package = path.relative_to(PACKAGE).parts[0].removesuffix(".py")
    if package == "__init__":  # the public names come from every layer; they are loaded on first use
        return
    for other in imported_by(path) - {package}:
        assert LAYER_OF[other] < LAYER_OF[package], f"{package} imports {other}"


def test_the_root_imports_nothing_but_the_version_when_it_is_loaded() -> None:
    code = "import sys, srcli; print(*sorted(name for name in sys.modules if name.startswith('srcli.')))"
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    assert done.stdout.split() == ["srcli.version"]


def test_modules_that_load_without_torch() -> None:
    code = """
import importlib, sys
for module in sys.argv[1:]:
    importlib.import_module(module)
    assert not {"torch", "torchvision"} & sys.modules.keys(), module
"""
    modules = [
        "srcli",
        "srcli.config",
        "srcli.core.graph",
        "srcli.io.read",
        "srcli.models.registry",
        "srcli.inference.batch",
        "srcli.cli",
    ]
    subprocess.run([sys.executable, "-c", code, *modules], check=True)


def test_everything_can_be_imported_next_to_a_torchvision_that_does_not_match_torch(tmp_path: Path) -> None:
    (tmp_path / "torchvision").mkdir()
    (tmp_path / "torchvision" / "__init__.py").write_text("raise RuntimeError('operator torchvision::nms does not exist')")
    code = """
import importlib, pkgutil, sys
sys.path.insert(0, sys.argv[1])
import srcli
from srcli.inference.third_party import import_spandrel
for module in pkgutil.walk_packages(srcli.__path__, "srcli."):
    if module.name != "srcli.__main__":
        importlib.import_module(module.name)
import_spandrel()
for name in dir(srcli):
    getattr(srcli, name)
"""
    subprocess.run([sys.executable, "-c", code, str(tmp_path)], check=True)


def test_the_public_names_are_where_the_package_says() -> None:
    import srcli

    for name in srcli.__all__:
        assert getattr(srcli, name).__name__ == name
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        srcli.nothing  # noqa: B018


@pytest.mark.parametrize("path", sorted(PACKAGE.rglob("*.py")), ids=lambda path: str(path.relative_to(PACKAGE)))
def test_no_file_is_longer_than_400_lines(path: Path) -> None:
    assert len(path.read_text(encoding="utf-8").splitlines()) <= 400
