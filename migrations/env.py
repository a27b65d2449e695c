"""Alembic's environment: the models whose schema the revisions bring about."""

import models
from alembic import context

from datalayer.migrate.env import run

run(context, models.Model)
