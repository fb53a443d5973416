// A sequence of dot products, one multiply-accumulate a cycle.  LEVELS nested loops, the last index fastest; the INNER
// last of them run over the terms of one sum, in that order.  The surroundings give `a` and `b` for `indices`.
module dot_products #(
    parameter int LEVELS                   = 7,
    parameter int INNER                    = 3,
    parameter logic [LEVELS*32-1:0] LIMITS = '0,  // {outermost, ..., innermost}, each at least 1
    parameter int A_BITS                   = 8,
    parameter int B_BITS                   = 8,
    parameter int A_SIGNED                 = 1,
    parameter int B_SIGNED                 = 1,
    parameter int PRODUCT_SHIFT            = 0,
    parameter int ACC_BITS                 = 24,
    parameter int BUG                      = 0    // see saturating_mac
) (
    input  logic                       clk,
    input  logic                       start,
    output logic [LEVELS*32-1:0]       indices,
    input  logic [A_BITS-1:0]          a,
    input  logic [B_BITS-1:0]          b,
    input  logic [3:0]                 rounding,
    input  logic                       wrap,
    output logic signed [ACC_BITS-1:0] sum,
    output logic [31:0]                overflows,
    output logic                       sum_valid,
    output logic                       busy
);
    logic [LEVELS-1:0] at_limit, carry;
    logic running;

    for (genvar i = 0; i < LEVELS; i++) begin : g_level
        assign at_limit[i] = indices[32*i+:32] == LIMITS[32*i+:32] - 1;
        if (i == 0) begin : g_innermost
            assign carry[i] = 1'b1;
        end else begin : g_outer
            assign carry[i] = &at_limit[i-1:0];
        end
        always_ff @(posedge clk) begin
            if (start) indices[32*i+:32] <= 0;
            else if (carry[i]) indices[32*i+:32] <= at_limit[i] ? 0 : indices[32*i+:32] + 1;
        end
    end

    always_ff @(posedge clk) begin
        running <= start || (running && !(&at_limit));
        sum_valid <= running && !start && &at_limit[INNER-1:0];
    end
    assign busy = running || sum_valid;

    saturating_mac #(
        .A_BITS(A_BITS), .B_BITS(B_BITS), .A_SIGNED(A_SIGNED), .B_SIGNED(B_SIGNED), .SHIFT(PRODUCT_SHIFT),
        .ACC_BITS(ACC_BITS), .BUG(BUG)
    ) mac (
        .clk, .clear(indices[INNER*32-1:0] == 0), .valid(running), .a, .b, .rounding, .wrap, .acc(sum), .overflows
    );
endmodule
