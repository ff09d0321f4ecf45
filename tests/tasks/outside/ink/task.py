from torch import nn
from torch.nn import functional as F
from torchmetrics import MetricCollection, R2Score

from peftbench.tasks.base import Task


class InkTask(Task):
    classes = ()

    def __init__(self, width, bias):
        super().__init__()
        self.head = nn.Linear(width, 1, bias=bias)

    @classmethod
    def build(cls, section, backbone, classes, categories=()):
        return cls(backbone.facts.width, section.bias)

    def predict(self, extract, backbone, images):
        return self.head(backbone.pool(extract(images)[-1])).squeeze(1)

    def loss(self, extract, backbone, batch):
        return F.mse_loss(self.predict(extract, backbone, batch[0]), batch[1])

    def metrics(self):
        return MetricCollection({"r2": R2Score()})


TASK = InkTask
