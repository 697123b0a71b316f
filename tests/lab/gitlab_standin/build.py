"""Builds the stand-in for the GitLab Linux package as a Debian package.

`package/` is the package as it will lie on a node; this file adds what depends on the version (control file, VERSION,
manifest), the links to Debian's programs, and packs it. Same input, same bytes: the apt repository need not change.

Run it by hand with `python -m tests.lab.gitlab_standin.build OUT_DIR [VERSION ...]`.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

HERE = Path(__file__).parent
PACKAGE = HERE / "package"

#: Debian packages that a node needs below the stand-in; the lab bakes them into its base file system.
DEPENDS = ("ruby", "ruby-mail-room", "ruby-faraday", "puma", "runit", "curl", "procps", "util-linux", "diffutils")

#: Every file of the package carries this time (2020-01-01), so that a build is the same tomorrow.
EPOCH = 1577836800

#: In the real package these are its own builds; here they are Debian's, under the real names.
EMBEDDED = {
    "ruby": "/usr/bin/ruby",
    "puma": "/usr/bin/puma",
    "curl": "/usr/bin/curl",
    "sv": "/usr/bin/sv",
    "svlogd": "/usr/bin/svlogd",
    "chpst": "/usr/bin/chpst",
    "runsv": "/usr/bin/runsv",
    "runsvdir": "/usr/bin/runsvdir",
}
COMMANDS = ("gitlab-ctl", "gitlab-rake", "gitlab-rails", "gitlab-psql")


def stage(tree: Path, version: str) -> None:
    """Lays the package out below `tree`, as it will be on a node (plus DEBIAN/)."""
    match = re.fullmatch(r"(\d+\.\d+\.\d+)-(ee|ce)\.\d+", version)
    if not match:
        raise ValueError(f"version {version!r} is not like the real package's, e.g. 18.11.11-ee.0")
    number, edition = match.groups()
    shutil.copytree(PACKAGE, tree, dirs_exist_ok=True)
    control = tree / "DEBIAN" / "control.in"
    text = control.read_text().replace("@VERSION@", version).replace("@DEPENDS@", ", ".join(DEPENDS))
    control.with_name("control").write_text(text)
    control.unlink()
    preinst = tree / "DEBIAN" / "preinst"
    preinst.write_text(preinst.read_text().replace("@VERSION@", number))

    gitlab = tree / "opt" / "gitlab"
    rails = gitlab / "embedded" / "service" / "gitlab-rails"
    (rails / "VERSION").write_text(f"{number}-{edition}\n")
    (gitlab / "version-manifest.txt").write_text(
        f"gitlab-{edition} {number}\n\nSTAND-IN for the GitLab Linux package, made for a lab. Not GitLab.\n"
    )
    shutil.copy(HERE / "README.md", gitlab / "README-STANDIN.md")
    for name, target in EMBEDDED.items():
        (gitlab / "embedded" / "bin" / name).symlink_to(target)
    for folder in ("service", "sv", "init"):
        (gitlab / folder).mkdir()
    (tree / "usr" / "bin").mkdir(parents=True)
    for name in COMMANDS:
        (tree / "usr" / "bin" / name).symlink_to(f"/opt/gitlab/bin/{name}")
    _modes(tree)


def _modes(tree: Path) -> None:
    """Modes and times that do not depend on the checkout's umask."""
    programs = {"bin", "DEBIAN"}
    for path in [tree, *sorted(tree.rglob("*"))]:
        if path.is_symlink():
            os.utime(path, (EPOCH, EPOCH), follow_symlinks=False)
            continue
        executable = path.is_dir() or (path.parent.name in programs and path.name != "control")
        path.chmod(0o755 if executable else 0o644)
        os.utime(path, (EPOCH, EPOCH))


def build(out_dir: Path, version: str = "18.11.11-ee.0") -> Path:
    """Builds `gitlab-ee_<version>_amd64.deb` in `out_dir` and returns its path. Takes well under a second.

    Raises ValueError for a version that the real package could not have.
    """
    out_dir.mkdir(parents=True, exist_ok=True)
    deb = out_dir / f"gitlab-ee_{version}_amd64.deb"
    with tempfile.TemporaryDirectory(prefix="gitlab-standin-") as folder:
        tree = Path(folder) / "tree"
        stage(tree, version)
        subprocess.run(
            ["dpkg-deb", "--build", "--root-owner-group", "-Zgzip", str(tree), str(deb)],
            check=True,
            stdout=subprocess.DEVNULL,
            env={**os.environ, "SOURCE_DATE_EPOCH": str(EPOCH)},
        )
    return deb


if __name__ == "__main__":
    for wanted in sys.argv[2:] or ["18.11.11-ee.0"]:
        print(build(Path(sys.argv[1]), wanted))
