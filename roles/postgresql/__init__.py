"""The role and the database of an application on a PostgreSQL server that we do not run."""
