"""A small residual network that names its modules as torchvision's ResNet does."""

from torch import Tensor, nn

__all__ = ["LookalikeResNet"]


def _projection(ins: int, outs: int, stride: int) -> nn.Sequential | None:
    if stride == 1 and ins == outs:
        return None
    conv = nn.Conv2d(ins, outs, 1, stride, bias=False)
    return nn.Sequential(conv, nn.BatchNorm2d(outs))


class _BasicBlock(nn.Module):
    def __init__(self, ins: int, outs: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(ins, outs, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(outs)
        self.relu = nn.ReLU(inplace=True)
        self.conv2 = nn.Conv2d(outs, outs, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(outs)
        self.downsample = _projection(ins, outs, stride)

    def forward(self, x: Tensor) -> Tensor:
        shortcut = x if self.downsample is None else self.downsample(x)
        x = self.relu(self.bn1(self.conv1(x)))
        x = self.bn2(self.conv2(x))
        x += shortcut
        return self.relu(x)


class LookalikeResNet(nn.Module):
    """Three stages of two basic blocks and a classifier of five classes."""

    def __init__(self, width: int = 16) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, width, 7, 2, 3, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.relu = nn.ReLU(inplace=True)
        self.maxpool = nn.MaxPool2d(3, 2, 1)
        ins = width
        for stage in (1, 2, 3):
            outs = width * 2 ** (stage - 1)
            first = _BasicBlock(ins, outs, 1 if stage == 1 else 2)
            layer = nn.Sequential(first, _BasicBlock(outs, outs, 1))
            setattr(self, f"layer{stage}", layer)
            ins = outs
        self.avgpool = nn.AdaptiveAvgPool2d(1)
        self.fc = nn.Linear(ins, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.maxpool(self.relu(self.bn1(self.conv1(x))))
        x = self.layer3(self.layer2(self.layer1(x)))
        return self.fc(self.avgpool(x).flatten(1))
