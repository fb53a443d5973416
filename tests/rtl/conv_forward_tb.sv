// conv_forward on the files +activations, +weights and +bias; writes +preactivations, +mask, +codes, +flags ({flushed,
// above, below}) and +overflows, one element a line.
`include "bench.svh"

module conv_forward_tb;
    parameter int BATCH            = 1;
    parameter int HEIGHT           = 4;
    parameter int WIDTH            = 4;
    parameter int CHANNELS         = 1;
    parameter int FILTERS          = 1;
    parameter int KERNEL           = 3;
    parameter int STRIDE           = 1;
    parameter int PADDING          = 0;
    parameter int A_BITS           = 8;
    parameter int A_SIGNED         = 0;
    parameter int W_BITS           = 8;
    parameter int BIAS_BITS        = 16;
    parameter int PRODUCT_SHIFT    = 0;
    parameter int PRODUCT_ROUNDING = 0;
    parameter int ACC_BITS         = 24;
    parameter int ACC_WRAP         = 0;
    parameter int BIAS_SHIFT       = 0;
    parameter int Z_BITS           = 24;
    parameter int RELU             = 1;
    parameter int RELU_BITS        = 16;
    parameter int OUT_BITS         = 8;
    parameter int OUT_SIGNED       = 0;
    parameter int SHIFT            = 8;
    parameter int ROUNDING         = 6;
    parameter int OVERFLOW         = 0;
    parameter int BUG              = 0;

    logic clk = 0, start = 1;
    logic [A_BITS-1:0] activations[BATCH*HEIGHT*WIDTH*CHANNELS];
    logic [W_BITS-1:0] weights[KERNEL*KERNEL*CHANNELS*FILTERS];
    logic [BIAS_BITS-1:0] biases[FILTERS];
    logic [31:0] activation_address, weight_address, bias_address, overflows;
    logic out_valid, mask, busy, below, above, flushed;
    logic signed [Z_BITS-1:0] preactivation;
    logic [OUT_BITS-1:0] code;

    conv_forward #(
        .BATCH(BATCH), .HEIGHT(HEIGHT), .WIDTH(WIDTH), .CHANNELS(CHANNELS), .FILTERS(FILTERS), .KERNEL(KERNEL),
        .STRIDE(STRIDE), .PADDING(PADDING), .A_BITS(A_BITS), .A_SIGNED(A_SIGNED), .W_BITS(W_BITS),
        .BIAS_BITS(BIAS_BITS), .PRODUCT_SHIFT(PRODUCT_SHIFT), .BIAS_SHIFT(BIAS_SHIFT), .ACC_BITS(ACC_BITS),
        .Z_BITS(Z_BITS), .RELU(RELU), .RELU_BITS(RELU_BITS), .OUT_BITS(OUT_BITS), .OUT_SIGNED(OUT_SIGNED),
        .SHIFT(SHIFT), .BUG(BUG)
    ) layer (
        .clk, .start, .product_rounding(4'(PRODUCT_ROUNDING)), .wrap(ACC_WRAP != 0), .rounding(4'(ROUNDING)),
        .overflow(2'(OVERFLOW)), .activation_address, .activation(activations[activation_address]),
        .weight_address, .weight(weights[weight_address]), .bias_address, .bias(biases[bias_address]),
        .out_valid, .preactivation, .mask, .code, .below, .above, .flushed, .overflows,
        .busy
    );

    initial begin
        string name;
        int preactivations_file, mask_file, codes_file, flags_file, overflows_file;
        `LOAD("activations=%s", activations)
        `LOAD("weights=%s", weights)
        `LOAD("bias=%s", biases)
        `OPEN("preactivations=%s", preactivations_file)
        `OPEN("mask=%s", mask_file)
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
                $fdisplay(preactivations_file, "%h", preactivation);
                $fdisplay(mask_file, "%h", mask);
                $fdisplay(codes_file, "%h", code);
                $fdisplay(flags_file, "%h", {flushed, above, below});
                $fdisplay(overflows_file, "%h", overflows);
            end
        end
        $fclose(preactivations_file);
        $fclose(mask_file);
        $fclose(codes_file);
        $fclose(flags_file);
        $fclose(overflows_file);
        $finish;
    end
endmodule
