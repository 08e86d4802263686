"""What calls cost, and what holds them back: prices, meters, rules. Pure: no I/O, no clock, no database."""
