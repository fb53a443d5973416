// One SGD step a cycle of two fully connected layers, in one signed format of BITS bits, FRAC of them fraction bits: every
// product is cut to FRAC fraction bits (floor) and to BITS bits (wrap), and every sum to BITS bits.
//   hidden = leaky ReLU of slope 2**-SLOPE;  loss = half the squared error, averaged over 2**LOG_BATCH samples
// Parameters are w1 (INPUTS, HIDDEN), b1, w2 (HIDDEN, OUTPUTS), b2, one after the other, row-major, the first in the low bits.
// The update is parameter - RATE * gradient, two more operations, without anything below the parameter's step.
// With RANDOM_BITS above 0, RATE * gradient is rounded stochastically, by so many low bits of a shift register that each
// parameter has; registers are clocked with clk, parameters only where `move` is high.
module uniform_step #(
    parameter int BITS      = 16,
    parameter int FRAC      = 8,
    parameter int INPUTS    = 3,
    parameter int HIDDEN    = 4,
    parameter int OUTPUTS   = 2,
    parameter int LOG_BATCH = 1,
    parameter int SLOPE     = 3,
    parameter int RATE      = 16,  // the learning rate, a code of the format
    parameter int RANDOM_BITS = 0, // at most FRAC
    parameter int WIDTH     = 16,  // of the shift registers
    parameter int TAPS      = 'hD008,
    // 1: products rounded half up, not floor; 2: the slope's gradient is not cut; 3: parameters saturate, not wrap;
    // 4: the registers stand still
    parameter int BUG       = 0,
    parameter int COUNT     = INPUTS * HIDDEN + HIDDEN + HIDDEN * OUTPUTS + OUTPUTS
) (
    input  logic                                    clk,
    input  logic                                    load,     // take `initial_parameters` and `seeds`
    input  logic                                    move,     // take the parameters that the step makes
    input  logic [COUNT*BITS-1:0]                   initial_parameters,
    // verilator lint_off UNUSEDSIGNAL
    input  logic [COUNT*WIDTH-1:0]                  seeds,    // where RANDOM_BITS is above 0
    // verilator lint_on UNUSEDSIGNAL
    input  logic [(INPUTS*BITS<<LOG_BATCH)-1:0]     samples,  // (batch, INPUTS)
    input  logic [(OUTPUTS*BITS<<LOG_BATCH)-1:0]    targets,  // (batch, OUTPUTS)
    output logic [(OUTPUTS*BITS<<LOG_BATCH)-1:0]    outputs,  // before the update
    output logic [COUNT*BITS-1:0]                   parameters
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
    logic [COUNT*BITS-1:0] grads, new_parameters;
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
        logic [FRAC-1:0] random;
        code_t update, difference;
        // verilator lint_off UNUSEDSIGNAL
        logic signed [2*BITS-1:0] product;
        // verilator lint_on UNUSEDSIGNAL

        if (RANDOM_BITS > 0) begin : g_random
            // verilator lint_off UNUSEDSIGNAL
            logic [WIDTH-1:0] state;
            // verilator lint_on UNUSEDSIGNAL
            lfsr #(.WIDTH(WIDTH), .TAPS(TAPS)) register (
                .clk, .load, .enable(BUG != 4), .seed(seeds[WIDTH*i+:WIDTH]), .state
            );
            assign random = FRAC'(state[RANDOM_BITS-1:0]) << (FRAC - RANDOM_BITS);
        end else begin : g_floor
            assign random = '0;
        end

        assign product = (2*BITS)'($signed(grads[BITS*i+:BITS])) * (2*BITS)'(RATE) + $signed((2*BITS)'(random));
        assign update = product[FRAC+:BITS];
        assign difference = $signed(parameters[BITS*i+:BITS]) - update;
        if (BUG == 3) begin : g_saturating
            logic signed [BITS:0] wide;
            assign wide = (BITS + 1)'($signed(parameters[BITS*i+:BITS])) - (BITS + 1)'(update);
            assign new_parameters[BITS*i+:BITS] =
                wide[BITS] == wide[BITS-1] ? difference : {wide[BITS], {(BITS - 1) {!wide[BITS]}}};
        end else begin : g_wrapping
            assign new_parameters[BITS*i+:BITS] = difference;
        end
    end

    always_ff @(posedge clk) if (load || move) parameters <= load ? initial_parameters : new_parameters;
endmodule
