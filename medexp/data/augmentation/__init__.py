from medexp.data.augmentation.drawn import Drawn as Drawn
from medexp.data.augmentation.drawn import Intensities as Intensities
from medexp.data.augmentation.knobs import Augmentation as Augmentation
from medexp.data.augmentation.patch import cut_patch as cut_patch
