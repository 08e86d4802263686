"""What measures the product: developers' scripts, and the suite behind `make bench`. Not in the image."""
