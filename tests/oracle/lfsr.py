"""Linear feedback shift registers, bit by bit: a register is a list of bits, the lowest first."""


def clock(bits, taps, form, shift):
    """The bits after one clock."""
    width = len(bits)
    if form == "fibonacci":
        fed = 0
        for tap in taps:
            fed = fed ^ (bits[tap - 1] if shift == "left" else bits[width - tap])
        return [fed, *bits[:-1]] if shift == "left" else [*bits[1:], fed]
    if shift == "left":
        out = bits[-1]
        moved = [out, *bits[:-1]]
        places = [tap for tap in taps if tap < width]
    else:
        out = bits[0]
        moved = [*bits[1:], out]
        places = [tap - 1 for tap in taps if tap < width]
    for place in places:
        moved[place] = moved[place] ^ out
    return moved


def bits_of(number, width):
    return [number >> place & 1 for place in range(width)]


def number_of(bits):
    return sum(bit << place for place, bit in enumerate(bits))


def clocked(state, count, width, taps, form, shift):
    """The state after so many clocks."""
    bits = bits_of(state, width)
    for _ in range(count):
        bits = clock(bits, taps, form, shift)
    return number_of(bits)


def seeds(model):
    """A seed for each lane."""
    if isinstance(model["seed"], (list, tuple)):
        return list(model["seed"])
    register = model["width"], model["taps"], model["form"], model["shift"]
    apart = (2 ** model["width"] - 1) // model["lanes"]
    return [clocked(model["seed"], lane * apart, *register) for lane in range(model["lanes"])]


def words(model, step, start, count, elements=None):
    """32-bit words of the positions start .. start + count - 1 of a tensor of so many elements.

    model: the fields of fxsim.Lfsr as a dict.
    """
    lanes, run = model["lanes"], model["run"]
    elements = count if elements is None else elements
    register = model["width"], model["taps"], model["form"], model["shift"]
    period = model["period"]
    if period is None:
        rows = (elements + lanes * run - 1) // (lanes * run)
        period = rows * run * model["clocks"]
    first = [clocked(seed, model["start"] + step * period, *register) for seed in seeds(model)]
    result = []
    for position in range(start + count):
        lane = position // run % lanes
        state = bits_of(first[lane], model["width"])
        word = number_of(state[model["low_bit"] : model["low_bit"] + model["bits"]])
        first[lane] = clocked(first[lane], model["clocks"], *register)
        result.append(word << (32 - model["bits"]))
    return result[start:]
