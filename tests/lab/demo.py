"""`make demo`: a GitLab site and Mattermost on real machines: a mail is read once, and somebody logs in to the chat."""

from __future__ import annotations

import json
import subprocess
import sys
import time

from tests.lab import mail
from tests.lab.image import DOMAIN, LAB, MACHINES
from tests.lab.lab import Lab
from tests.lab.site import NODES, ROOT, LabSite

URL = f"https://chat.{DOMAIN}"
ADDRESS = f"servicedesk+mygroup-myproject-support@{DOMAIN}"


def password_of(username: str) -> str:
    """The password in the stand-in GitLab (its README)."""
    return f"password-of-{username}-in-the-lab"


def title(text: str) -> None:
    """A heading between the acts."""
    print(f"\n\033[1m== {text}\033[0m" if sys.stdout.isatty() else f"\n== {text}", flush=True)


def pyinfra(site: LabSite, deploy: str) -> None:
    """Run a deploy in the lab before the eyes of the user; end the demo when it fails."""
    print(f"$ uv run lab run -- pyinfra -y inventories/lab/inventory.py deploys/{deploy}.py", flush=True)
    done = subprocess.run(site.lab.command(site.command(deploy=deploy)), cwd=ROOT, check=False)
    if done.returncode != 0:
        sys.exit(f"The demo ends here: {deploy}.py failed (its own words are above). The lab is left up to look at.")


def main() -> None:
    """The demo."""
    started = time.monotonic()
    lab = Lab()
    title("The lab: eleven machines with systemd, in a network of their own (the GitLab package is a stand-in)")
    again = lab.is_up
    lab.up()
    if again:
        print("   the lab was up: its nodes are made new, so that there is something to see", flush=True)
        lab.reset(*NODES, *(name for name in MACHINES if name not in (*NODES, "lb-1", "mail-1")))
    (LAB / "secrets" / "mattermost_oauth").unlink(missing_ok=True)  # of a GitLab that is no more
    for name, state in lab.status().items():
        print(f"   {name:10} {state}")
    site = LabSite(lab, ROOT / "inventories" / "lab")

    title("site.py: the site becomes what inventories/lab/site.yml says")
    pyinfra(site, "site")
    title("Once more: nothing is left to do")
    pyinfra(site, "site")

    title(f"A customer writes to {ADDRESS}")
    (sent,) = mail.send(lab, ADDRESS, "My printer is on fire")
    print(f"sent: Message-ID <{sent}>; waiting for the reader to take it", flush=True)
    got = site.wait_for({sent})
    for one in got:
        print(f"GitLab on {one['node']} took it by route {one['route']}: {one['subject']!r} to {one['to']}")
    print(f"readers, counted from the processes of all nodes: {site.readers()}")

    title("alice signs on to Mattermost with her GitLab account")
    asked = {"url": URL, "ca": str(LAB / "ca" / "ca.crt"), "username": "alice", "password": password_of("alice")}
    done = lab.run([sys.executable, "-m", "tests.lab.people", "sign_on"], stdin=json.dumps(asked))
    me = json.loads(done.stdout or "{}").get("me", {})
    print(f"logged in as {me.get('username')}, e-mail {me.get('email')}, signed on by {me.get('auth_service')}")

    title("backup.py: a backup that is read back before it counts")
    pyinfra(site, "backup")
    title("drill.py: the backup, restored on a spare node with a newer PostgreSQL, proven, and torn down")
    pyinfra(site, "drill")
    title("verify.py: is the site what its file says?")
    pyinfra(site, "verify")
    if len(got) != 1:
        sys.exit(f"The demo failed: the mail was taken {len(got)} times, not once.")
    if me.get("auth_service") != "gitlab":
        sys.exit("The demo failed: alice could not sign on.")
    print(f"""
Mattermost: {URL} (reached by `uv run lab run -- curl --cacert .lab/ca/ca.crt {URL}/api/v4/system/ping`)
  administrator: admin, password in .lab/secrets/mattermost_admin_password
  through GitLab: alice, {password_of("alice")}
Reports of the drills: .lab/drills
The mail that was sent was delivered once. All of it took {time.monotonic() - started:.0f} s. The lab is still up. Try:
  uv run lab status                       the machines
  uv run lab ssh gitlab-1                 look around on one
  edit inventories/lab/site.yml           then run the line with site.py above again
                                          (add --dry --diff to only look)
  ... deploys/mailroom_move.py --data to=gitlab-2     moves the mail reader
  uv run lab cut gitlab-2                 pull a cable, and run site.py or verify.py again (lab heal gitlab-2)
  uv run lab down                         stop and remove everything""")


if __name__ == "__main__":
    main()
