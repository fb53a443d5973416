// Every value of one input format, in every mode, into every output format of at most OUT_BITS_MAX bits at every
// shift.  +dump=FILE: one hexadecimal word {flushed, above, below, code} a line, the last of overflow, rounding,
// value, output bits, output sign and shift running fastest.
module requantize_sweep_tb;
    parameter int IN_BITS      = 6;
    parameter bit IN_SIGNED    = 1;
    parameter int OUT_BITS_MAX = 6;
    parameter int SHIFT_MIN    = -4;
    parameter int SHIFT_MAX    = 8;
    parameter int BUG          = 0;

    localparam int SHIFTS = SHIFT_MAX - SHIFT_MIN + 1;
    localparam int UNITS = OUT_BITS_MAX * 2 * SHIFTS;
    localparam int ROUNDINGS = 11;
    localparam int OVERFLOWS = 4;

    logic [IN_BITS-1:0] value;
    logic [3:0] rounding;
    logic [1:0] overflow;
    logic [OUT_BITS_MAX+2:0] words[UNITS];

    for (genvar bits = 1; bits <= OUT_BITS_MAX; bits++) begin : g_bits
        for (genvar sign = 0; sign < 2; sign++) begin : g_sign
            for (genvar shift = 0; shift < SHIFTS; shift++) begin : g_shift
                logic [bits-1:0] code;
                logic below, above, flushed;
                requantize #(
                    .IN_BITS(IN_BITS), .OUT_BITS(bits), .IN_SIGNED(IN_SIGNED), .OUT_SIGNED(sign),
                    .SHIFT(SHIFT_MIN + shift), .BUG(BUG)
                ) unit (.value, .rounding, .overflow, .code, .below, .above, .flushed);
                assign words[((bits-1)*2+sign)*SHIFTS+shift] = {flushed, above, below, OUT_BITS_MAX'(code)};
            end
        end
    end

    initial begin
        string name;
        int file;
        if (!$value$plusargs("dump=%s", name)) $fatal(1, "+dump=FILE is missing");
        file = $fopen(name, "w");
        for (int o = 0; o < OVERFLOWS; o++) begin
            for (int r = 0; r < ROUNDINGS; r++) begin
                for (int v = 0; v < 1 << IN_BITS; v++) begin
                    overflow = 2'(o);
                    rounding = 4'(r);
                    value = IN_BITS'(v);
                    #1;
                    for (int unit = 0; unit < UNITS; unit++) $fdisplay(file, "%h", words[unit]);
                end
            end
        end
        $fclose(file);
        $finish;
    end
endmodule
