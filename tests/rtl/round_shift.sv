// value / 2**SHIFT, rounded to an integer: the floor, and one more where the bits below ask for it.
module round_shift #(
    parameter int BITS  = 16,
    parameter int SHIFT = 8,  // at least 0
    parameter int BUG   = 0   // 1: ties away from zero go up
) (
    input  logic signed [BITS-1:0] value,
    input  logic        [3:0]      rounding,
    output logic signed [BITS:0]   rounded
);
    import modes::*;

    localparam int WIDE = (SHIFT > BITS ? SHIFT : BITS) + 1;
    localparam logic [WIDE-1:0] HALF = WIDE'(1) << SHIFT >> 1;
    localparam logic [WIDE-1:0] BELOW_HALF = SHIFT > 1 ? HALF - 1 : 0;

    logic signed [WIDE-1:0] wide;
    logic signed [BITS:0] lower;
    logic negative, odd, half, rest, up;

    assign wide = WIDE'(value);
    assign lower = (BITS + 1)'(wide >>> SHIFT);
    assign negative = value < 0;
    assign odd = lower[0];
    assign half = (wide & HALF) != 0;
    assign rest = (wide & BELOW_HALF) != 0;

    always_comb begin
        case (rounding)
            CEIL:         up = half | rest;
            ZERO:         up = (half | rest) & negative;
            AWAY:         up = (half | rest) & ~negative;
            NEAREST_EVEN: up = half & (rest | odd);
            NEAREST_ODD:  up = half & (rest | ~odd);
            NEAREST_AWAY: up = half & (rest | ~negative | (BUG == 1));
            NEAREST_ZERO: up = half & (rest | negative);
            NEAREST_UP:   up = half;
            NEAREST_DOWN: up = half & rest;
            JAM:          up = ~odd;
            default:      up = 1'b0;
        endcase
    end

    assign rounded = lower + (BITS + 1)'({1'b0, up});
endmodule
