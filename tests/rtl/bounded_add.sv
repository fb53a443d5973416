// acc + addend in the accumulator's own width: wrapped modulo 2**BITS or saturated.
module bounded_add #(
    parameter int BITS        = 24,
    parameter int ADDEND_BITS = 18,
    parameter int BUG         = 0    // 2: wraps where it should saturate; 3: a bit too narrow
) (
    input  logic signed [BITS-1:0]        acc,
    input  logic signed [ADDEND_BITS-1:0] addend,
    input  logic                          wrap,
    output logic signed [BITS-1:0]        sum,
    output logic                          outside  // the exact sum left the range
);
    localparam int WIDE = (BITS > ADDEND_BITS ? BITS : ADDEND_BITS) + 1;
    localparam int KEPT_BITS = BUG == 3 ? BITS - 1 : BITS;
    localparam logic signed [WIDE-1:0] HIGH = (WIDE'(1) << (KEPT_BITS - 1)) - WIDE'(1);
    localparam logic signed [WIDE-1:0] LOW = -HIGH - WIDE'(1);

    logic signed [WIDE-1:0] exact, wrapped, bound;

    assign exact = WIDE'(acc) + WIDE'(addend);
    assign outside = exact < LOW || exact > HIGH;
    assign wrapped = WIDE'($signed(exact[KEPT_BITS-1:0]));
    assign bound = exact < 0 ? LOW : HIGH;
    assign sum = BITS'(!outside ? exact : wrap || BUG == 2 ? wrapped : bound);
endmodule
