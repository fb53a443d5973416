// STEPS training steps from the parameters of the file +parameters, on the samples of +samples (step, batch, input) and the
// targets of +targets (step, batch, output).  After each step +outputs receives its outputs and +codes the parameters, a
// code a line.  With RANDOM_BITS above 0 a register for each parameter starts from +seeds; all are clocked CLOCKS times a
// step, the first time with the parameters.
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
    parameter int RATE      = 16;
    parameter int RANDOM_BITS = 0;
    parameter int WIDTH     = 16;
    parameter int TAPS      = 'hD008;
    parameter int CLOCKS    = 1;
    parameter int BUG       = 0;

    localparam int COUNT = INPUTS * HIDDEN + HIDDEN + HIDDEN * OUTPUTS + OUTPUTS;
    localparam int READ = INPUTS << LOG_BATCH;
    localparam int MADE = OUTPUTS << LOG_BATCH;

    logic clk = 0;
    logic load = 1;
    logic move = 0;
    logic [WIDTH-1:0] states[COUNT];
    logic [COUNT*WIDTH-1:0] seeds;
    logic [BITS-1:0] first[COUNT], sample_codes[STEPS*READ], target_codes[STEPS*MADE];
    logic [COUNT*BITS-1:0] initial_parameters, parameters;
    logic [READ*BITS-1:0] samples;
    logic [MADE*BITS-1:0] targets, outputs;

    uniform_step #(
        .BITS(BITS), .FRAC(FRAC), .INPUTS(INPUTS), .HIDDEN(HIDDEN), .OUTPUTS(OUTPUTS), .LOG_BATCH(LOG_BATCH),
        .SLOPE(SLOPE), .RATE(RATE), .RANDOM_BITS(RANDOM_BITS), .WIDTH(WIDTH), .TAPS(TAPS), .BUG(BUG)
    ) step (.clk, .load, .move, .initial_parameters, .seeds, .samples, .targets, .outputs, .parameters);

    task automatic pulse(input int count);
        for (int i = 0; i < count; i++) begin
            #1 clk = 1;
            #1 clk = 0;
        end
    endtask

    initial begin
        string name;
        int outputs_file, codes_file;
        `LOAD("parameters=%s", first)
        `LOAD("samples=%s", sample_codes)
        `LOAD("targets=%s", target_codes)
        `OPEN("outputs=%s", outputs_file)
        `OPEN("codes=%s", codes_file)
        for (int i = 0; i < COUNT; i++) states[i] = '0;
        if (RANDOM_BITS > 0) begin
            `LOAD("seeds=%s", states)
        end
        for (int i = 0; i < COUNT; i++) begin
            initial_parameters[BITS*i+:BITS] = first[i];
            seeds[WIDTH*i+:WIDTH] = states[i];
        end
        samples = '0;
        targets = '0;
        pulse(1);
        load = 0;
        for (int s = 0; s < STEPS; s++) begin
            for (int i = 0; i < READ; i++) samples[BITS*i+:BITS] = sample_codes[s*READ+i];
            for (int i = 0; i < MADE; i++) targets[BITS*i+:BITS] = target_codes[s*MADE+i];
            #1;
            for (int i = 0; i < MADE; i++) $fdisplay(outputs_file, "%h", outputs[BITS*i+:BITS]);
            move = 1;
            pulse(1);
            move = 0;
            pulse(CLOCKS - 1);
            for (int i = 0; i < COUNT; i++) $fdisplay(codes_file, "%h", parameters[BITS*i+:BITS]);
        end
        $fclose(outputs_file);
        $fclose(codes_file);
        $finish;
    end
endmodule
