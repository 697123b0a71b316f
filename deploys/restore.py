"""Restore Mattermost: `pyinfra -y INVENTORY deploys/restore.py [--data backup=latest] [--data replace=yes]`.

`backup` is an id of `mattermost-backup list`, `latest` (the last good one), or a time: the last good one before it. Or
`--data dump=mattermost_dbdump_DATE.sql.gz --data files=mattermost_data_DATE.gz`: what GitLab's documentation makes.
Whatever is there is replaced only with `replace=yes`, kept aside, and put back if any check fails.
"""

from roles.backup import restore
from roles.rollout.restore import begin

run = begin()

if run:
    restore.install_packages(run)
    restore.make_ready(run)
    restore.restore(run)
    restore.open_site(run)
