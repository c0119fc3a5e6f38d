"""Alembic's environment: the steps that bring a database to the newest schema."""
