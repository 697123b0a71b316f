"""Put files on a node: one command, the content through standard input, all files or none.

Standard input is the only way to a node that shows neither in a process list, nor in a log, nor in a
temporary file that others can read (pyinfra 3.10 uploads with sudo to a predictable 0644 file in /tmp).
"""

from __future__ import annotations

import base64
import shlex

from pyinfra.api.host import Host

from roles.node.act import Act, do
from roles.node.plan import FileChange

# Every file is staged beside its target (one file system, so that the rename is atomic), checked, synced;
# only when all are ready are they moved. A full disk or a failed check therefore leaves the node as it was.
_FUNCTIONS = """\
set -u; umask 077; LC_ALL=C; export LC_ALL
undo() { while IFS= read -r staged; do rm -f -- "$staged"; done <<END
$all
END
}
fail() { echo "$1" >&2; undo; exit 1; }
all=
stage() {
  path=$1 owner=$2 mode=$3 check=$4 keep=$5
  dir=$(dirname -- "$path"); new="$dir/.$(basename -- "$path").pyinfra-new"
  [ -d "$dir" ] || fail "$dir does not exist on this node (is the package that makes it installed?)"
  IFS= read -r content || fail "the content of $path did not arrive whole"
  rm -f -- "$new"; all="$all$new
"
  printf %s "$content" | base64 -d > "$new" || fail "could not write $new (is the disk full?)"
  chown "$owner" -- "$new" && chmod "$mode" -- "$new" || fail "could not set owner or mode of $new"
  if [ -n "$check" ]; then
    why=$(sh -c "$check" check "$new" 2>&1) || fail "$path was not installed, its check failed: $why"
  fi
  sync -- "$new" || fail "could not write $new to disk"
  if [ -n "$keep" ] && [ -f "$path" ] && [ ! -e "$keep" ]; then
    cp -p -- "$path" "$keep.part" && mv -- "$keep.part" "$keep" || fail "could not keep a copy as $keep"
  fi
}
"""


def put(host: Host, changes: list[FileChange]) -> None:
    """Install files on a node, and write that into its audit log.

    Args:
        changes: the files that differ; none: nothing is done.

    Raises:
        StepError: nothing was changed on the node, and why.
    """
    acts, content = act(changes)
    if acts:
        do(host, *acts, stdin=content)


def act(changes: list[FileChange], within: str = "") -> tuple[list[Act], str]:
    """The act that installs `changes` (none when nothing differs), and what to feed to its standard input.

    Args:
        changes: the files that differ.
        within: a shell script that does it: what it has to run is its `$1`.
    """
    if not changes:
        return [], ""
    script, content = install(changes)
    files = {one.file.path: [one.found.sha256[:16] or "absent", one.file.sha256[:16]] for one in changes}
    command = f"sh -c {shlex.quote(within)} sh {shlex.quote(script)}" if within else script
    one = Act(
        command, "files installed", {"files": files}, lambda got: f"the configuration was not installed: {got.said}"
    )
    return [one], content


def install(changes: list[FileChange]) -> tuple[str, str]:
    """The shell command that installs `changes`, and what to feed to its standard input."""
    script = [_FUNCTIONS]
    content = []
    for change in changes:
        f = change.file
        words = [f.path, f"{f.owner}:{f.group}", f"{f.mode:o}", f.check or "", f.keep_first or ""]
        script.append("stage " + " ".join(shlex.quote(w) for w in words))
        content.append(base64.b64encode(f.content).decode())
    for change in changes:
        path = shlex.quote(change.file.path)
        script.append(f'd=$(dirname -- {path}); mv -fT -- "$d/.$(basename -- {path}).pyinfra-new" {path} || exit 1')
    return "\n".join(script), "\n".join(content)
