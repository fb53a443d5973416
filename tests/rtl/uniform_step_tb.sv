// STEPS training steps from the parameters of the file +parameters, on the samples of +samples (step, batch, input) and the
// targets of +targets (step, batch, output).  After each step +outputs receives its outputs, +codes the parameters and
// +rests their accumulators, a code a line.
`include "bench.svh"

module uniform_step_tb;
    parameter int STEPS     = 1;
    parameter int BITS      = 16;
    parameter int FRAC      = 8;
    parameter int INPUTS    = 3;
    parameter int HIDDEN    = 4;
    parameter int OUTPUTS   = 2;
    parameter int LOG_BATCH = 1;
    parameter int SLOPE     = 3;
    parameter int MANTISSA  = 32768;
    parameter int EXPONENT  = -3;
    parameter int BUG       = 0;

    localparam int COUNT = INPUTS * HIDDEN + HIDDEN + HIDDEN * OUTPUTS + OUTPUTS;
    localparam int READ = INPUTS << LOG_BATCH;
    localparam int MADE = OUTPUTS << LOG_BATCH;

    logic clk = 0;
    logic load = 1;
    logic [BITS-1:0] first[COUNT], sample_codes[STEPS*READ], target_codes[STEPS*MADE];
    logic [COUNT*BITS-1:0] initial_parameters, parameters, accumulators;
    logic [READ*BITS-1:0] samples;
    logic [MADE*BITS-1:0] targets, outputs;

    uniform_step #(
        .BITS(BITS), .FRAC(FRAC), .INPUTS(INPUTS), .HIDDEN(HIDDEN), .OUTPUTS(OUTPUTS), .LOG_BATCH(LOG_BATCH),
        .SLOPE(SLOPE), .MANTISSA(MANTISSA), .EXPONENT(EXPONENT), .BUG(BUG)
    ) step (.clk, .load, .initial_parameters, .samples, .targets, .outputs, .parameters, .accumulators);

    initial begin
        string name;
        int outputs_file, codes_file, rests_file;
        `LOAD("parameters=%s", first)
        `LOAD("samples=%s", sample_codes)
        `LOAD("targets=%s", target_codes)
        `OPEN("outputs=%s", outputs_file)
        `OPEN("codes=%s", codes_file)
        `OPEN("rests=%s", rests_file)
        for (int i = 0; i < COUNT; i++) initial_parameters[BITS*i+:BITS] = first[i];
        samples = '0;
        targets = '0;
        #1 clk = 1;
        #1 clk = 0;
        load = 0;
        for (int s = 0; s < STEPS; s++) begin
            for (int i = 0; i < READ; i++) samples[BITS*i+:BITS] = sample_codes[s*READ+i];
            for (int i = 0; i < MADE; i++) targets[BITS*i+:BITS] = target_codes[s*MADE+i];
            #1;
            for (int i = 0; i < MADE; i++) $fdisplay(outputs_file, "%h", outputs[BITS*i+:BITS]);
            clk = 1;
            #1 clk = 0;
            for (int i = 0; i < COUNT; i++) begin
                $fdisplay(codes_file, "%h", parameters[BITS*i+:BITS]);
                $fdisplay(rests_file, "%h", accumulators[BITS*i+:BITS]);
            end
        end
        $fclose(outputs_file);
        $fclose(codes_file);
        $fclose(rests_file);
        $finish;
    end
endmodule
