"""Take GitLab to the version of the site file: `pyinfra -y INVENTORY deploys/gitlab_upgrade.py`.

What others build on first, then the node that migrates the database, then the rest, each seen healthy before the next
one is touched; nobody reads mail meanwhile. One minor release at a time; with `--data downtime=yes` up to the next
required stop, and nobody is served meanwhile. What was cut off is finished by the same command. With the old version in
the site file it goes back, as long as the database was not migrated. Each line below is a step.
"""

from roles.gitlab import upgrade as gitlab
from roles.mailroom import deploy as mailroom
from roles.rollout.upgrade import begin

run = begin()

if run.work:
    gitlab.fetch(run)
    mailroom.stop_readers(run)
    mailroom.see_readers_stopped(run)
    mailroom.keep_tokens(run)
    mailroom.record_reader(run)
    gitlab.remember(run)
    gitlab.stop_serving(run)
    gitlab.serve_again(run)
    gitlab.upgrade_nodes(run)
    gitlab.finish(run)
    mailroom.check_before_reading(run)
    mailroom.start_reader(run)
    mailroom.see_one_reader(run)
