"""What the server of forks loads for a search, so that its jobs need not."""

import sqlalchemy.orm  # noqa: F401
