"""Storage servers for the lab: restic's REST server, and a small S3."""
