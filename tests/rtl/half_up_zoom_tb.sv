// For every pair of signed 8-bit codes a and b with 4 fraction bits, the first the slower: a itself, a * b and a + b, exact,
// each by half_up_zoom to OUT_INT and OUT_FRAC.  +codes receives the three codes a line.
`include "bench.svh"

module half_up_zoom_tb;
    parameter int OUT_INT  = 4;
    parameter int OUT_FRAC = 2;
    parameter int ROUND    = 1;

    localparam int OUT_BITS = OUT_INT + OUT_FRAC;

    logic signed [7:0] a, b;
    logic signed [15:0] product;
    logic signed [8:0] sum;
    logic signed [OUT_BITS-1:0] zoomed, multiplied, added;
    logic zoomed_outside, multiplied_outside, added_outside;

    assign product = 16'(a) * 16'(b);
    assign sum = 9'(a) + 9'(b);

    half_up_zoom #(.IN_INT(4), .IN_FRAC(4), .OUT_INT(OUT_INT), .OUT_FRAC(OUT_FRAC), .ROUND(ROUND)) zoom (
        .value(a), .code(zoomed), .outside(zoomed_outside)
    );
    half_up_zoom #(.IN_INT(8), .IN_FRAC(8), .OUT_INT(OUT_INT), .OUT_FRAC(OUT_FRAC), .ROUND(ROUND)) multiply (
        .value(product), .code(multiplied), .outside(multiplied_outside)
    );
    half_up_zoom #(.IN_INT(5), .IN_FRAC(4), .OUT_INT(OUT_INT), .OUT_FRAC(OUT_FRAC), .ROUND(ROUND)) add (
        .value(sum), .code(added), .outside(added_outside)
    );

    initial begin
        string name;
        int codes_file;
        `OPEN("codes=%s", codes_file)
        for (int i = -128; i < 128; i++) begin
            for (int j = -128; j < 128; j++) begin
                a = 8'(i);
                b = 8'(j);
                #1 $fdisplay(codes_file, "%h %h %h", zoomed, multiplied, added);
            end
        end
        $fclose(codes_file);
        $finish;
    end
endmodule
