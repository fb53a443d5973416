"""Small SystemVerilog units with their benches, and the harness that runs them."""
