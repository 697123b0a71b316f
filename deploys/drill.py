"""A restore drill: `pyinfra -y INVENTORY deploys/drill.py [--data backup=latest]`. Exit code 0 only if it passed.

The last good backup is restored on the node with the role `mattermost_drill` and on a database of its own, muted and
cut off from the outside; everything is checked; the copy is torn down; a report is written (JSON, and a page).
"""

from roles.backup import drill
from roles.rollout.drill import begin

run = begin()

if run:
    drill.install_packages(run)
    drill.drill(run)
