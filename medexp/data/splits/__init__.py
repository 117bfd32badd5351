"""Which cases train and which are held out."""

from medexp.data.splits.given_lists import GivenLists
from medexp.data.splits.hold_out import HoldOut
from medexp.data.splits.k_fold import KFold
from medexp.data.splits.later_frames import LaterFrames
from medexp.data.splits.leave_one_group_out import LeaveOneGroupOut
from medexp.data.splits.parts import Parts, Split
from medexp.data.splits.prescribed import Prescribed
from medexp.data.splits.strata import Contents, Known, Strata, informed

__all__ = [
    "Contents",
    "GivenLists",
    "HoldOut",
    "KFold",
    "Known",
    "LaterFrames",
    "LeaveOneGroupOut",
    "Parts",
    "Prescribed",
    "Split",
    "Strata",
    "informed",
]
