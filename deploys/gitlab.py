"""GitLab's configuration on every node, and exactly one mail reader: `pyinfra -y INVENTORY deploys/gitlab.py`.

Each line below is a step that every node finishes before any node begins the next one. When nothing differs there are
no steps.
"""

from roles.gitlab import deploy as gitlab
from roles.mailroom import deploy as mailroom
from roles.rollout.run import begin

run = begin()

if run.work:
    gitlab.install_package(run)
    mailroom.stop_readers(run)
    mailroom.see_readers_stopped(run)
    mailroom.keep_tokens(run)
    mailroom.record_reader(run)
    gitlab.configure_nodes(run)
    gitlab.configure_reader_with_mail_off(run)
    mailroom.check_before_reading(run)
    mailroom.start_reader(run)
    mailroom.see_one_reader(run)
