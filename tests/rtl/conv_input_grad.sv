// The gradient of a convolution layer's input: each product of the forward pass sends g * w to its input.  An output
// every KERNEL * KERNEL * FILTERS cycles, in the row-major order of (N, H, W, C); terms ascend in output channel,
// kernel row, kernel column.
module conv_input_grad #(
    parameter int BATCH         = 1,
    parameter int HEIGHT        = 4,   // of the layer's input
    parameter int WIDTH         = 4,
    parameter int CHANNELS      = 1,
    parameter int FILTERS       = 1,
    parameter int KERNEL        = 3,
    parameter int STRIDE        = 1,
    parameter int PADDING       = 0,
    parameter int G_BITS        = 8,   // gradient at the pre-activations
    parameter int W_BITS        = 8,
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
    output logic        [31:0]         grad_address,
    input  logic signed [G_BITS-1:0]   grad,
    output logic        [31:0]         weight_address,
    input  logic signed [W_BITS-1:0]   weight,
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

    logic [31:0] n, iy, ix, c, o, ky, kx, y, x, oy, ox;
    logic covered;

    dot_products #(
        .LEVELS(7), .INNER(3), .LIMITS({BATCH, HEIGHT, WIDTH, CHANNELS, FILTERS, KERNEL, KERNEL}), .A_BITS(G_BITS),
        .B_BITS(W_BITS), .A_SIGNED(1), .B_SIGNED(1), .PRODUCT_SHIFT(PRODUCT_SHIFT), .ACC_BITS(ACC_BITS),
        .BUG(BUG == 3 || BUG == 4 ? BUG : 0)
    ) products (
        .clk, .start, .indices({n, iy, ix, c, o, ky, kx}), .a(covered ? grad : '0), .b(weight),
        .rounding(product_rounding), .wrap, .sum, .overflows, .sum_valid(out_valid), .busy
    );

    assign y = iy + PADDING - ky;  // STRIDE times the output row; wraps to a large number above the border
    assign x = ix + PADDING - kx;
    assign oy = y / STRIDE;
    assign ox = x / STRIDE;
    assign covered = oy < ROWS && ox < COLUMNS && y == oy * STRIDE && x == ox * STRIDE;
    assign grad_address = covered ? ((n * ROWS + oy) * COLUMNS + ox) * FILTERS + o : 0;
    assign weight_address = ((ky * KERNEL + kx) * CHANNELS + c) * FILTERS + o;

    requantize #(
        .IN_BITS(ACC_BITS), .OUT_BITS(OUT_BITS), .IN_SIGNED(1), .OUT_SIGNED(1), .SHIFT(SHIFT),
        .BUG(BUG == 1 || BUG == 2 ? BUG : 0)
    ) to_output (.value(sum), .rounding, .overflow, .code, .below, .above, .flushed);
endmodule
