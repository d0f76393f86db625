"""The nets that both ways are tested with: the same as in tests/test_torch.c, by the same names."""
import torch
from torch import nn
import torch.nn.functional as F


class LeNet(nn.Module):
    shape = (3, 1, 28, 28)

    def __init__(self):
        super().__init__()
        self.conv1 = nn.Conv2d(1, 6, 5, padding=2)
        self.conv2 = nn.Conv2d(6, 16, 5)
        self.fc1, self.fc2, self.fc3 = nn.Linear(400, 120), nn.Linear(120, 84), nn.Linear(84, 10)

    def forward(self, x):
        x = F.max_pool2d(F.relu(self.conv1(x)), 2)
        x = F.max_pool2d(F.relu(self.conv2(x)), 2)
        return self.fc3(F.relu(self.fc2(F.relu(self.fc1(x.flatten(1))))))


class Block(nn.Module):                      # torchvision's BasicBlock, by its names
    def __init__(self, a, b, stride):
        super().__init__()
        self.conv1, self.bn1 = nn.Conv2d(a, b, 3, stride, 1, bias=False), nn.BatchNorm2d(b)
        self.conv2, self.bn2 = nn.Conv2d(b, b, 3, 1, 1, bias=False), nn.BatchNorm2d(b)
        self.downsample = None
        if stride != 1 or a != b:
            self.downsample = nn.Sequential(nn.Conv2d(a, b, 1, stride, bias=False), nn.BatchNorm2d(b))

    def forward(self, x):
        y = self.bn2(self.conv2(F.relu(self.bn1(self.conv1(x)))))
        return F.relu(y + (self.downsample(x) if self.downsample else x))


class ResNet(nn.Module):
    shape = (3, 3, 11, 9)

    def __init__(self):
        super().__init__()
        self.conv1, self.bn1 = nn.Conv2d(3, 6, 3, padding=1, bias=False), nn.BatchNorm2d(6)
        self.layer1 = nn.Sequential(Block(6, 6, 1))
        self.layer2 = nn.Sequential(Block(6, 10, 2), Block(10, 10, 1))
        self.fc = nn.Linear(10, 5)

    def forward(self, x):
        x = self.layer2(self.layer1(F.relu(self.bn1(self.conv1(x)))))
        return self.fc(x.mean((2, 3)))


class BNNet(nn.Module):                      # nn.Sequential's numbers as names, and norms without weights
    shape = (5, 2, 7, 6)

    def __init__(self):
        super().__init__()
        self.net = nn.Sequential(nn.Conv2d(2, 5, 3), nn.BatchNorm2d(5, eps=1e-3, momentum=0.3), nn.Tanh(),
                                 nn.ConvTranspose2d(5, 4, 1), nn.BatchNorm2d(4, affine=False), nn.PReLU(4),
                                 nn.LayerNorm([4, 5, 4]), nn.Flatten(), nn.Linear(80, 3))

    def forward(self, x):
        return self.net(x)


class Mobile(nn.Module):                     # an inverted residual of MobileNetV2
    shape = (2, 4, 6, 7)

    def __init__(self):
        super().__init__()
        self.conv = nn.Sequential(
            nn.Sequential(nn.Conv2d(4, 24, 1, bias=False), nn.BatchNorm2d(24), nn.ReLU6()),
            nn.Sequential(nn.Conv2d(24, 24, 3, 1, 1, groups=24, bias=False), nn.BatchNorm2d(24), nn.ReLU6()),
            nn.Conv2d(24, 4, 1, bias=False), nn.BatchNorm2d(4))
        self.classifier = nn.Sequential(nn.Dropout(0.2), nn.Linear(4, 3))

    def forward(self, x):
        return self.classifier((x + self.conv(x)).mean((2, 3)))


class Signal(nn.Module):                     # Conv1d, whose weights have three dimensions, and a constant
    shape = (4, 3, 1, 23)

    def __init__(self):
        super().__init__()
        self.conv1, self.bn1 = nn.Conv1d(3, 6, 5, padding=2), nn.BatchNorm1d(6)
        self.conv2, self.fc = nn.Conv1d(6, 4, 3, dilation=2), nn.Linear(20, 3)

    def forward(self, x):
        x = F.max_pool1d(F.relu(self.bn1(self.conv1(x.squeeze(2) * 0.5))), 2)
        return self.fc(F.avg_pool1d(F.relu(self.conv2(F.pad(x, (4, 0)))), 2).flatten(1))


nets = {"lenet": LeNet, "resnet": ResNet, "bnnet": BNNet, "mobile": Mobile, "signal": Signal}
