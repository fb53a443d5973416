// The values of the file +values in every mode, into every output format of OUT_BITS_MIN to OUT_BITS_MAX bits at every
// shift from SHIFT_MIN to SHIFT_MAX.  +words receives a word {flushed, above, below, code} a line, in nested order of
// overflow, rounding, value, output bits, output sign and shift, the last fastest.
`include "bench.svh"

module requantize_tb;
    parameter int COUNT        = 64;
    parameter int IN_BITS      = 6;
    parameter int IN_SIGNED    = 1;
    parameter int OUT_BITS_MIN = 1;
    parameter int OUT_BITS_MAX = 6;
    parameter int SHIFT_MIN    = -4;
    parameter int SHIFT_MAX    = 8;
    parameter int BUG          = 0;

    localparam int WIDTHS = OUT_BITS_MAX - OUT_BITS_MIN + 1;
    localparam int SHIFTS = SHIFT_MAX - SHIFT_MIN + 1;
    localparam int FORMATS = WIDTHS * 2 * SHIFTS;
    localparam int ROUNDINGS = 11;
    localparam int OVERFLOWS = 4;

    logic [IN_BITS-1:0] values[COUNT], value;
    logic [3:0] rounding;
    logic [1:0] overflow;
    logic [OUT_BITS_MAX+2:0] words[FORMATS];

    for (genvar width = 0; width < WIDTHS; width++) begin : g_width
        for (genvar sign = 0; sign < 2; sign++) begin : g_sign
            for (genvar shift = 0; shift < SHIFTS; shift++) begin : g_shift
                logic [OUT_BITS_MIN+width-1:0] code;
                logic below, above, flushed;
                requantize #(
                    .IN_BITS(IN_BITS), .OUT_BITS(OUT_BITS_MIN + width), .IN_SIGNED(IN_SIGNED), .OUT_SIGNED(sign),
                    .SHIFT(SHIFT_MIN + shift), .BUG(BUG)
                ) unit (.value, .rounding, .overflow, .code, .below, .above, .flushed);
                assign words[(width*2+sign)*SHIFTS+shift] = {flushed, above, below, OUT_BITS_MAX'(code)};
            end
        end
    end

    initial begin
        string name;
        int words_file;
        `LOAD("values=%s", values)
        `OPEN("words=%s", words_file)
        for (int o = 0; o < OVERFLOWS; o++) begin
            for (int r = 0; r < ROUNDINGS; r++) begin
                for (int v = 0; v < COUNT; v++) begin
                    overflow = 2'(o);
                    rounding = 4'(r);
                    value = values[v];
                    #1;
                    for (int i = 0; i < FORMATS; i++) $fdisplay(words_file, "%h", words[i]);
                end
            end
        end
        $fclose(words_file);
        $finish;
    end
endmodule
