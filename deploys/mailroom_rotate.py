"""New webhook tokens: `pyinfra -y INVENTORY deploys/mailroom_rotate.py`. No mail is lost: nobody reads meanwhile.

The reader is stopped and seen stopped; the new tokens are kept where the site file says; every Rails node gets them;
and only when all of them accept the reader's posts, it starts again. A run that was cut off is finished by the same
command, or by site.py. Each line below is a step.
"""

from roles.gitlab import deploy as gitlab
from roles.mailroom import deploy as mailroom
from roles.rollout.rotate import begin

run = begin()

if run.work:
    mailroom.stop_readers(run)
    mailroom.see_readers_stopped(run)
    mailroom.keep_tokens(run)
    mailroom.record_reader(run)
    gitlab.configure_nodes(run)
    gitlab.configure_reader_with_mail_off(run)
    mailroom.check_before_reading(run)
    mailroom.start_reader(run)
    mailroom.see_one_reader(run)
