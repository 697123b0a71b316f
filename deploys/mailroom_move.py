"""Move the mail reader: `pyinfra -y INVENTORY deploys/mailroom_move.py --data to=NODE [--data fenced=DEAD_NODE]`.

The new reader is tried first; the old one is stopped and seen stopped; then the new one starts, and its first look into
the mailbox is waited for. Mails wait in the mailbox meanwhile. `fenced` takes over from a node that cannot be reached
and is off for certain. `edit=yes` also changes `mail.reader` in the site file. Each line below is a step.
"""

from roles.gitlab import deploy as gitlab
from roles.mailroom import deploy as mailroom
from roles.rollout.move import begin

run = begin()

if run.work:
    gitlab.install_package(run)
    mailroom.try_new_reader(run)
    mailroom.stop_readers(run)
    mailroom.see_readers_stopped(run)
    mailroom.keep_tokens(run)
    mailroom.record_reader(run)
    gitlab.configure_nodes(run)
    gitlab.configure_reader_with_mail_off(run)
    mailroom.check_before_reading(run)
    mailroom.start_reader(run)
    mailroom.see_one_reader(run)
    mailroom.see_first_poll(run)
