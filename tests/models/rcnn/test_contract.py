from somaseg.decide import SettleSettings
from somaseg.models.training.settings import TrainSettings
from tests.models.contract import STILL, Contract
from tests.models.rcnn.make import SMALL

OVER_FIT = TrainSettings(
    steps=100, batch=2, crop=64, rate=2e-3, encoder_rate=1.0, average=0.9, augment=STILL
)


class TestMaskRCNN(Contract):
    config = SMALL
    over_fit = OVER_FIT
    settings = SettleSettings(score=0.5, min_area=15)


class TestCascadeMaskScoring(Contract):
    config = SMALL | {"box_head": "cascade", "mask_scoring": True}
    over_fit = OVER_FIT
    settings = SettleSettings(score=0.4, min_area=15)


class TestPointRend(Contract):
    config = SMALL | {"mask_head": "point", "mask_size": 56}
    over_fit = OVER_FIT
    settings = SettleSettings(score=0.5, min_area=15)
