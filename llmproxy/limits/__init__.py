"""What calls cost. Pure: no I/O, no clock, no database."""
