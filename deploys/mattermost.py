"""Mattermost on its own server: `pyinfra -y INVENTORY deploys/mattermost.py`.

Each line below is a step. When nothing differs there are no steps.
"""

from roles.mattermost import deploy as mattermost
from roles.rollout.mattermost import begin

run = begin()

if run:
    mattermost.install_packages(run)
    mattermost.prepare_node(run)
    mattermost.bring_release(run)
    mattermost.make_database(run)
    mattermost.register_application(run)
    mattermost.configure_server(run)
    mattermost.get_certificate(run)
    mattermost.configure_proxy(run)
    mattermost.make_administrator(run)
    mattermost.configure_plugin(run)
    mattermost.configure_slash_commands(run)
    mattermost.try_sign_on(run)
    mattermost.finish(run)
