"""The opsets and operators that the ONNX parser of each JetPack's TensorRT accepts.

Source: onnx-tensorrt's docs/operators.md, by version.
"""

from dataclasses import dataclass

from mmprune.choices import pick
from targets.on_device import jetpacks

_OPERATORS = """
Abs Acos Acosh Add And ArgMax ArgMin Asin Asinh Atan Atanh AveragePool BatchNormalization Cast Ceil Celu Clip Concat
Constant ConstantOfShape Conv ConvTranspose Cos Cosh CumSum DepthToSpace DequantizeLinear Div Dropout Einsum Elu Equal
Erf Exp Expand EyeLike Flatten Floor GRU Gather GatherElements GatherND Gemm GlobalAveragePool GlobalLpPool
GlobalMaxPool Greater GreaterOrEqual GridSample HardSigmoid HardSwish Identity If ImageScaler InstanceNormalization
IsNaN LRN LSTM LeakyRelu Less LessOrEqual Log LogSoftmax Loop LpNormalization LpPool MatMul Max MaxPool Mean
MeanVarianceNormalization Min Mod Mul Neg NonMaxSuppression NonZero Not OneHot Or PRelu Pad ParametricSoftplus Pow
QuantizeLinear RNN RandomNormal RandomNormalLike RandomUniform RandomUniformLike Range Reciprocal ReduceL1 ReduceL2
ReduceLogSum ReduceLogSumExp ReduceMax ReduceMean ReduceMin ReduceProd ReduceSum ReduceSumSquare Relu Reshape Resize
ReverseSequence RoiAlign Round ScaledTanh Scan Scatter ScatterElements ScatterND Selu Shape Shrink Sigmoid Sign Sin
Sinh Size Slice Softmax Softplus Softsign SpaceToDepth Split Sqrt Squeeze Sub Sum Tan Tanh ThresholdedRelu Tile TopK
Transpose Trilu Unsqueeze Upsample Where Xor"""
_OPERATORS_8_5 = frozenset(_OPERATORS.split())
_OPERATORS_8_6 = _OPERATORS_8_5 | {"GroupNormalization", "IsInf", "LayerNormalization"}
_OPERATORS_10_3 = _OPERATORS_8_6 | {"CastLike", "DeformConv", "Gelu", "Hardmax", "Mish"}
_OPERATORS_10_16 = _OPERATORS_10_3 | {"Attention", "BlackmanWindow", "HammingWindow", "HannWindow", "RMSNormalization",
                                      "RotaryEmbedding", "STFT", "TensorScatter"}


@dataclass(frozen=True)
class TensorRT:
    """What the ONNX parser of one TensorRT version accepts."""

    version: str
    opsets: tuple[int, int]  # lowest, highest
    operators: frozenset[str]


# 10.3 has no public table, so 10.1's is used, and 10.15's for 10.16
_8_5 = TensorRT("8.5", (7, 17), _OPERATORS_8_5)
_8_6 = TensorRT("8.6", (7, 17), _OPERATORS_8_6)
_10_3 = TensorRT("10.3", (9, 20), _OPERATORS_10_3)
_10_16 = TensorRT("10.16", (9, 24), _OPERATORS_10_16)

_VERSIONS = {t.version: t for t in (_8_5, _8_6, _10_3, _10_16)}
JETPACKS = {name: _VERSIONS[version] for name, (version, _) in jetpacks.JETPACKS.items() if version}  # for Orin


def tensorrt_of(jetpack: str) -> TensorRT:
    return JETPACKS[pick("JetPack for Orin", jetpack, JETPACKS)]


def version_order(version: str) -> tuple[int, ...]:
    """A sort key in which 10.3 is older than 10.16."""
    return tuple(int(part) for part in version.split("."))
