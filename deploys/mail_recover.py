"""Mails that were taken and that GitLab never got: `pyinfra -y INVENTORY deploys/mail_recover.py [--data deliver=yes]`.

Without `deliver=yes` they are only listed (exit code 1 when there are any). With it the reader is stopped, so that none
is on its way; those that GitLab certainly does not have are handed back to it; and it starts again. `unclear=yes` also
hands back those that GitLab may have, `message_id=ID` one that the logs know nothing of. Each line below is a step.
"""

from roles.mailroom import deploy as mailroom
from roles.rollout import recover

run = recover.begin()

if run:
    mailroom.stop_readers(run)
    mailroom.see_readers_stopped(run)
    recover.hand_back(run)
    mailroom.check_before_reading(run)
    mailroom.start_reader(run)
    mailroom.see_one_reader(run)
    mailroom.see_first_poll(run)
