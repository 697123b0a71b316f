"""What runs on Mattermost's own node, from a timer or for a deploy: `mattermost-backup`.

It stands alone: Python's standard library, Debian's python3-psycopg, restic and PostgreSQL's client. A backup must not
need the operator's machine, and a restore must not stop half-way because a laptop was closed.
"""
