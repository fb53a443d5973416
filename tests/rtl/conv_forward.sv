// A convolution layer's forward pass: Z = conv(A, W) + b in one accumulator, terms in the order channel, kernel row,
// kernel column, then the bias; ReLU; one requantization.  An output every KERNEL * KERNEL * CHANNELS cycles, in the
// row-major order of (N, OH, OW, O).  Layouts: activations (N, H, W, C), weights (KH, KW, C, O).  A dense layer has
// HEIGHT = WIDTH = KERNEL = 1.
module conv_forward #(
    parameter int BATCH         = 1,
    parameter int HEIGHT        = 4,
    parameter int WIDTH         = 4,
    parameter int CHANNELS      = 1,
    parameter int FILTERS       = 1,
    parameter int KERNEL        = 3,
    parameter int STRIDE        = 1,
    parameter int PADDING       = 0,
    parameter int A_BITS        = 8,   // activations
    parameter int A_SIGNED      = 0,
    parameter int W_BITS        = 8,
    parameter int BIAS_BITS     = 16,
    parameter int PRODUCT_SHIFT = 0,   // from the products' step to that of Z: bits dropped, or appended if negative
    parameter int BIAS_SHIFT    = 0,   // bits appended to the bias to bring it to the step of Z
    parameter int ACC_BITS      = 24,
    parameter int Z_BITS        = 24,  // of the pre-activations shown, at least ACC_BITS
    parameter int RELU          = 1,
    parameter int RELU_BITS     = 16,  // the ReLU's range is 0 to 2**RELU_BITS steps of Z
    parameter int OUT_BITS      = 8,
    parameter int OUT_SIGNED    = 0,
    parameter int SHIFT         = 8,   // from the step of Z to the output's
    // 1 and 2: see requantize; 3 and 4: see saturating_mac; 5: the order is kernel row, kernel column, channel, bias
    parameter int BUG           = 0
) (
    input  logic                        clk,
    input  logic                        start,
    input  logic        [3:0]           product_rounding,
    input  logic                        wrap,
    input  logic        [3:0]           rounding,
    input  logic        [1:0]           overflow,
    output logic        [31:0]          activation_address,
    input  logic        [A_BITS-1:0]    activation,
    output logic        [31:0]          weight_address,
    input  logic signed [W_BITS-1:0]    weight,
    output logic        [31:0]          bias_address,
    input  logic signed [BIAS_BITS-1:0] bias,
    output logic                        out_valid,
    output logic signed [Z_BITS-1:0]    preactivation,
    output logic                        mask,       // 1 where the gradient passes: 0 < Z < 2**RELU_BITS, or no ReLU
    output logic        [OUT_BITS-1:0]  code,
    output logic                        below,
    output logic                        above,
    output logic                        flushed,
    output logic        [31:0]          overflows,  // additions of this output that left the accumulator's range
    output logic                        busy
);
    // verilator lint_off WIDTHCONCAT
    localparam int ROWS = (HEIGHT + 2 * PADDING - KERNEL) / STRIDE + 1;
    localparam int COLUMNS = (WIDTH + 2 * PADDING - KERNEL) / STRIDE + 1;
    localparam int WIDE = (ACC_BITS > RELU_BITS ? ACC_BITS : RELU_BITS) + 2;
    localparam int PRODUCTS_BUG = BUG == 3 || BUG == 4 ? BUG : 0;
    localparam logic [95:0] TERMS = BUG == 5 ? {KERNEL, KERNEL, CHANNELS} : {CHANNELS, KERNEL, KERNEL};

    logic [31:0] n, oy, ox, o, c, ky, kx, iy, ix, finished;
    logic [95:0] term;
    logic covered;
    logic signed [ACC_BITS-1:0] sum, z, clipped;
    logic [31:0] product_overflows;
    logic bias_outside;

    dot_products #(
        .LEVELS(7), .INNER(3), .LIMITS({BATCH, ROWS, COLUMNS, FILTERS, TERMS}), .A_BITS(A_BITS), .B_BITS(W_BITS),
        .A_SIGNED(A_SIGNED), .B_SIGNED(1), .PRODUCT_SHIFT(PRODUCT_SHIFT), .ACC_BITS(ACC_BITS), .BUG(PRODUCTS_BUG)
    ) products (
        .clk, .start, .indices({n, oy, ox, o, term}), .a(covered ? activation : '0), .b(weight),
        .rounding(product_rounding), .wrap, .sum, .overflows(product_overflows), .sum_valid(out_valid), .busy
    );

    assign {c, ky, kx} = BUG == 5 ? {term[31:0], term[95:32]} : term;
    assign iy = oy * STRIDE + ky - PADDING;  // wraps to a large number above the border
    assign ix = ox * STRIDE + kx - PADDING;
    assign covered = iy < HEIGHT && ix < WIDTH;
    assign activation_address = covered ? ((n * HEIGHT + iy) * WIDTH + ix) * CHANNELS + c : 0;
    assign weight_address = ((ky * KERNEL + kx) * CHANNELS + c) * FILTERS + o;
    assign bias_address = finished;

    always_ff @(posedge clk) finished <= o;

    bounded_add #(.BITS(ACC_BITS), .ADDEND_BITS(BIAS_BITS + BIAS_SHIFT), .BUG(PRODUCTS_BUG)) add_bias (
        .acc(sum), .addend((BIAS_BITS + BIAS_SHIFT)'(bias) <<< BIAS_SHIFT), .wrap, .sum(z),
        .outside(bias_outside)
    );
    assign overflows = product_overflows + 32'(bias_outside);
    assign preactivation = Z_BITS'(z);
    assign mask = RELU == 0 || (z > 0 && WIDE'(z) < (WIDE'(1) << RELU_BITS));
    assign clipped = RELU != 0 && z < 0 ? '0 : z;

    requantize #(
        .IN_BITS(ACC_BITS), .OUT_BITS(OUT_BITS), .IN_SIGNED(1), .OUT_SIGNED(OUT_SIGNED), .SHIFT(SHIFT),
        .BUG(BUG == 1 || BUG == 2 ? BUG : 0)
    ) to_output (.value(clipped), .rounding, .overflow, .code, .below, .above, .flushed);
endmodule
