"""What a compressed picture says of itself in its first and last bytes, before anything is decoded.

A decoder allocates what the codestream asks for, whatever the DICOM header around it says; so the two are compared first. And some
decoders make half a picture of half a codestream without a word, so its end is looked for.
Sources: ITU-T T.81 (JPEG, SOF markers), T.87 (JPEG-LS, SOF55), T.800 (JPEG 2000, SIZ).
"""

_SOF = frozenset((*range(0xC0, 0xC4), *range(0xC5, 0xC8), *range(0xC9, 0xCC), *range(0xCD, 0xD0), 0xF7))
_ALONE = frozenset((0x01, *range(0xD0, 0xD9)))
_J2K = b"\xff\x4f\xff\x51"
_JP2 = b"\x00\x00\x00\x0cjP  "
_END = b"\xff\xd9"


def size(data: bytes) -> tuple[int, int] | None:
    """Returns (rows, columns) of a JPEG, JPEG-LS or JPEG 2000 codestream; None where its header is damaged or of another kind."""
    start = data.find(_J2K) if data.startswith((_J2K, _JP2)) else -1
    if start >= 0:
        return _j2k(data[start : start + 24])
    return _jpeg(data) if data.startswith(b"\xff\xd8") else None


def is_whole(data: bytes) -> bool:
    """Whether the codestream comes to its end marker (EOI or EOC); archives pad it with zeros or ones."""
    return data.rstrip(b"\x00\xff").endswith(_END)


def _j2k(data: bytes) -> tuple[int, int] | None:
    """SIZ: marker, length, capabilities, then the reference grid's width and height and the offsets of the picture in it."""
    if len(data) < 24:
        return None
    width, height, left, top = (_number(data, 8 + 4 * index, 4) for index in range(4))
    return (height - top, width - left) if height > top and width > left else None


def _jpeg(data: bytes) -> tuple[int, int] | None:
    position = 2
    while position + 9 <= len(data):
        if data[position] != 0xFF:
            return None
        marker = data[position + 1]
        if marker in _SOF:
            return _number(data, position + 5, 2), _number(data, position + 7, 2)
        if marker == 0xFF:
            position += 1
        else:
            position += 2 if marker in _ALONE else 2 + _number(data, position + 2, 2)
    return None


def _number(data: bytes, position: int, length: int) -> int:
    return int.from_bytes(data[position : position + length])
