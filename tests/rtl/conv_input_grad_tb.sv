// conv_input_grad on the files +grads (at the pre-activations) and +weights; writes +sums, +codes, +flags
// ({flushed, above, below}) and +overflows, one element a line.
`include "bench.svh"

module conv_input_grad_tb;
    parameter int BATCH            = 1;
    parameter int HEIGHT           = 4;
    parameter int WIDTH            = 4;
    parameter int CHANNELS         = 1;
    parameter int FILTERS          = 1;
    parameter int KERNEL           = 3;
    parameter int STRIDE           = 1;
    parameter int PADDING          = 0;
    parameter int G_BITS           = 8;
    parameter int W_BITS           = 8;
    parameter int PRODUCT_SHIFT    = 0;
    parameter int PRODUCT_ROUNDING = 0;
    parameter int ACC_BITS         = 24;
    parameter int ACC_WRAP         = 0;
    parameter int OUT_BITS         = 8;
    parameter int SHIFT            = 8;
    parameter int ROUNDING         = 6;
    parameter int OVERFLOW         = 0;
    parameter int BUG              = 0;

    localparam int ROWS = (HEIGHT + 2 * PADDING - KERNEL) / STRIDE + 1;
    localparam int COLUMNS = (WIDTH + 2 * PADDING - KERNEL) / STRIDE + 1;

    logic clk = 0, start = 1;
    logic [G_BITS-1:0] grads[BATCH*ROWS*COLUMNS*FILTERS];
    logic [W_BITS-1:0] weights[KERNEL*KERNEL*CHANNELS*FILTERS];
    logic [31:0] grad_address, weight_address, overflows;
    logic out_valid, busy, below, above, flushed;
    logic signed [ACC_BITS-1:0] sum;
    logic [OUT_BITS-1:0] code;

    conv_input_grad #(
        .BATCH(BATCH), .HEIGHT(HEIGHT), .WIDTH(WIDTH), .CHANNELS(CHANNELS), .FILTERS(FILTERS), .KERNEL(KERNEL),
        .STRIDE(STRIDE), .PADDING(PADDING), .G_BITS(G_BITS), .W_BITS(W_BITS), .PRODUCT_SHIFT(PRODUCT_SHIFT),
        .ACC_BITS(ACC_BITS), .OUT_BITS(OUT_BITS), .SHIFT(SHIFT), .BUG(BUG)
    ) layer (
        .clk, .start, .product_rounding(4'(PRODUCT_ROUNDING)), .wrap(ACC_WRAP != 0), .rounding(4'(ROUNDING)),
        .overflow(2'(OVERFLOW)), .grad_address, .grad(grads[grad_address]),
        .weight_address, .weight(weights[weight_address]), .out_valid, .sum, .code, .below, .above, .flushed,
        .overflows, .busy
    );

    initial begin
        string name;
        int sums_file, codes_file, flags_file, overflows_file;
        `LOAD("grads=%s", grads)
        `LOAD("weights=%s", weights)
        `OPEN("sums=%s", sums_file)
        `OPEN("codes=%s", codes_file)
        `OPEN("flags=%s", flags_file)
        `OPEN("overflows=%s", overflows_file)
        #1 clk = 1;
        #1 clk = 0;
        start = 0;
        while (busy) begin
            #1 clk = 1;
            #1 clk = 0;
            if (out_valid) begin
                $fdisplay(sums_file, "%h", sum);
                $fdisplay(codes_file, "%h", code);
                $fdisplay(flags_file, "%h", {flushed, above, below});
                $fdisplay(overflows_file, "%h", overflows);
            end
        end
        $fclose(sums_file);
        $fclose(codes_file);
        $fclose(flags_file);
        $fclose(overflows_file);
        $finish;
    end
endmodule
