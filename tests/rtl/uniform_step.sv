// One SGD step a cycle of two fully connected layers, in one signed format of BITS bits, FRAC of them fraction bits: every
// product is cut to FRAC fraction bits (floor) and to BITS bits (wrap), and every sum to BITS bits.
//   hidden = leaky ReLU of slope 2**-SLOPE;  loss = half the squared error, averaged over 2**LOG_BATCH samples
// Parameters are w1 (INPUTS, HIDDEN), b1, w2 (HIDDEN, OUTPUTS), b2, one after the other, row-major, the first in the low bits.
// weight_update moves each of them: another update has its place there.
module uniform_step #(
    parameter int BITS      = 16,
    parameter int FRAC      = 8,
    parameter int INPUTS    = 3,
    parameter int HIDDEN    = 4,
    parameter int OUTPUTS   = 2,
    parameter int LOG_BATCH = 1,
    parameter int SLOPE     = 3,
    parameter int MANTISSA  = 32768,  // of the learning rate, 16 bits
    parameter int EXPONENT  = -3,     // see weight_update
    parameter int BUG       = 0,      // 1: products rounded half up, not floor; 2: the slope's gradient is not cut
    parameter int COUNT     = INPUTS * HIDDEN + HIDDEN + HIDDEN * OUTPUTS + OUTPUTS
) (
    input  logic                                    clk,
    input  logic                                    load,     // take `initial_parameters`, accumulators 0
    input  logic [COUNT*BITS-1:0]                   initial_parameters,
    input  logic [(INPUTS*BITS<<LOG_BATCH)-1:0]     samples,  // (batch, INPUTS)
    input  logic [(OUTPUTS*BITS<<LOG_BATCH)-1:0]    targets,  // (batch, OUTPUTS)
    output logic [(OUTPUTS*BITS<<LOG_BATCH)-1:0]    outputs,  // before the update
    output logic [COUNT*BITS-1:0]                   parameters,
    output logic [COUNT*BITS-1:0]                   accumulators
);
    localparam int BATCH = 1 << LOG_BATCH;
    localparam int B1 = INPUTS * HIDDEN;
    localparam int W2 = B1 + HIDDEN;
    localparam int B2 = W2 + HIDDEN * OUTPUTS;

    typedef logic signed [BITS-1:0] code_t;

    function automatic code_t multiply(input code_t a, input code_t b);
        logic signed [2*BITS-1:0] product;
        product = (2*BITS)'(a) * (2*BITS)'(b);
        if (BUG == 1) product = product + ((2*BITS)'(1) << (FRAC - 1));
        return product[FRAC+:BITS];
    endfunction

    function automatic code_t leak(input logic positive, input code_t value);
        return positive ? value : value >>> SLOPE;
    endfunction

    function automatic code_t mean(input code_t output_code, input code_t target);
        logic signed [BITS:0] difference;
        difference = (BITS + 1)'(output_code) - (BITS + 1)'(target);
        difference = difference >>> LOG_BATCH;
        return difference[BITS-1:0];
    endfunction

    function automatic code_t back(input logic positive, input code_t value);
        return BUG == 2 && !positive ? (value + (code_t'(1) <<< (SLOPE - 1))) >>> SLOPE : leak(positive, value);
    endfunction

    logic [BATCH*HIDDEN*BITS-1:0] sums, hidden, hidden_grads;
    logic [BATCH*OUTPUTS*BITS-1:0] output_grads;
    logic [COUNT*BITS-1:0] grads, new_parameters, new_accumulators;
    code_t total;

    always_comb begin
        for (int n = 0; n < BATCH; n++) begin
            for (int j = 0; j < HIDDEN; j++) begin
                total = 0;
                for (int k = 0; k < INPUTS; k++)
                    total = total + multiply(samples[BITS*(n*INPUTS+k)+:BITS], parameters[BITS*(k*HIDDEN+j)+:BITS]);
                total = total + $signed(parameters[BITS*(B1+j)+:BITS]);
                sums[BITS*(n*HIDDEN+j)+:BITS] = total;
                hidden[BITS*(n*HIDDEN+j)+:BITS] = leak(total > 0, total);
            end
            for (int o = 0; o < OUTPUTS; o++) begin
                total = 0;
                for (int j = 0; j < HIDDEN; j++)
                    total = total
                        + multiply(hidden[BITS*(n*HIDDEN+j)+:BITS], parameters[BITS*(W2+j*OUTPUTS+o)+:BITS]);
                total = total + $signed(parameters[BITS*(B2+o)+:BITS]);
                outputs[BITS*(n*OUTPUTS+o)+:BITS] = total;
                output_grads[BITS*(n*OUTPUTS+o)+:BITS] = mean(total, targets[BITS*(n*OUTPUTS+o)+:BITS]);
            end
            for (int j = 0; j < HIDDEN; j++) begin
                total = 0;
                for (int o = 0; o < OUTPUTS; o++)
                    total = total
                        + multiply(output_grads[BITS*(n*OUTPUTS+o)+:BITS], parameters[BITS*(W2+j*OUTPUTS+o)+:BITS]);
                hidden_grads[BITS*(n*HIDDEN+j)+:BITS] = back($signed(sums[BITS*(n*HIDDEN+j)+:BITS]) > 0, total);
            end
        end
        for (int j = 0; j < HIDDEN; j++) begin
            for (int k = 0; k < INPUTS; k++) begin
                total = 0;
                for (int n = 0; n < BATCH; n++)
                    total = total
                        + multiply(samples[BITS*(n*INPUTS+k)+:BITS], hidden_grads[BITS*(n*HIDDEN+j)+:BITS]);
                grads[BITS*(k*HIDDEN+j)+:BITS] = total;
            end
            total = 0;
            for (int n = 0; n < BATCH; n++) total = total + $signed(hidden_grads[BITS*(n*HIDDEN+j)+:BITS]);
            grads[BITS*(B1+j)+:BITS] = total;
        end
        for (int o = 0; o < OUTPUTS; o++) begin
            for (int j = 0; j < HIDDEN; j++) begin
                total = 0;
                for (int n = 0; n < BATCH; n++)
                    total = total
                        + multiply(hidden[BITS*(n*HIDDEN+j)+:BITS], output_grads[BITS*(n*OUTPUTS+o)+:BITS]);
                grads[BITS*(W2+j*OUTPUTS+o)+:BITS] = total;
            end
            total = 0;
            for (int n = 0; n < BATCH; n++) total = total + $signed(output_grads[BITS*(n*OUTPUTS+o)+:BITS]);
            grads[BITS*(B2+o)+:BITS] = total;
        end
    end

    for (genvar i = 0; i < COUNT; i++) begin : g_update
        // verilator lint_off UNUSEDSIGNAL
        logic weight_clipped, acc_clipped, flushed, stopped;
        // verilator lint_on UNUSEDSIGNAL
        weight_update #(
            .W_BITS(BITS), .ACC_BITS(BITS), .GRAD_BITS(BITS), .MANTISSA_BITS(16), .EXPONENT(EXPONENT)
        ) mover (
            .weight(parameters[BITS*i+:BITS]), .acc(accumulators[BITS*i+:BITS]), .grad(grads[BITS*i+:BITS]),
            .mantissa(16'(MANTISSA)), .rounding(modes::FLOOR),
            .new_weight(new_parameters[BITS*i+:BITS]), .new_acc(new_accumulators[BITS*i+:BITS]),
            .weight_clipped, .acc_clipped, .flushed, .stopped
        );
    end

    always_ff @(posedge clk) begin
        parameters <= load ? initial_parameters : new_parameters;
        accumulators <= load ? '0 : new_accumulators;
    end
endmodule
