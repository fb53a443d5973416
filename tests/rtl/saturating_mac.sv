// acc <= acc + round(a * b / 2**SHIFT), wrapped or saturated, with a count of the additions that left the range.
module saturating_mac #(
    parameter int A_BITS   = 8,
    parameter int B_BITS   = 8,
    parameter int A_SIGNED = 1,
    parameter int B_SIGNED = 1,
    parameter int SHIFT    = 0,   // bits of a product below the step of acc; negative: bits to append
    parameter int ACC_BITS = 24,
    parameter int BUG      = 0    // 1: see round_shift; 2 and 3: see bounded_add; 4: the product's last bit is lost
) (
    input  logic                       clk,
    input  logic                       clear,  // start a new sum from 0, with this cycle's product if it is valid
    input  logic                       valid,
    input  logic        [A_BITS-1:0]   a,
    input  logic        [B_BITS-1:0]   b,
    input  logic        [3:0]          rounding,
    input  logic                       wrap,   // modulo 2**ACC_BITS; otherwise saturate
    output logic signed [ACC_BITS-1:0] acc,
    output logic        [31:0]         overflows
);
    localparam int LEFT = SHIFT < 0 ? -SHIFT : 0;
    localparam int DROPPED = SHIFT > 0 ? SHIFT : 0;
    localparam int PRODUCT_BITS = A_BITS + B_BITS + 2 + LEFT;

    logic signed [PRODUCT_BITS-1:0] wide_a, wide_b, product;
    logic signed [PRODUCT_BITS:0] addend;
    logic signed [ACC_BITS-1:0] start, next;
    logic outside;

    assign wide_a = PRODUCT_BITS'($signed({A_SIGNED != 0 && a[A_BITS-1], a}));
    assign wide_b = PRODUCT_BITS'($signed({B_SIGNED != 0 && b[B_BITS-1], b}));
    assign product = ((wide_a * wide_b) & ~PRODUCT_BITS'(BUG == 4)) <<< LEFT;
    assign start = clear ? '0 : acc;

    round_shift #(.BITS(PRODUCT_BITS), .SHIFT(DROPPED), .BUG(BUG)) round (
        .value(product), .rounding, .rounded(addend)
    );
    bounded_add #(.BITS(ACC_BITS), .ADDEND_BITS(PRODUCT_BITS + 1), .BUG(BUG)) add (
        .acc(start), .addend, .wrap, .sum(next), .outside
    );

    always_ff @(posedge clk) begin
        if (clear || valid) begin
            acc <= valid ? next : '0;
            overflows <= (clear ? 0 : overflows) + 32'(valid && outside);
        end
    end
endmodule
