"""Bring a release to the node and make it the current one. Releases are never changed, only added and pruned."""

from __future__ import annotations

import hashlib
import re
import shlex
from collections.abc import Mapping
from pathlib import Path

from pyinfra.api.host import Host

from roles.mattermost.render import CURRENT
from roles.mattermost.settings import APT, Download, MattermostSettings
from roles.node import remote
from roles.node.act import Act
from roles.site.errors import StepError
from roles.site.models import Site

SPACE_KIB = 3 * 1024 * 1024
"""Free space in /opt, in KiB, below which no release is brought there: the tarball and what is in it (11.x: 1.3 GB)."""


def folder(version: str) -> str:
    """Where a release is."""
    return f"{CURRENT}-{version}"


def number(text: str) -> tuple[int, ...]:
    """The version in the name of a release's folder, as numbers; empty when there is none."""
    found = re.fullmatch(rf"{CURRENT}-(\d+(?:\.\d+)+)", text)
    return tuple(int(part) for part in found.group(1).split(".")) if found else ()


# `.sha256` is written before the folder gets its name, so a folder with it is whole. A folder of that name that holds
# something else (another edition of the same version) is moved aside first, and removed at the end.
_UNPACK = """\
set -eu; umask 022
tarball=$1 sum=$2 target=$3 strip=$4 member=$5
new="$target.part"
trap 'rm -rf -- "$new"' EXIT
got=$(sha256sum < "$tarball"); got=${got%% *}
case $sum in apt:*) got=$sum;; esac
[ "$got" = "$sum" ] || { echo "the release's SHA-256 is $got, declared is $sum" >&2; exit 1; }
rm -rf -- "$new"; mkdir -- "$new"
tar -xf "$tarball" -C "$new" --strip-components="$strip" --no-same-owner --no-same-permissions ${member:+"$member"}
[ -x "$new/bin/mattermost" ] || { echo "there is no bin/mattermost in the release" >&2; exit 1; }
mkdir -p "$new/client"
chown -R root:root -- "$new"; chmod -R u=rwX,go=rX -- "$new"
echo "$sum" > "$new/.sha256"
sync -f -- "$new"
if [ -e "$target" ]; then rm -rf -- "$target.old"; mv -T -- "$target" "$target.old"; fi
mv -T -- "$new" "$target"
rm -rf -- "$target.old"
"""

# apt checks the signature of its index and the sum of the package. The version in it may have a suffix (11.4.0-0).
_APT = """\
set -eu; umask 022
folder=$(mktemp -d); trap 'rm -rf -- "$folder"' EXIT
chmod 755 -- "$folder"; cd "$folder"
apt-get -q update >/dev/null
version=$(apt-cache madison mattermost | awk '{print $3}' | grep -E "^$2(-|$)" | head -n 1)
[ -n "$version" ] || { echo "no apt source of this node has mattermost $2" >&2; exit 1; }
apt-get -q download "mattermost=$version" >/dev/null
dpkg-deb --fsys-tarfile mattermost_*.deb > "$1"
"""

_FETCH = """\
set -eu; umask 022
curl --fail --silent --show-error --location --retry 3 --connect-timeout 20 --output "$1" -- "$2"
"""


def bring(site: Site, host: Host) -> None:
    """Get the release onto the node, check its SHA-256, and unpack it beside the others.

    Raises:
        StepError: nothing was changed, and why.
    """
    wanted = site.mattermost
    assert wanted is not None
    staged = f"{CURRENT}-{wanted.version}.download"
    try:
        target = folder(wanted.version)
        if wanted.release.source == APT:
            _take(host, wanted.version, staged)
            inside = ("3", "./opt/mattermost")
        else:
            fetch(site, host, wanted.release, staged)
            inside = ("1", "")
        words = (staged, wanted.identity(site.dir), target, *inside)
        got = remote.run(host, _shell(_UNPACK, *words), note="unpacking the release")
        if not got.ok:
            raise StepError(f"the release was not installed: {_last(got.stderr)}. Nothing was changed.")
    finally:
        remote.run(host, f"rm -f -- {shlex.quote(staged)}")


def _take(host: Host, version: str, staged: str) -> None:
    """Put what is in apt's package to `staged`, as a tar."""
    got = remote.run(host, _shell(_APT, staged, version), note="taking the release from apt")
    if not got.ok:
        raise StepError(
            f"the release could not be had from apt: {_last(got.stderr)}. Add Mattermost's apt repository to the node "
            "(https://deb.packages.mattermost.com), or name a URL or a file."
        )


def fetch(site: Site, host: Host, wanted: Download, staged: str) -> None:
    """Bring a file to `staged` on the node, downloaded there or sent from here. Its sum is not checked yet.

    Raises:
        StepError: it did not arrive, and why.
    """
    if wanted.file:
        _send(site.file(wanted.file), wanted.sum(site.dir), host, staged)
        return
    got = remote.run(host, _shell(_FETCH, staged, wanted.source), note=f"downloading {wanted.source}")
    if not got.ok:
        raise StepError(
            f"{wanted.source} could not be downloaded: {got.stderr.strip()}. Check it, and that the node reaches it "
            "(mattermost.environment's proxies are the server's alone); or name a file here."
        )


def _send(file: Path, declared: str, host: Host, staged: str) -> None:
    with file.open("rb") as content:
        found = hashlib.file_digest(content, "sha256").hexdigest()
    if found != declared:
        raise StepError(f"{file} has SHA-256 {found}, declared is {declared}. Nothing was changed.")
    got = remote.send(host, file, staged, note=f"sending {file.name}")
    if not got.ok:
        raise StepError(f"the release could not be sent: {_last(got.stderr)} (is /opt full?). Nothing was changed.")


# rename(2) of a new link over the old one: whoever looks sees either release, never none.
_SWITCH = """\
set -eu
ln -sfn -- "$2" "$1.new"
mv -fT -- "$1.new" "$1"
"""


def switch(version: str) -> Act:
    """What makes a release the current one."""
    return Act(
        _shell(_SWITCH, CURRENT, folder(version)),
        told=lambda got: f"{CURRENT} could not be pointed at {folder(version)}: {_last(got.said)}.",
    )


def surplus(releases: Mapping[str, str], settings: MattermostSettings, current: str) -> list[str]:
    """Folders of releases to remove: the oldest beyond `release.keep`, never the declared one or the one in use.

    Args:
        releases: SHA-256 by folder, as found; without one a folder is not ours and stays.
        current: the folder in use: the way back from an upgrade.
    """
    ours = sorted((path for path, sum_ in releases.items() if sum_ and number(path)), key=number, reverse=True)
    others = [path for path in ours if path != folder(settings.version)]
    return [path for path in others[settings.release.keep - 1 :] if path != current]


def prune(host: Host, paths: list[str]) -> None:
    """Remove releases."""
    if paths:
        remote.run(host, "rm -rf -- " + " ".join(shlex.quote(path) for path in paths))


def _shell(script: str, *words: str) -> str:
    return " ".join(shlex.quote(word) for word in ("sh", "-c", script, "sh", *words))


def _last(text: str) -> str:
    return (text.strip().splitlines() or ["no reason was given"])[-1]
