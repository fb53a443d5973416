// acc <= bounded(acc + round(a * b / 2**SHIFT)), with a count of the additions that left the accumulator's range.
module saturating_mac #(
    parameter int A_BITS     = 8,
    parameter int B_BITS     = 8,
    parameter int A_SIGNED   = 1,
    parameter int B_SIGNED   = 1,
    parameter int SHIFT      = 0,
    parameter int ACC_BITS   = 24,
    parameter int COUNT_BITS = 32,
    // 1: see round_shift; 2: wraps where it should saturate; 3: a bit too narrow; 4: the product's last bit is lost
    parameter int BUG        = 0
) (
    input  logic                       clk,
    input  logic                       clear,  // start a new sum from 0, with this cycle's product if it is valid
    input  logic                       valid,
    input  logic        [A_BITS-1:0]   a,
    input  logic        [B_BITS-1:0]   b,
    input  logic        [3:0]          rounding,
    input  logic                       wrap,   // modulo 2**ACC_BITS; otherwise saturate
    output logic signed [ACC_BITS-1:0] acc,
    output logic [COUNT_BITS-1:0]      overflows
);
    localparam int PRODUCT_BITS = A_BITS + B_BITS + 2;
    localparam int WIDE = (ACC_BITS > PRODUCT_BITS ? ACC_BITS : PRODUCT_BITS) + 2;
    localparam int KEPT_BITS = BUG == 3 ? ACC_BITS - 1 : ACC_BITS;
    localparam logic signed [WIDE-1:0] HIGH = (WIDE'(1) << (KEPT_BITS - 1)) - WIDE'(1);
    localparam logic signed [WIDE-1:0] LOW = -HIGH - WIDE'(1);

    logic signed [PRODUCT_BITS-1:0] wide_a, wide_b, product;
    logic signed [PRODUCT_BITS:0] addend;
    logic signed [WIDE-1:0] start, total, wrapped, bound;
    logic signed [ACC_BITS-1:0] next;
    logic outside;

    assign wide_a = PRODUCT_BITS'($signed({A_SIGNED != 0 && a[A_BITS-1], a}));
    assign wide_b = PRODUCT_BITS'($signed({B_SIGNED != 0 && b[B_BITS-1], b}));
    assign product = (wide_a * wide_b) & ~PRODUCT_BITS'(BUG == 4);

    round_shift #(.BITS(PRODUCT_BITS), .SHIFT(SHIFT), .BUG(BUG)) round (
        .value(product), .rounding, .rounded(addend)
    );

    assign start = clear ? '0 : WIDE'(acc);
    assign total = start + WIDE'(addend);
    assign outside = total < LOW || total > HIGH;
    assign wrapped = WIDE'($signed(total[KEPT_BITS-1:0]));
    assign bound = total < 0 ? LOW : HIGH;
    assign next = ACC_BITS'(!outside ? total : wrap || BUG == 2 ? wrapped : bound);

    always_ff @(posedge clk) begin
        if (clear || valid) begin
            acc <= valid ? next : '0;
            overflows <= (clear ? '0 : overflows) + COUNT_BITS'(valid && outside);
        end
    end
endmodule
