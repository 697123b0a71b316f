"""Mattermost on its own server: its release, its configuration, its sign-on through GitLab."""
