"""Whether a node's GitLab is configured as declared. Asked by `verify`."""

from __future__ import annotations

from roles.gitlab import facts
from roles.node.bundle import File
from roles.node.checks import Check, compare
from roles.node.facts import NodeState
from roles.node.plan import changes
from roles.site.models import Site

CURE = "Run deploys/site.py."


def configuration(site: Site, node: str, state: NodeState | str, file: File) -> list[Check]:
    """Version, configuration file, include line, and whether GitLab uses what the file says.

    Args:
        state: what was found; a string is the reason why the node could not be read.
        file: the configuration file that it must have.
    """
    if isinstance(state, str):
        return [compare(node, "node", "reachable", None, False, f"{state}. Bring it back, then look again.")]
    installed = facts.version(state)
    out = [
        compare(
            node,
            "GitLab version",
            site.gitlab.version,
            installed or "not installed",
            installed == site.gitlab.version,
            "Set gitlab.version to what is installed, or upgrade: deploys/gitlab_upgrade.py.",
        )
    ]
    going_on = facts.upgrade(state)
    if going_on:
        found = f"{going_on.old} to {going_on.new}: {going_on.phase}"
        cure = "deploys/gitlab_upgrade.py goes on with it."
        out.append(compare(node, "last upgrade of GitLab", "at its end", found, not going_on.open, cure))
    differing = changes((file,), state)
    out.append(
        compare(
            node,
            file.path,
            "as the site file says",
            differing[0].summary() if differing else "the same",
            not differing,
            f"{CURE} `--dry --diff` shows what would change.",
        )
    )
    if site.gitlab.config == "include":
        include = facts.include(state)
        found = "; ".join(include.problems) or f"{include.lines} lines"
        ok = include.as_declared and not include.problems
        out.append(compare(node, f"from_file line in {facts.GITLAB_RB}", "1 line", "1 line" if ok else found, ok, CURE))
    done = facts.reconfigured(state)
    out.append(
        compare(node, "gitlab-ctl reconfigure", "after the last change", "done" if done else "not done", done, CURE)
    )
    return out
