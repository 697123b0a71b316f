"""The lab's stand-in for the GitLab Linux package (see README.md)."""
