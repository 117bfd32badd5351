from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from conftest_losses import KINDS, LOSSES, example, total
from monai.losses import TverskyLoss

from medexp.core.types import UNANNOTATED
from medexp.losses.cross_entropy import CrossEntropy
from medexp.losses.ignore_index import IgnoreIndex

torch.set_num_threads(1)
