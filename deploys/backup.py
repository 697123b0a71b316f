"""Backups of Mattermost: `pyinfra -y INVENTORY deploys/backup.py` takes one now, and sees to the timers.

As a part of site.py it sees to the timers alone. Each line below is a step.
"""

from roles.backup import deploy as backup
from roles.rollout.backup import begin

run = begin()

if run:
    backup.install_packages(run)
    backup.configure(run)
    backup.take(run)
    backup.finish(run)
