// The gradient of a convolution layer's weights, summed over the batch: each product of the forward pass sends a * g
// to its weight.  An output every BATCH * ROWS * COLUMNS cycles, in the row-major order of (KH, KW, C, O); terms
// ascend in image, row, column.
module conv_weight_grad #(
    parameter int BATCH         = 1,
    parameter int HEIGHT        = 4,   // of the layer's input
    parameter int WIDTH         = 4,
    parameter int CHANNELS      = 1,
    parameter int FILTERS       = 1,
    parameter int KERNEL        = 3,
    parameter int STRIDE        = 1,
    parameter int PADDING       = 0,
    parameter int A_BITS        = 8,   // activations
    parameter int A_SIGNED      = 0,
    parameter int G_BITS        = 8,   // gradient at the pre-activations
    parameter int PRODUCT_SHIFT = 0,
    parameter int ACC_BITS      = 24,
    parameter int OUT_BITS      = 8,
    parameter int SHIFT         = 8,   // from the accumulator's step to the output's
    parameter int BUG           = 0    // 1 to 4: see conv_forward
) (
    input  logic                       clk,
    input  logic                       start,
    input  logic        [3:0]          product_rounding,
    input  logic                       wrap,
    input  logic        [3:0]          rounding,
    input  logic        [1:0]          overflow,
    output logic        [31:0]         activation_address,
    input  logic        [A_BITS-1:0]   activation,
    output logic        [31:0]         grad_address,
    input  logic signed [G_BITS-1:0]   grad,
    output logic                       out_valid,
    output logic signed [ACC_BITS-1:0] sum,
    output logic        [OUT_BITS-1:0] code,
    output logic                       below,
    output logic                       above,
    output logic                       flushed,
    output logic        [31:0]         overflows,
    output logic                       busy
);
    // verilator lint_off WIDTHCONCAT
    localparam int ROWS = (HEIGHT + 2 * PADDING - KERNEL) / STRIDE + 1;
    localparam int COLUMNS = (WIDTH + 2 * PADDING - KERNEL) / STRIDE + 1;

    logic [31:0] ky, kx, c, o, n, oy, ox, iy, ix;
    logic covered;

    dot_products #(
        .LEVELS(7), .INNER(3), .LIMITS({KERNEL, KERNEL, CHANNELS, FILTERS, BATCH, ROWS, COLUMNS}), .A_BITS(A_BITS),
        .B_BITS(G_BITS), .A_SIGNED(A_SIGNED), .B_SIGNED(1), .PRODUCT_SHIFT(PRODUCT_SHIFT), .ACC_BITS(ACC_BITS),
        .BUG(BUG == 3 || BUG == 4 ? BUG : 0)
    ) products (
        .clk, .start, .indices({ky, kx, c, o, n, oy, ox}), .a(covered ? activation : '0), .b(grad),
        .rounding(product_rounding), .wrap, .sum, .overflows, .sum_valid(out_valid), .busy
    );

    assign iy = oy * STRIDE + ky - PADDING;  // wraps to a large number above the border
    assign ix = ox * STRIDE + kx - PADDING;
    assign covered = iy < HEIGHT && ix < WIDTH;
    assign activation_address = covered ? ((n * HEIGHT + iy) * WIDTH + ix) * CHANNELS + c : 0;
    assign grad_address = ((n * ROWS + oy) * COLUMNS + ox) * FILTERS + o;

    requantize #(
        .IN_BITS(ACC_BITS), .OUT_BITS(OUT_BITS), .IN_SIGNED(1), .OUT_SIGNED(1), .SHIFT(SHIFT),
        .BUG(BUG == 1 || BUG == 2 ? BUG : 0)
    ) to_output (.value(sum), .rounding, .overflow, .code, .below, .above, .flushed);
endmodule
