"""Pieces of LLVM IR from which kernels on vector registers are built."""

from __future__ import annotations

from llvmlite import ir
from numba.core import cgutils, types

REGISTER_BITS = 512
"""Of vectors; smaller registers take them in parts."""

I8 = ir.IntType(8)
I32 = ir.IntType(32)
I64 = ir.IntType(64)
DOUBLE = ir.DoubleType()


class Arguments:
    """The arguments of an intrinsic by name, as its code generator reads them.

    A NamedTuple among them is Arguments of its own, whose names are its fields.
    """

    def __init__(self, context, builder, signature, args, names: str):
        self._context = context
        self._builder = builder
        self._found = dict(zip(names.split(), zip(signature.args, args, strict=True), strict=True))

    def __getattr__(self, name: str):
        """A scalar, or the fields of a NamedTuple."""
        kind, value = self._found[name]
        return self._fields_of(kind, value) if isinstance(kind, types.BaseNamedTuple) else value

    def _fields_of(self, kind, value) -> Arguments:
        fields = Arguments.__new__(Arguments)
        fields._context = self._context
        fields._builder = self._builder
        fields._found = {
            name: (own, self._builder.extract_value(value, position))
            for position, (name, own) in enumerate(zip(kind.fields, kind.types, strict=True))
        }
        return fields

    def data(self, name: str):
        """Pointer to the first element of an array."""
        kind, value = self._found[name]
        return self._context.make_array(kind)(self._context, self._builder, value).data

    def size(self, name: str):
        """Number of elements of an array."""
        kind, value = self._found[name]
        return self._context.make_array(kind)(self._context, self._builder, value).nitems

    def element(self, name: str):
        """LLVM type of an array's elements."""
        return self._context.get_data_type(self._found[name][0].dtype)

    def integer(self, name: str, element):
        """An integer or boolean as an integer of the LLVM type `element`."""
        kind, value = self._found[name]
        wanted = types.Integer.from_bitwidth(element.width)
        return self._context.cast(self._builder, value, kind, wanted)


class Value:
    """An integer, or a vector of them, whose operators emit LLVM IR.

    A Python number stands for itself in every lane.  Comparisons and `>>` are those of signed
    numbers; arithmetic is modulo 2**width.
    """

    __slots__ = ("builder", "ir")

    def __init__(self, builder, value):
        self.builder = builder
        self.ir = value

    def _operand(self, other):
        return other.ir if isinstance(other, Value) else number(self.ir.type, other)

    def _emit(self, name: str, other) -> Value:
        return Value(self.builder, getattr(self.builder, name)(self.ir, self._operand(other)))

    def _compare(self, operator: str, other) -> Value:
        result = self.builder.icmp_signed(operator, self.ir, self._operand(other))
        return Value(self.builder, result)

    def __add__(self, other) -> Value:
        return self._emit("add", other)

    def __sub__(self, other) -> Value:
        return self._emit("sub", other)

    def __mul__(self, other) -> Value:
        return self._emit("mul", other)

    def __and__(self, other) -> Value:
        return self._emit("and_", other)

    def __or__(self, other) -> Value:
        return self._emit("or_", other)

    def __lshift__(self, other) -> Value:
        return self._emit("shl", other)

    def __rshift__(self, other) -> Value:
        return self._emit("ashr", other)

    def __neg__(self) -> Value:
        return Value(self.builder, self.builder.neg(self.ir))

    def __invert__(self) -> Value:
        return Value(self.builder, self.builder.not_(self.ir))

    def __lt__(self, other) -> Value:
        return self._compare("<", other)

    def __gt__(self, other) -> Value:
        return self._compare(">", other)

    def __ge__(self, other) -> Value:
        return self._compare(">=", other)

    def equals(self, other) -> Value:
        return self._compare("==", other)

    def differs(self, other) -> Value:
        return self._compare("!=", other)

    def below_unsigned(self, other) -> Value:
        return Value(self.builder, self.builder.icmp_unsigned("<", self.ir, self._operand(other)))

    def chosen(self, when_true: Value, when_false: Value) -> Value:
        """`when_true` where this condition holds, else `when_false`."""
        return Value(self.builder, self.builder.select(self.ir, when_true.ir, when_false.ir))

    def larger(self, other: Value) -> Value:
        return (self > other).chosen(self, other)

    def smaller(self, other: Value) -> Value:
        return (self < other).chosen(self, other)

    def extended(self, kind) -> Value:
        """With its sign in wider integers."""
        return Value(self.builder, self.builder.sext(self.ir, kind))


def vector_at(builder, pointer, offset, vector):
    """Pointer to the `vector` that starts `offset` elements after `pointer`."""
    return builder.bitcast(builder.gep(pointer, [offset]), vector.as_pointer())


def load(builder, pointer, offset, vector):
    return builder.load(vector_at(builder, pointer, offset, vector), align=1)


def prefetch(builder, pointer, offset):
    """Ask for the cache line `offset` elements after `pointer`, wherever that is."""
    place = builder.bitcast(builder.gep(pointer, [offset]), I8.as_pointer())
    kind = ir.FunctionType(ir.VoidType(), [place.type, I32, I32, I32])
    builder.call(
        cgutils.get_or_insert_function(builder.module, kind, "llvm.prefetch.p0"),
        [place, I32(0), I32(3), I32(1)],
    )


def store(builder, value, pointer, offset):
    builder.store(value, vector_at(builder, pointer, offset, value.type), align=1)


def store_lanes(builder, value, count, pointer, offset):
    """Store the first `count` lanes, 1 or more: at once where these are all, else one by one."""
    lanes = value.type.count
    with builder.if_else(builder.icmp_signed(">=", count, I64(lanes))) as (whole, part):
        with whole:
            store(builder, value, pointer, offset)
        with part:
            copy = builder.bitcast(slot(builder, value), value.type.element.as_pointer())
            with cgutils.for_range(builder, count) as lane:
                one = builder.load(builder.gep(copy, [lane.index]))
                builder.store(one, builder.gep(pointer, [builder.add(offset, lane.index)]))


def splat(builder, value, vector):
    """`value` in all lanes."""
    undefined = ir.Constant(vector, ir.Undefined)
    first = builder.insert_element(undefined, value, I32(0))
    return builder.shuffle_vector(
        first, undefined, ir.Constant(ir.VectorType(I32, vector.count), None)
    )


def opaque(builder, value):
    """`value`, of which LLVM is not to know that it is a constant."""
    return builder.asm(ir.FunctionType(value.type, [value.type]), "", "=r,0", [value], False)


def constant(vector, value: int):
    """A Python number in all lanes."""
    return ir.Constant(vector, [value] * vector.count)


def number(kind, value: int):
    """A Python number as an integer, or in all lanes of a vector."""
    return constant(kind, value) if isinstance(kind, ir.VectorType) else ir.Constant(kind, value)


def resized(builder, value, element):
    """A vector of signed integers in lanes of the integer type `element`."""
    kind = ir.VectorType(element, value.type.count)
    if element.width == value.type.element.width:
        return value
    return (builder.trunc if element.width < value.type.element.width else builder.sext)(
        value, kind
    )


def slot(builder, value):
    """A stack slot, later a register, that holds `value` from here on."""
    place = cgutils.alloca_once(builder, value.type)
    builder.store(value, place)
    return place


def interleaved(builder, even, odd):
    """Lanes of two vectors side by side."""
    lanes = even.type.count
    order = [lane + other for lane in range(lanes) for other in (0, lanes)]
    return builder.shuffle_vector(even, odd, ir.Constant(ir.VectorType(I32, 2 * lanes), order))


def half(builder, value, which: int):
    """The lower (0) or upper (1) half of the lanes of a vector."""
    lanes = value.type.count // 2
    mask = ir.Constant(ir.VectorType(I32, lanes), list(range(which * lanes, (which + 1) * lanes)))
    return builder.shuffle_vector(value, ir.Constant(value.type, ir.Undefined), mask)


def sum_of_lanes(builder, value):
    """The integer lanes of a vector, added in a tree."""
    while value.type.count > 1:
        value = builder.add(half(builder, value, 0), half(builder, value, 1))
    return builder.extract_element(value, I32(0))
