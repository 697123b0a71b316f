"""Build Mattermost from its Go module and pack it as a release tarball. See README.md beside this file."""

from __future__ import annotations

import hashlib
import io
import os
import platform
import subprocess
import sys
import tarfile
from pathlib import Path

HERE = Path(__file__).parent
MODULE = "github.com/mattermost/mattermost/server/v8"
LINES = {"9.9.0": "9.9.mod", "11.4.0": "go.mod"}
"""Version -> module file that pins it."""
ARCH = {"x86_64": "amd64", "aarch64": "arm64"}.get(platform.machine(), platform.machine())
BESIDE = ("i18n", "templates", "fonts")
"""Folders that the server wants beside it; they are in the module."""


def tarball(version: str, cache: Path) -> Path:
    """The release tarball of a version; built on first use (two minutes or so), then taken from `cache`."""
    modfile = HERE / LINES[version]
    pins = modfile.read_bytes() + modfile.with_suffix(".sum").read_bytes() + Path(__file__).read_bytes()
    folder = cache / f"mattermost-{hashlib.sha256(pins).hexdigest()[:12]}"
    path = folder / f"mattermost-team-{version}-linux-{ARCH}.tar.gz"
    if not path.exists():
        folder.mkdir(parents=True, exist_ok=True)
        part = path.with_suffix(".part")
        _pack(version, modfile, folder, part)
        part.rename(path)
    return path


def _pack(version: str, modfile: Path, folder: Path, path: Path) -> None:
    commands = [f"{MODULE}/cmd/{name}" for name in ("mattermost", "mmctl")]
    _go("build", f"-modfile={modfile}", "-trimpath", "-tags", "production", "-o", f"{folder}/", *commands)
    source = Path(_go("list", f"-modfile={modfile}", "-m", "-f", "{{.Dir}}", MODULE).strip())
    with tarfile.open(path, "w:gz", compresslevel=1) as tar:
        for name in ("mattermost", "mmctl"):
            tar.add(folder / name, f"mattermost/bin/{name}", filter=_plain)
            (folder / name).unlink()
        for name in BESIDE:
            tar.add(source / name, f"mattermost/{name}", filter=_plain)
        for name in ("client", "prepackaged_plugins"):
            empty = tarfile.TarInfo(f"mattermost/{name}")
            empty.type, empty.mode = tarfile.DIRTYPE, 0o755
            tar.addfile(empty)
        note = f"{version}, built from the Go module by this project's lab\n".encode()
        manifest = tarfile.TarInfo("mattermost/manifest.txt")
        manifest.size, manifest.mode = len(note), 0o644
        tar.addfile(manifest, io.BytesIO(note))


def _plain(info: tarfile.TarInfo) -> tarfile.TarInfo:
    """As in a release: owned by root; the module cache is read-only, a release is not."""
    info.uid = info.gid = 0
    info.uname = info.gname = "root"
    info.mode |= 0o644
    return info


def _go(*words: str) -> str:
    environment = os.environ | {
        "CGO_ENABLED": "0",
        "GOTOOLCHAIN": "local",
        "GOFLAGS": "-mod=readonly",
        "GOWORK": "off",
    }
    go = str(Path(sys.executable).with_name("go"))
    done = subprocess.run([go, *words], cwd=HERE, env=environment, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise RuntimeError(f"go {words[0]} failed:\n{done.stderr[-2000:]}")
    return done.stdout
