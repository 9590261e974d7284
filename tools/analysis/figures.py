"""The figures of the ODConv paper's tables, as printed.

Accuracies are those its authors report; nothing here measures any.
"""

import re
from collections.abc import Iterator
from typing import NamedTuple

__all__ = ["COCO", "IMAGENET", "Figures"]


class Figures(NamedTuple):
    """A row of a table: where it stands, and its numbers as text."""

    table: str
    network: str
    system: str
    numbers: tuple[str, ...]


# Parameters in millions; multiply-adds in billions, of MobileNetV2 in millions; top-1
# and top-5 accuracy in percent.
_IMAGENET = """
# ResNet-18 and ResNet-50: ResNet-18
static       11.69  1.814  70.25 89.38
CondConv 8x  81.35  1.894  71.99 90.27
DyConv 4x    45.47  1.861  72.76 90.79
DCD          14.70  1.841  72.33 90.65
ODConv 1x    11.94  1.838  73.10 91.10
ODConv 4x    44.90  1.916  73.97 91.35
SE           11.78  1.816  70.98 90.03
CBAM         11.78  1.818  71.01 89.85
ECA          11.69  1.816  70.60 89.68
CGC          11.69  1.827  71.60 90.35
WeightNet    11.93  1.826  71.56 90.38
WE           11.90  1.820  71.00 90.00
# ResNet-18 and ResNet-50: ResNet-50
static       25.56  3.858  76.23 93.01
CondConv 8x  129.86 3.978  76.70 93.12
DyConv 4x    100.88 3.965  76.82 93.16
DCD          29.84  3.944  76.92 93.46
ODConv 1x    28.64  3.916  77.96 93.84
ODConv 4x    90.67  4.080  78.52 94.01
SE           28.07  3.872  77.31 93.63
CBAM         28.07  3.886  77.46 93.59
ECA          25.56  3.870  77.34 93.64
CGC          25.59  3.877  76.79 93.37
WeightNet    30.38  3.885  77.51 93.69
WE           28.10  3.860  77.10 93.50
# ResNet-101: ResNet-101
static       44.55  7.570  77.41 93.67
SE           49.29  7.593  78.42 94.15
CBAM         49.30  7.617  78.50 94.20
ECA          44.55  7.590  78.60 94.34
ODConv 1x    50.82  7.675  78.98 94.38
ODConv 2x    90.44  7.802  79.27 94.47
# MobileNetV2: MobileNetV2 1.0x
static       3.50   300.8  71.65 90.22
CondConv 8x  22.88  318.1  74.13 91.67
DyConv 4x    12.40  317.1  74.94 91.83
DCD          5.72   318.4  74.18 91.72
ODConv 1x    4.94   311.8  74.84 92.13
ODConv 4x    11.52  327.1  75.42 92.18
# MobileNetV2: MobileNetV2 0.75x
static       2.64   209.1  69.18 88.82
CondConv 8x  17.51  223.9  71.79 90.17
DyConv 4x    7.95   220.1  72.75 90.93
DCD          4.08   222.9  71.92 90.20
ODConv 1x    3.51   217.1  72.43 90.82
ODConv 4x    7.50   226.3  73.81 91.33
# MobileNetV2: MobileNetV2 0.5x
static       2.00   97.1   64.30 85.21
CondConv 8x  13.61  110.0  67.24 87.51
DyConv 4x    4.57   103.2  69.05 88.37
DCD          3.06   105.6  69.32 88.44
ODConv 1x    2.43   101.8  68.26 87.98
ODConv 4x    4.44   106.4  70.01 89.01
# Ablation, number of kernels: ResNet-18
static       11.69  1.814  70.25 89.38
ODConv 1x    11.94  1.838  73.10 91.10
ODConv 2x    22.93  1.872  73.59 91.08
ODConv 3x    33.92  1.894  73.77 91.35
ODConv 4x    44.90  1.916  73.97 91.35
ODConv 8x    88.84  2.006  74.08 91.44
# Ablation, which attentions (r=1/4): ResNet-18
static                              11.69 1.814  70.25 89.38
spatial                             11.98 1.827  72.42 90.76
channel                             12.26 1.827  72.07 90.59
filter                              12.28 1.827  71.46 90.43
spatial + channel                   12.27 1.827  73.13 91.14
spatial + filter                    12.29 1.827  72.80 90.99
channel + filter                    12.57 1.829  72.20 90.67
spatial + channel + filter          12.58 1.839  73.41 91.29
spatial + channel + filter + kernel 45.54 1.953  74.33 91.53
"""

# AP, AP50, AP75, AP of small, medium and large objects in percent; parameters in
# millions, the whole and the backbone; multiply-adds in billions, likewise.
_COCO = """
# Faster R-CNN: ResNet-50
static       37.2 57.8 40.4 21.5 40.6 48.0  43.80  23.51   207.07 76.50
CondConv 8x  38.1 58.9 41.5 22.4 42.1 48.7  133.75 113.46  207.08 76.51
DyConv 4x    38.3 59.7 41.6 22.6 42.3 49.4  119.12 98.83   207.23 76.66
DCD          38.1 59.3 41.3 21.9 42.0 49.5  48.08  27.79   207.20 76.63
ODConv 1x    39.0 60.5 42.3 23.4 42.3 50.5  46.88  26.59   207.18 76.61
ODConv 4x    39.2 60.7 42.6 23.1 42.6 51.0  108.91 88.62   207.42 76.85
# Faster R-CNN: MobileNetV2 1.0x
static       31.3 51.1 33.1 17.4 33.5 41.2  21.13  2.22    122.58 24.45
CondConv 8x  33.7 54.9 35.6 19.3 36.4 43.7  31.54  12.63   122.59 24.46
DyConv 4x    34.5 55.6 36.5 19.8 37.3 44.7  30.02  11.12   123.01 24.88
DCD          33.3 53.0 35.1 19.9 36.1 43.2  23.34  4.44    123.01 24.88
ODConv 1x    34.3 55.6 36.5 20.7 37.3 44.5  22.56  3.66    123.00 24.87
ODConv 4x    35.1 56.7 37.0 20.6 38.0 45.2  29.14  10.24   123.02 24.89
# Mask R-CNN: ResNet-50
static       38.0 58.6 41.5 21.6 41.5 49.2  46.45  23.51   260.14 76.50
CondConv 8x  38.8 59.3 42.3 22.5 42.5 50.3  136.4  113.46  260.15 76.51
DyConv 4x    39.2 60.3 42.5 23.0 42.9 51.4  121.77 98.83   260.30 76.66
DCD          38.8 59.8 42.2 23.1 42.7 49.8  50.73  27.79   260.27 76.63
ODConv 1x    39.9 61.2 43.5 23.6 43.8 52.3  49.53  26.59   260.25 76.61
ODConv 4x    40.1 61.5 43.6 24.0 43.6 52.3  111.56 88.62   260.49 76.85
# Mask R-CNN: MobileNetV2 1.0x
static       32.2 52.1 34.2 18.4 34.4 42.4  23.78  2.22    175.66 24.45
CondConv 8x  34.4 55.4 36.6 19.8 36.9 44.6  34.19  12.63   175.67 24.46
DyConv 4x    35.2 56.2 37.5 20.7 38.0 45.5  32.68  11.12   176.09 24.88
DCD          34.3 54.9 36.6 20.6 37.1 44.8  26.00  4.44    176.09 24.88
ODConv 1x    35.0 56.1 37.3 19.9 37.7 46.2  25.22  3.66    176.08 24.87
ODConv 4x    35.8 57.0 38.1 20.5 38.5 45.9  31.80  10.24   176.10 24.89
"""


def _rows(text: str) -> Iterator[Figures]:
    table = network = ""
    for line in text.strip().splitlines():
        if line.startswith("# "):
            table, _, network = line[2:].partition(": ")
        else:
            system, numbers = re.fullmatch(r"(.+?) ((?: *\d+\.\d+)+)", line).groups()
            yield Figures(table, network, system.strip(), tuple(numbers.split()))


IMAGENET = tuple(_rows(_IMAGENET))
COCO = tuple(_rows(_COCO))
