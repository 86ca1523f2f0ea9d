"""Packages of the npm registry for tests that need them."""

import hashlib
import shutil
import subprocess
from pathlib import Path

import pytest

SECONDS = 400


def installed(folder: Path) -> Path:
    """Install what a folder's lock file says, once for each lock file; return where."""
    packages = folder / "node_modules"
    lock = hashlib.sha256((folder / "package-lock.json").read_bytes()).hexdigest()
    marker = packages / ".lock"
    if not marker.exists() or marker.read_text() != lock:
        npm(folder, "ci", "--ignore-scripts")
        marker.write_text(lock)
    return packages


def npm(folder: Path, *arguments: str) -> None:
    """Run npm in a folder."""
    program = shutil.which("npm")
    if program is None:
        pytest.fail("this test needs npm: `make packages` installs it on Debian", pytrace=False)
    done = subprocess.run([program, *arguments], cwd=folder, capture_output=True, text=True, timeout=SECONDS)
    if done.returncode:
        pytest.fail(f"npm {arguments[0]}: {done.stdout}{done.stderr}", pytrace=False)
