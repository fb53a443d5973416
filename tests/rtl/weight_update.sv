// One SGD step of a weight with internal accumulator.  W has step D_W, the accumulator D_W * 2**-ACC_BITS below it:
//   update = round(grad * mantissa * 2**EXPONENT)     in accumulator steps
//   total  = weight * 2**ACC_BITS + acc - update
//   weight' = total to the nearest W, ties up, saturated;  acc' = total - weight', saturated
module weight_update #(
    parameter int W_BITS        = 8,
    parameter int ACC_BITS      = 16,
    parameter int GRAD_BITS     = 12,
    parameter int MANTISSA_BITS = 16,
    parameter int EXPONENT      = -12,
    // 1: see round_shift; 2: W wraps where it should saturate; 3: accumulator a bit too narrow;
    // 4: the update is truncated, not rounded
    parameter int BUG           = 0
) (
    input  logic signed [W_BITS-1:0]        weight,
    input  logic signed [ACC_BITS-1:0]      acc,
    input  logic signed [GRAD_BITS-1:0]     grad,
    input  logic        [MANTISSA_BITS-1:0] mantissa,
    input  logic        [3:0]               rounding,
    output logic signed [W_BITS-1:0]        new_weight,
    output logic signed [ACC_BITS-1:0]      new_acc,
    output logic                            weight_clipped,
    output logic                            acc_clipped,
    output logic                            flushed,        // a gradient other than 0 gave no update
    output logic                            stopped         // an update other than 0 left the weight's code as it was
);
    localparam int LEFT = EXPONENT > 0 ? EXPONENT : 0;
    localparam int DROPPED = EXPONENT < 0 ? -EXPONENT : 0;
    localparam int PRODUCT_BITS = GRAD_BITS + MANTISSA_BITS + 1 + LEFT;
    localparam int RUNNING_BITS = W_BITS + ACC_BITS;
    localparam int WIDE = (PRODUCT_BITS > RUNNING_BITS ? PRODUCT_BITS : RUNNING_BITS) + 3;
    localparam int KEPT_BITS = BUG == 3 ? ACC_BITS - 1 : ACC_BITS;
    localparam logic signed [WIDE-1:0] W_HIGH = (WIDE'(1) << (W_BITS - 1)) - WIDE'(1);
    localparam logic signed [WIDE-1:0] W_LOW = -W_HIGH - WIDE'(1);
    localparam logic signed [WIDE-1:0] ACC_HIGH = (WIDE'(1) << (KEPT_BITS - 1)) - WIDE'(1);
    localparam logic signed [WIDE-1:0] ACC_LOW = -ACC_HIGH - WIDE'(1);
    localparam logic signed [WIDE-1:0] HALF = WIDE'(1) << (ACC_BITS - 1);

    logic signed [PRODUCT_BITS-1:0] rate, product;
    logic signed [PRODUCT_BITS:0] update;
    logic signed [WIDE-1:0] total, nearest, bounded, chosen, rest;

    assign rate = PRODUCT_BITS'($signed({1'b0, mantissa}));
    assign product = (PRODUCT_BITS'(grad) * rate) <<< LEFT;

    round_shift #(.BITS(PRODUCT_BITS), .SHIFT(DROPPED), .BUG(BUG)) round (
        .value(product), .rounding(BUG == 4 ? modes::FLOOR : rounding), .rounded(update)
    );

    assign total = (WIDE'(weight) <<< ACC_BITS) + WIDE'(acc) - WIDE'(update);
    assign nearest = (total + HALF) >>> ACC_BITS;
    assign weight_clipped = nearest < W_LOW || nearest > W_HIGH;
    assign bounded = !weight_clipped ? nearest : nearest < 0 ? W_LOW : W_HIGH;
    assign chosen = BUG == 2 ? WIDE'($signed(nearest[W_BITS-1:0])) : bounded;
    assign new_weight = W_BITS'(chosen);

    assign rest = total - (chosen <<< ACC_BITS);
    assign acc_clipped = rest < ACC_LOW || rest > ACC_HIGH;
    assign new_acc = ACC_BITS'(!acc_clipped ? rest : rest < 0 ? ACC_LOW : ACC_HIGH);

    assign flushed = grad != 0 && update == 0;
    assign stopped = update != 0 && new_weight == weight;
endmodule
