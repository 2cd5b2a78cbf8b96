"""Networks with an auxiliary head."""

from collections import namedtuple

import torch
from torch import nn

Auxiliary = namedtuple("Auxiliary", "logits aux")


class AuxiliaryNet(nn.Module):
    """SmallNet's kind with an auxiliary head that runs in training only, as GoogLeNet and Inception have them."""

    def __init__(self, pack=Auxiliary):
        super().__init__()
        self.pack = pack
        self.conv = nn.Conv2d(1, 8, 3, padding=1, bias=False)
        self.norm = nn.BatchNorm2d(8)
        self.aux = nn.Linear(8, 3)
        self.conv2 = nn.Conv2d(8, 8, 3, padding=1)
        self.fc = nn.Linear(8, 3)

    def forward(self, x):
        x = torch.relu(self.norm(self.conv(x)))
        logits = self.fc(torch.relu(self.conv2(x)).mean((2, 3)))
        return self.pack(logits, self.aux(x.mean((2, 3)))) if self.training else logits


class BothNet(AuxiliaryNet):
    """A tuple in evaluation mode as well, where the auxiliary head runs for nothing."""

    def forward(self, x):
        x = torch.relu(self.norm(self.conv(x)))
        return self.fc(torch.relu(self.conv2(x)).mean((2, 3))), self.aux(x.mean((2, 3))), x
