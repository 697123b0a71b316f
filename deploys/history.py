"""Who changed what, when, from where and why: `pyinfra -y INVENTORY deploys/history.py [--data last=50]`. Read-only.

The audit logs of all nodes as one table; with `--data format=json` as JSON. Exit code 1 when a log was tampered with.
"""

from roles.rollout.history import history

history()
