// An integer code brought to another format: SHIFT bits dropped (or -SHIFT appended), rounded, then kept in range.
module requantize #(
    parameter int IN_BITS    = 16,
    parameter int OUT_BITS   = 8,
    parameter int IN_SIGNED  = 1,
    parameter int OUT_SIGNED = 1,
    parameter int SHIFT      = 8,
    parameter int BUG        = 0  // 1: see round_shift; 2: wraps where it should saturate; 3: range a bit too narrow
) (
    input  logic [IN_BITS-1:0]  value,
    input  logic [3:0]          rounding,
    input  logic [1:0]          overflow,
    output logic [OUT_BITS-1:0] code,
    output logic                below,    // the rounded value was below the range
    output logic                above,
    output logic                flushed   // a non-zero value was rounded to 0
);
    import modes::*;

    localparam int LEFT = SHIFT < 0 ? -SHIFT : 0;
    localparam int DROPPED = SHIFT > 0 ? SHIFT : 0;
    localparam int VALUE_BITS = IN_BITS + 1 + LEFT;
    localparam int WIDE = (VALUE_BITS > OUT_BITS ? VALUE_BITS : OUT_BITS) + 1;
    localparam int MAGNITUDE_BITS = OUT_BITS - OUT_SIGNED - (BUG == 3 ? 1 : 0);
    localparam logic signed [WIDE-1:0] HIGH = (WIDE'(1) << MAGNITUDE_BITS) - WIDE'(1);
    localparam logic signed [WIDE-1:0] LOW = OUT_SIGNED != 0 ? -HIGH - WIDE'(1) : WIDE'(0);

    logic signed [VALUE_BITS-1:0] aligned;
    logic signed [VALUE_BITS:0] rounded;
    logic signed [WIDE-1:0] wide, low;
    logic [OUT_BITS-1:0] bound;
    logic bounded;

    assign aligned = VALUE_BITS'($signed({IN_SIGNED != 0 && value[IN_BITS-1], value})) <<< LEFT;

    round_shift #(.BITS(VALUE_BITS), .SHIFT(DROPPED), .BUG(BUG)) round (.value(aligned), .rounding, .rounded);

    assign wide = WIDE'(rounded);
    assign low = overflow == SATURATE_SYMMETRIC && OUT_SIGNED != 0 ? -HIGH : LOW;
    assign below = wide < low;
    assign above = wide > HIGH;
    assign flushed = value != 0 && rounded == 0;

    assign bounded = (below | above) & (overflow != WRAP) & (BUG != 2);
    assign bound = overflow == SATURATE_ZERO ? '0 : below ? OUT_BITS'(low) : OUT_BITS'(HIGH);
    assign code = bounded ? bound : OUT_BITS'(wide);
endmodule
