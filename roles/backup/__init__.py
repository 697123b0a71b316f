"""Backups of Mattermost that were read back, restores that were proven, and drills."""
