"""`make demo`: a three-node GitLab site is configured on real machines, a mail is sent, exactly one node reads it."""

from __future__ import annotations

import subprocess
import sys
import time

from tests.lab import mail
from tests.lab.image import DOMAIN
from tests.lab.lab import Lab
from tests.lab.site import NODES, ROOT, LabSite

ADDRESS = f"servicedesk+mygroup-myproject-support@{DOMAIN}"


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
    title("The lab: six machines with systemd, in a network of their own (the GitLab package is a stand-in)")
    again = lab.is_up
    lab.up()
    if again:
        print("   the lab was up: its GitLab nodes are made new, so that there is something to see", flush=True)
        lab.reset(*NODES)
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

    title("verify.py: is the site what its file says?")
    pyinfra(site, "verify")
    if len(got) != 1:
        sys.exit(f"The demo failed: the mail was taken {len(got)} times, not once.")
    print(f"""
The mail that was sent was delivered once. All of it took {time.monotonic() - started:.0f} s. The lab is still up. Try:
  uv run lab status                       the machines
  uv run lab ssh gitlab-1                 look around on one
  edit inventories/lab/site.yml           then run the line with site.py above again
                                          (reader: gitlab-2 moves the reader; add --dry --diff to only look)
  uv run lab cut gitlab-2                 pull a cable, and run site.py or verify.py again (lab heal gitlab-2)
  uv run lab down                         stop and remove everything""")


if __name__ == "__main__":
    main()
