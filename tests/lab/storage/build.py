"""Build the storage servers from their Go modules (pinned in go.mod beside this file)."""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
from pathlib import Path

HERE = Path(__file__).parent
COMMANDS = {
    "rest-server": "github.com/restic/rest-server/cmd/rest-server",
    "gofakes3": "github.com/johannesboyne/gofakes3/cmd/gofakes3",
}


def programs(cache: Path) -> dict[str, Path]:
    """The programs by name; built on first use (half a minute), then taken from `cache`.

    Raises:
        RuntimeError: with the compiler's last words.
    """
    pins = b"".join((HERE / name).read_bytes() for name in ("go.mod", "go.sum"))
    folder = cache / f"storage-{hashlib.sha256(pins).hexdigest()[:12]}"
    found = {name: folder / name for name in COMMANDS}
    if not all(path.exists() for path in found.values()):
        environment = os.environ | {
            "CGO_ENABLED": "0",
            "GOTOOLCHAIN": "local",
            "GOFLAGS": "-mod=readonly",
            "GOWORK": "off",
        }
        go = str(Path(sys.executable).with_name("go"))
        words = [go, "build", "-trimpath", "-o", f"{folder}/", *COMMANDS.values()]
        folder.mkdir(parents=True, exist_ok=True)
        done = subprocess.run(words, cwd=HERE, env=environment, capture_output=True, text=True, check=False)
        if done.returncode != 0:
            raise RuntimeError(f"go build failed:\n{done.stderr[-2000:]}")
    return found
