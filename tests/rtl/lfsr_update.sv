// One SGD step of a weight that is its own accumulator, rounded stochastically with K random bits:
//   weight' = floor((weight * 2**SHIFT - grad + random) / 2**SHIFT), saturated
// where the K bits stand at the upper end of the SHIFT bits that are dropped.
module lfsr_update #(
    parameter int W_BITS    = 8,
    parameter int GRAD_BITS = 12,
    parameter int SHIFT     = 8,  // at least 1: the gradient's step, times the rate 2**-k, is finer than the weight's
    parameter int K         = 8
) (
    input  logic signed [W_BITS-1:0]    weight,
    input  logic signed [GRAD_BITS-1:0] grad,
    input  logic        [K-1:0]         word,
    output logic signed [W_BITS-1:0]    new_weight
);
    localparam int UP = SHIFT > K ? SHIFT - K : 0;
    localparam int DOWN = K > SHIFT ? K - SHIFT : 0;
    localparam int HELD_BITS = W_BITS + SHIFT;
    localparam int WIDE = (HELD_BITS > GRAD_BITS ? HELD_BITS : GRAD_BITS) + K + 2;
    localparam logic signed [WIDE-1:0] HIGH = (WIDE'(1) << (W_BITS - 1)) - WIDE'(1);
    localparam logic signed [WIDE-1:0] LOW = -HIGH - WIDE'(1);

    logic signed [WIDE-1:0] random, rounded;

    assign random = $signed(WIDE'(word) >> DOWN) <<< UP;
    assign rounded = ((WIDE'(weight) <<< SHIFT) - WIDE'(grad) + random) >>> SHIFT;
    assign new_weight = W_BITS'(rounded > HIGH ? HIGH : rounded < LOW ? LOW : rounded);
endmodule
