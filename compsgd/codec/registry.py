"""Which codec does the work, chosen once.

Another one, as in Triton, is a file with a class that has the methods of `Codec` and a function
that makes it of a CodecSpec, or returns None for what it cannot do; and a line in CODECS.
"""

import functools
from collections.abc import Callable

from compsgd.codec.base import Codec, CodecSpec
from compsgd.codec.compiling import fall_back
from compsgd.codec.torch_codec import torch_codec


def _numba_codec(spec: CodecSpec) -> Codec | None:
    if spec.compile == "off" or spec.device_type != "cpu" or spec.alphabet.zeros:
        return None
    try:
        # Not at the top: Numba takes half a second, which those without it should not pay.
        from compsgd.codec.numba_codec import NumbaCodec
    except ImportError as error:
        fall_back("Numba", error, spec.may_fall_back)
        return None
    return NumbaCodec(spec, torch_codec(spec))


# The first that returns one has it; torch does everything.
CODECS: list[Callable[[CodecSpec], Codec | None]] = [_numba_codec, torch_codec]


@functools.cache
def codec_for(spec: CodecSpec) -> Codec:
    """The codec of a spec, shared by all that ask for it.

    Raises:
        SettingError: a compiler does not work here, and must.
    """
    return next(codec for make in CODECS if (codec := make(spec)) is not None)
