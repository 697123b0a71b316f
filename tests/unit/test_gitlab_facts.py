"""What a GitLab node answers, with a real shell on folders of our own, is what is made of it here."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from roles.gitlab import facts
from roles.node.bundle import Bundle
from roles.node.facts import Look, NodeState, parse


class Node:
    """A folder in the place of a node's file system."""

    def __init__(self, root: Path) -> None:
        self.root = root
        for path in (facts.MANIFEST, *facts.WATCHED, facts.STAMP, facts.UPGRADE):
            self.path(path).parent.mkdir(parents=True, exist_ok=True)

    def path(self, name: str) -> Path:
        """Where a file of the node is."""
        return self.root / name.lstrip("/")

    def sh(self, script: str) -> str:
        """Run shell that names files of the node."""
        for name in (facts.MANIFEST, *facts.WATCHED, facts.STATE_DIR):
            script = script.replace(name, str(self.path(name)))
        return subprocess.run(["sh", "-c", script], capture_output=True, text=True, check=True).stdout

    def look(self) -> NodeState:
        """Ask what every GitLab node is asked."""
        look = Look(Bundle((), facts.questions(False), facts.WATCHED))
        state = parse(look, self.sh(look.script).splitlines())
        sums = {name.removeprefix(str(self.root)): sum_ for name, sum_ in state.sums.items()}
        return NodeState(state.clock, sums=sums, answers=state.answers)

    def reconfigured(self) -> bool:
        """Whether a look sees that the last reconfigure read what is there now."""
        return facts.reconfigured(self.look())


@pytest.fixture
def node(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Node:
    """A node with the package, one configuration file, and a reconfigure that ended well."""
    node = Node(tmp_path)
    # the sums are of text that names the paths
    monkeypatch.setattr(facts, "FINGERPRINT", facts.FINGERPRINT.replace("; }", f"| sed 's|{tmp_path}||'; }}"))
    node.path(facts.MANIFEST).write_text("gitlab-ee 18.11.11 \nruby 3.3\n")
    node.path(facts.WATCHED[0]).write_text("external_url 'x'\n")
    node.path(facts.STAMP).write_text(node.sh(facts.FINGERPRINT))
    return node


def test_the_fingerprint_of_a_look_is_that_of_the_shell(node: Node) -> None:
    assert facts.fingerprint(node.look()) == node.sh(facts.FINGERPRINT).strip()
    assert node.reconfigured()
    assert facts.version(node.look()) == "18.11.11"


@pytest.mark.parametrize("damage", ["version", "content", "one more", "gone", "no stamp"])
def test_whatever_reconfigure_would_read_otherwise_is_seen(node: Node, damage: str) -> None:
    ours, other = (node.path(name) for name in facts.WATCHED)
    match damage:
        case "version":
            node.path(facts.MANIFEST).write_text("gitlab-ee 18.11.12\n")
        case "content":
            ours.write_text("external_url 'y'\n")
        case "one more":
            other.write_text("")
        case "gone":
            ours.unlink()
        case "no stamp":
            node.path(facts.STAMP).unlink()
    assert not node.reconfigured()


def test_a_link_to_the_configuration_is_followed(node: Node) -> None:
    """With `config: include` the operator's gitlab.rb may be one."""
    ours = node.path(facts.WATCHED[0])
    ours.rename(ours.with_name("elsewhere"))
    ours.symlink_to("elsewhere")
    assert node.reconfigured()
    ours.with_name("elsewhere").write_text("external_url 'y'\n")
    assert not node.reconfigured()


def test_free_space_is_what_df_says(node: Node) -> None:
    folders = [folder for folder in facts.WRITTEN.split() if Path(folder).exists()]
    df = ["df", "-k", "--output=avail", *folders]
    said = subprocess.run(df, capture_output=True, text=True, check=True).stdout.split()[1:]
    assert abs(int(node.look().answer("gitlab.free_kib")) - min(map(int, said))) < 200_000, "others write there, too"


def test_a_node_without_the_package(tmp_path: Path) -> None:
    node = Node(tmp_path)
    assert facts.version(node.look()) is None
    assert not node.reconfigured()
    assert facts.upgrade(node.look()) is None
    assert not facts.drained(node.look())
