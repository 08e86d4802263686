"""The geometry of the report's charts: where lines, dots, bars and labels stand. The template draws them."""
