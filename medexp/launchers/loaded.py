"""What the server of forks loads once: all that a training imports."""

import medexp.engine.fit
import medexp.engine.preflight
import medexp.losses.ignore_index
import medexp.models.dynunet  # noqa: F401  MONAI's networks are slow to import
