"""How symbols share bytes: a group of elements becomes a group of bytes, exactly reversible.

`digits` symbols are the digits of one number, a word of `word_bits` bits; eight words fill
`word_bits` bytes (design, section 3). With one digit a word is a code; several waste less where
the alphabet is no power of two. Of each word the whole low bytes stand alone; its spare high bits
share bytes with those of the other seven.

All works on whole rows: digit i of word w of all groups is row 8 i + w, whole byte i of word w is
row 8 i + w, so that a shift or a product is one vector operation over contiguous memory. Rows of
bytes are worked on as int32, four columns at once ("lanes"): columns come in multiples of 4.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from compsgd.codec.alphabet import Alphabet

WORDS = 8
LANES = 4


@dataclass(frozen=True)
class Group:
    """Eight words of `digits` symbols each in `word_bits` bytes."""

    symbols: int
    digits: int
    word_bits: int

    @property
    def num_elements(self) -> int:
        return WORDS * self.digits

    @property
    def num_bytes(self) -> int:
        return self.word_bits

    @property
    def num_words(self) -> int:
        """How many different words some levels may give."""
        return int(self.symbols**self.digits)

    @property
    def is_full(self) -> bool:
        """Whether every byte string is the code of some levels."""
        return self.num_words == 1 << self.word_bits

    @property
    def is_laned(self) -> bool:
        """Whether a word is one symbol of less than a byte, so that `lanes` can read it."""
        return self.digits == 1 and self.word_bits < 8

    @property
    def _low_bytes(self) -> int:
        return self.word_bits // 8

    @property
    def _spare_bits(self) -> int:
        return self.word_bits % 8

    def part_rows(self, num_elements: int) -> list[int]:
        """The rows of the first `num_elements` symbols of a group, word by word."""
        rows = [WORDS * i + word for word in range(WORDS) for i in range(self.digits)]
        return rows[:num_elements]

    def part_byte_rows(self, num_elements: int) -> list[int]:
        """The rows of bytes that those symbols need."""
        num_words = -(-num_elements // self.digits)
        low = [WORDS * i + word for word in range(num_words) for i in range(self._low_bytes)]
        spare = -(-num_words * self._spare_bits // 8)
        return [*low, *range(WORDS * self._low_bytes, WORDS * self._low_bytes + spare)]

    def encode(self, codes: Tensor) -> Tensor:
        """Codes (blocks, num_elements, columns) to uint8 (blocks, num_bytes, columns)."""
        words = self._join(codes)
        low = self._low_bytes
        planes = [(words >> 8 * i if i else words).to(torch.uint8) for i in range(low)]
        if self.word_bits == 8:
            return planes[0]
        lanes = [plane.contiguous().view(torch.int32) for plane in planes]
        if self._spare_bits:
            high = words >> 8 * low if low else words
            lanes.append(_interleave(high.to(torch.uint8), self._spare_bits))
        return torch.cat(lanes, 1).view(torch.uint8)

    def decode(self, packed: Tensor) -> Tensor:
        """The inverse of encode, as uint8 or int32; of bytes without `overflow`."""
        words = self.words(packed)
        return words if self.digits == 1 else torch.cat(self.digits_of(self.quotients(words)), 1)

    def words(self, packed: Tensor) -> Tensor:
        """(blocks, 8, columns), uint8 or int32; those of valid bytes are below num_words."""
        low, spare = self._low_bytes, self._spare_bits
        if self.word_bits == 8:
            return packed
        planes = [packed[:, WORDS * i : WORDS * (i + 1)] for i in range(low)]
        if spare:
            high = _uninterleave(packed.view(torch.int32)[:, WORDS * low :], spare)
            planes.append(torch.stack(high, 1).view(torch.uint8))
        words = planes[0]
        for i in range(1, len(planes)):
            words = words.to(torch.int32) | planes[i].to(torch.int32) << 8 * i
        return words

    def lanes(self, packed_lanes: Tensor) -> list[Tensor]:
        """The eight rows of codes as int32 lanes, (blocks, columns / 4) each; if is_laned.

        Args:
            packed_lanes: the bytes as int32 lanes, (blocks, num_bytes, columns / 4).
        """
        return _uninterleave(packed_lanes, self._spare_bits)

    def overflow(self, packed_lanes: Tensor) -> Tensor:
        """Where bytes hold a word that no levels give: not 0; int32, (blocks, columns / 4).

        Adds to every word what makes the first invalid one overflow, byte by byte with carries,
        in lanes of 16 bits.

        Args:
            packed_lanes: the bytes as int32 lanes, (blocks, num_bytes, columns / 4).
        """
        low, spare = self._low_bytes, self._spare_bits
        to_overflow = (1 << self.word_bits) - self.num_words
        high = _uninterleave(packed_lanes[:, WORDS * low :], spare) if spare else []
        found: Tensor | None = None
        for word in range(WORDS):
            planes = [packed_lanes[:, WORDS * i + word] for i in range(low)]
            planes += high[word : word + 1]
            for half in (0, 8):
                carry: Tensor | int = 0
                for i, plane in enumerate(planes):
                    bits = 8 if i < low else spare
                    addend = (to_overflow >> 8 * i) & ((1 << bits) - 1)
                    total = ((plane >> half) & 0x00FF00FF) + addend * 0x00010001 + carry
                    carry = (total >> bits) & 0x00010001
                assert isinstance(carry, Tensor)
                found = carry if found is None else found | carry
        assert found is not None
        return found

    def quotients(self, words: Tensor) -> list[Tensor]:
        """Words divided by symbols^(digits - 1), ..., symbols and 1, rounded down; int32."""
        words = words.to(torch.int32)
        divisors = [self.symbols**i for i in reversed(range(1, self.digits))]
        return [*(_divided(words, divisor, self.num_words) for divisor in divisors), words]

    def digits_of(self, quotients: list[Tensor]) -> list[Tensor]:
        """The digits of words from their quotients. Linear: sums of quotients give sums of
        digits."""
        rest = zip(quotients[1:], quotients[:-1], strict=True)
        return [quotients[0], *(here - self.symbols * above for here, above in rest)]

    def _join(self, codes: Tensor) -> Tensor:
        """The words of the codes, first digit most significant: (blocks, 8, columns)."""
        if self.digits == 1:
            return codes
        digits = codes.split(WORDS, 1)
        word: Tensor = digits[0].to(torch.int32)
        for digit in digits[1:]:
            word = word * self.symbols + digit
        return word


# Digits and bits of a word by number of symbols, 2^b + 1 for b = 1..4: 1.6, 2.33, 3.25 and 4.25
# bits an element.
_RADIX = {3: (5, 8), 5: (3, 7), 9: (4, 13), 17: (4, 17)}


def group_for(alphabet: Alphabet) -> Group:
    """The group of an alphabet: exactly b bits an element where 2^b symbols have no zero, within
    5 % of log2(symbols) bits where _RADIX knows them, and else the next whole number of bits."""
    symbols = alphabet.symbols
    return Group(symbols, *_RADIX.get(symbols, (1, (symbols - 1).bit_length())))


def in_all_lanes(byte: int) -> int:
    """The int32 whose four bytes are `byte`."""
    word = byte * 0x01010101
    return word - (1 << 32) if word >= 1 << 31 else word


def _interleave(values: Tensor, num_bits: int) -> Tensor:
    """uint8 (blocks, 8, columns), `num_bits` each, to the bytes they fill, little-endian: int32
    lanes, (blocks, num_bits, columns / 4)."""
    rows = values.view(torch.int32).unbind(1)
    filled = []
    for k in range(num_bits):
        first, last = 8 * k // num_bits, (8 * k + 7) // num_bits
        byte = _shifted(rows[first], first * num_bits - 8 * k, num_bits)
        for j in range(first + 1, last + 1):
            byte = byte | _shifted(rows[j], j * num_bits - 8 * k, num_bits)
        filled.append(byte)
    return torch.stack(filled, 1)


def _uninterleave(packed_lanes: Tensor, num_bits: int) -> list[Tensor]:
    """The inverse, from and to int32 lanes: eight rows of them."""
    rows = packed_lanes.unbind(1)
    values = []
    for j in range(WORDS):
        first, last = j * num_bits // 8, ((j + 1) * num_bits - 1) // 8
        value = _shifted(rows[first], 8 * first - j * num_bits, 8, num_bits)
        for k in range(first + 1, last + 1):
            value = value | _shifted(rows[k], 8 * k - j * num_bits, 8, num_bits)
        values.append(value)
    return values


def _shifted(lanes: Tensor, left: int, have_bits: int, want_bits: int = 8) -> Tensor:
    """Each lane's value of `have_bits` shifted, without what leaves its `want_bits` lowest bits."""
    mask = (1 << have_bits) - 1
    mask = (mask << left if left >= 0 else mask >> -left) & ((1 << want_bits) - 1)
    moved = lanes << left if left > 0 else lanes >> -left if left < 0 else lanes
    kept: Tensor = moved & in_all_lanes(mask)
    return kept


def _divided(words: Tensor, divisor: int, num_words: int) -> Tensor:
    """words // divisor for int32 words < num_words, without a division."""
    precision = (num_words * divisor).bit_length()
    factor = -(-(1 << precision) // divisor)
    if num_words * factor < 1 << 31:
        # Too large by words * divisor / 2^precision < 1 / divisor: never past the next integer.
        return (words * factor) >> precision
    # Plus a half, no quotient lies near an integer: float32 is exact enough below 2^22.
    return ((words.to(torch.float32) + 0.5) * (1 / divisor)).to(torch.int32)
