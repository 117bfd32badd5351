"""What a dataset looks like: shapes, spacings, intensities, and the sizes of what is annotated."""

from medexp.data.fingerprint.case import CaseSummary, summarise
from medexp.data.fingerprint.dataset import Fingerprint
from medexp.data.fingerprint.store import CaseSummaries

__all__ = ["CaseSummaries", "CaseSummary", "Fingerprint", "summarise"]
