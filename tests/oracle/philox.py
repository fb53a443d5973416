"""Philox4x32-10 from Salmon et al., "Parallel Random Numbers.

As Easy as 1, 2, 3" (SC 2011), section 4.
"""

from hashlib import sha256

MULTIPLIERS = (0xD2511F53, 0xCD9E8D57)
WEYL = (0x9E3779B9, 0xBB67AE85)
WORD = 2**32


def block(counter, key):
    """Ten rounds: two multiplications whose high and low halves are crossed with the other
    words and the key.
    """
    counter = list(counter)
    key = list(key)
    for _ in range(10):
        high0, low0 = divmod(MULTIPLIERS[0] * counter[0], WORD)
        high1, low1 = divmod(MULTIPLIERS[1] * counter[2], WORD)
        counter = [high1 ^ counter[1] ^ key[0], low1, high0 ^ counter[3] ^ key[1], low0]
        key = [(word + constant) % WORD for word, constant in zip(key, WEYL)]
    return tuple(counter)


def words(seed, step, name, start, count):
    """Words start .. start + count - 1 of the stream (seed, step, name)."""
    name_id = int.from_bytes(sha256(name.encode()).digest()[:4], "little")
    key = (seed % WORD, seed // WORD)
    result = []
    for position in range(start, start + count):
        index, lane = divmod(position, 4)
        result.append(block((index % WORD, index // WORD, step, name_id), key)[lane])
    return result
