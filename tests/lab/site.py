"""Run the product on the lab, and look at what came of it: what the tests and the demo share."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tests.lab.lab import Lab

ROOT = Path(__file__).resolve().parents[2]
RAILS = ("gitlab-1", "gitlab-2", "gitlab-3")
NODES = (*RAILS, "gitaly-1")
AS_DECLARED = (
    "pyinfra-gitlab: as declared: nothing to do on 4 GitLab nodes; nothing to do for Mattermost on chat-1; "
    "nothing to do for the backups of chat-1"
)
"""The last line of a run over the lab's site that found nothing to do."""
RECEIVED = "/var/log/gitlab/standin/received.jsonl"
"""Where the stand-in's API route writes down each mail that it took."""


class Result:
    """How a pyinfra run ended."""

    def __init__(self, done: subprocess.CompletedProcess[str]) -> None:
        self.code = done.returncode
        self.screen = done.stderr
        self.stdout = done.stdout

    @property
    def last_line(self) -> str:
        """The one line that says how it ended."""
        return self.screen.strip().splitlines()[-1]

    @property
    def json(self) -> dict[str, Any]:
        """The JSON result (runs with `--data format=json`)."""
        answer: dict[str, Any] = json.loads(self.stdout.strip().splitlines()[-1])
        return answer

    def check(self, name: str, subject: str) -> dict[str, Any]:
        """One check of `verify`, by node and the beginning of its subject."""
        (found,) = [c for c in self.json["checks"] if c["node"] == name and c["subject"].startswith(subject)]
        return dict(found)


class LabSite:
    """A site on the lab: inventories/lab as it is, or, in another folder, a copy that a test may change."""

    def __init__(self, lab: Lab, folder: Path) -> None:
        self.lab = lab
        self.folder = folder
        self.kept: dict[str, Any] = {}
        """What modules that use the same site have made there."""
        source = ROOT / "inventories" / "lab"
        if folder == source:
            return
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "inventory.py").write_text((source / "inventory.py").read_text())
        text = (source / "site.yml").read_text()
        for kind in ("incoming_email", "service_desk_email"):  # tokens of its own: two labs must not share them
            text = text.replace(f"../../.lab/secrets/{kind}_token", f"secrets/{kind}_token")
        text = text.replace("../../.lab/secrets/mattermost_oauth", "secrets/mattermost_oauth")
        self.original = text.replace("../../.lab", str(ROOT / ".lab"))
        self.write(self.original)

    def write(self, text: str) -> None:
        """Replace the site file."""
        (self.folder / "site.yml").write_text(text)

    def edit(self, *pairs: tuple[str, str]) -> None:
        """Replace texts in the original site file; each must be there."""
        text = self.original
        for old, new in pairs:
            assert old in text, old
            text = text.replace(old, new)
        self.write(text)

    def command(self, *flags: str, deploy: str = "site", yes: bool = True) -> list[str]:
        """The command line of a run."""
        head = [str(Path(sys.executable).with_name("pyinfra")), *(["-y"] if yes else [])]
        return [*head, str(self.folder / "inventory.py"), f"deploys/{deploy}.py", *flags]

    def run(self, *flags: str, deploy: str = "site", yes: bool = True) -> Result:
        """Run a deploy in the lab's network."""
        return Result(self.lab.run(self.command(*flags, deploy=deploy, yes=yes)))

    def ok(self, *flags: str, deploy: str = "site") -> Result:
        """Run a deploy that must succeed."""
        result = self.run(*flags, deploy=deploy)
        assert result.code == 0, result.screen
        return result

    def verify(self) -> Result:
        """`verify.py` with its JSON."""
        return self.run("--data", "format=json", deploy="verify")

    def sound(self, seconds: float = 0) -> None:
        """`verify.py` must find the site as declared, at once or within so many seconds."""
        deadline = time.monotonic() + seconds
        while (found := self.verify()).code and time.monotonic() < deadline:
            time.sleep(1)
        assert found.stdout, found.screen
        wrong = [one for one in found.json["checks"] if one["verdict"] != "as declared"]
        assert found.code == 0, (found.last_line, wrong)

    def readers(self) -> dict[str, int]:
        """How many mail_rooms run on each node, counted by the lab itself."""
        script = "pgrep -c -f '^[^ ]*ruby[^ ]* [^ ]*mail_room -c' || true"
        return {name: int(self.lab.sh(name, script).stdout or 0) for name in NODES}

    def received(self) -> list[dict[str, Any]]:
        """Every mail that GitLab's API took, on any node."""
        out = []
        for name in RAILS:
            file = self.lab.folder / name / "upper" / RECEIVED.lstrip("/")  # there, too, while the node is off
            text = file.read_text() if file.exists() else ""
            out += [json.loads(line) for line in text.splitlines() if line.endswith("}")]
        return out

    def wait_for(self, message_ids: set[str], seconds: float = 60) -> list[dict[str, Any]]:
        """Wait until all these mails were taken; returns every delivery of them, duplicates too."""
        deadline = time.monotonic() + seconds
        while True:
            got = [mail for mail in self.received() if mail["message_id"].strip("<>") in message_ids]
            if {mail["message_id"].strip("<>") for mail in got} == message_ids or time.monotonic() > deadline:
                return got
            time.sleep(1)


@contextmanager
def broken(site: LabSite, name: str, damage: str, repair: str) -> Iterator[None]:
    """A node that is damaged while the context lasts."""
    site.lab.sh(name, damage)
    try:
        yield
    finally:
        site.lab.sh(name, repair)
